//! `whimbrel inspect`: what a file is, without KVM and whatever is wrong with it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use memory::{Backing, GuestRam, Layout, PAGE_SIZE, PageRange, PageSet};
use minicbor::{Decode, Encode};
use serde_json::{Value, json};
use snapshot::{Header, Kind, Target, WriteOptions, Writer};
use state::{Bundle, Saved};
use std::fs::File;
use std::os::unix::fs::FileExt;
use support::Host;
use uuid::Uuid;

const RAM: u64 = 16 << 20;

#[derive(Encode, Decode)]
#[cbor(map)]
struct Thing {
    #[n(0)]
    count: u32,
    #[n(1)]
    name: String,
}

impl Saved for Thing {
    const SCHEMA: &'static str = "whimbrel.thing";
    const VERSION: u16 = 3;
    const LEAST_READER: u16 = 2;
}

/// A snapshot with these pages, each filled with a byte, and a state that has this count.
fn file(host: &Host, name: &str, pages: &[(u64, u8)], count: u32) -> String {
    let ram = GuestRam::new(RAM, Backing::Small).unwrap();
    let header = Header {
        kind: Kind::Snapshot,
        machine: Uuid::from_u128(1),
        name: "inspected".to_owned(),
        snapshot: Uuid::from_u128(2),
        taken: 951_782_400_000_000_000,
        builder: "0.1.0".to_owned(),
        regions: Layout::new(RAM, PAGE_SIZE).unwrap().regions().to_vec(),
        backing: Backing::Small,
        apart: false,
    };
    let path = host.folder().join(name);
    let target = Target::Path { path: path.clone(), offset: 0, force: false };
    let mut state = Bundle::new();
    state.put("left", &Thing { count, name: "a".to_owned() });
    state.put("right", &Thing { count: 1, name: "b".to_owned() });
    let description = Bundle::new().encode();
    let writer =
        Writer::create(target, header, &description, &WriteOptions { direct: false }).unwrap();
    let mut lane = writer.lane();
    for (page, byte) in pages {
        let range = PageRange::new(*page, 1);
        ram.slice(range).unwrap().copy_from(&[*byte; 4096]);
        lane.write(&ram, range).unwrap();
    }
    lane.flush().unwrap();
    writer.finish(&state.encode(), &PageSet::new(ram.pages())).unwrap();
    writer.commit().unwrap();
    path.to_str().unwrap().to_owned()
}

fn answer(said: &str) -> Value {
    serde_json::from_str(said).unwrap()
}

#[test]
fn a_file_says_what_it_is() {
    let host = Host::new();
    let file = file(&host, "a.snap", &[(0, 1), (1, 1), (4095, 2)], 7);
    let said = host.ok(&["inspect", &file]);
    for words in [
        "snapshot, format version 1, x86_64",
        "inspected (00000000-0000-0000-0000-000000000001)",
        "2000-02-29 00:00:00 UTC, by version 0.1.0",
        "complete   yes, since",
        "continued  no",
        "16.0 MiB in pages of 4 KiB, 12.0 KiB of it in the file (3 pages)",
        "thing v3 × 2",
        "one character is 32.0 KiB",
    ] {
        assert!(said.contains(words), "`{words}` is missing:\n{said}");
    }
    let said = answer(&host.ok(&["inspect", &file, "--json"]));
    assert_eq!(said["memory"]["pages"], 3);
    assert_eq!(said["claim"], Value::Null);
    assert_eq!(said["problem"], Value::Null);
    assert_eq!(said["devices"][0]["schema"], "whimbrel.thing");
    assert_eq!(said["devices"][0]["count"], 2);
}

#[test]
fn state_and_pages_are_shown() {
    let host = Host::new();
    let file = file(&host, "a.snap", &[(1, b'A')], 7);
    let said = answer(&host.ok(&["inspect", &file, "--state"]));
    assert_eq!(said["description"], json!([]));
    assert_eq!(said["state"][0]["fields"], json!({ "0": 7, "1": "a" }));
    assert_eq!(said["state"][0]["version"], 3);
    let said = host.ok(&["inspect", &file, "--page", "0x1fff"]);
    assert!(said.contains("000000001000  41 41 41"), "{said}");
    let said = host.ok(&["inspect", &file, "--page", "1M"]);
    assert!(said.contains("not in the file: it is zero"), "{said}");
    let said = host.fails(2, &["inspect", &file, "--page", "16M"]);
    assert!(said.contains("no RAM at 0x1000000"), "{said}");
}

#[test]
fn a_damaged_page_is_named_and_the_status_says_it() {
    let host = Host::new();
    let file = file(&host, "a.snap", &[(1, 1), (2, 2)], 7);
    let said = host.ok(&["inspect", &file, "--verify"]);
    assert!(said.contains("sound: 2 pages"), "{said}");
    let medium = File::options().write(true).open(&file).unwrap();
    medium.write_all_at(&[9], (2 << 20) + 2 * PAGE_SIZE + 77).unwrap();
    let said = host.fails(1, &["inspect", &file, "--verify", "--json"]);
    assert!(said.contains(r#""address":8192"#) && said.contains(r#""pages":2"#), "{said}");
    let said = host.fails(1, &["inspect", &file, "--verify"]);
    assert!(said.contains("page 2, which the guest has at 0x2000"), "{said}");
    let said = host.fails(1, &["inspect", &file, "--page", "0x2000"]);
    assert!(said.contains("is damaged"), "{said}");
}

#[test]
fn an_incomplete_or_newer_file_still_says_what_it_is() {
    let host = Host::new();
    let file = file(&host, "a.snap", &[(1, 1)], 7);
    let medium = File::options().write(true).open(&file).unwrap();
    medium.write_all_at(&[0; 4096], 4096).unwrap();
    let said = host.ok(&["inspect", &file]);
    assert!(said.contains("complete   NO") && said.contains("Cannot be restored"), "{said}");
    assert!(said.contains("inspected"), "{said}");
    let said = answer(&host.ok(&["inspect", &file, "--json"]));
    assert_eq!(said["problem"]["code"], "snapshot-incomplete");
    let said = host.fails(1, &["inspect", &file, "--verify"]);
    assert!(said.contains("incomplete"), "{said}");
    let said = host.fails(3, &["inspect", "/etc/passwd"]);
    assert!(said.contains("not a snapshot"), "{said}");
}

#[test]
fn two_files_are_compared() {
    let host = Host::new();
    let one = file(&host, "a.snap", &[(1, 1), (2, 2), (9, 9)], 7);
    let other = file(&host, "b.snap", &[(1, 1), (2, 3), (3, 4)], 8);
    let said = answer(&host.ok(&["inspect", &one, "--diff", &other, "--json"]));
    let ranges = json!([{ "start": 0x2000, "end": 0x4000 }, { "start": 0x9000, "end": 0xa000 }]);
    assert_eq!(said["pages"], 3);
    assert_eq!(said["ranges"], ranges);
    assert_eq!(said["state"], json!([{ "state": "whimbrel.thing left", "difference": "differs" }]));
    let said = host.ok(&["inspect", &one, "--diff", &one]);
    assert!(said.contains("0 pages differ") && said.contains("state is the same"), "{said}");
}
