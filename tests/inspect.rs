//! `whimbrel inspect`: what a file is, without KVM and whatever is wrong with it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use memory::{Backing, GuestRam, Layout, PAGE_SIZE, PageRange, PageSet};
use minicbor::{Decode, Encode};
use serde_json::{Value, json};
use snapshot::{Claim, Header, Kind, Origin, Reader, Target, WriteOptions, Writer};
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
    of_kind(Kind::Snapshot, host, name, pages, count)
}

/// The file of a saved guest, with one page.
fn saved(host: &Host, name: &str) -> String {
    of_kind(Kind::Save, host, name, &[(1, 1)], 7)
}

fn of_kind(kind: Kind, host: &Host, name: &str, pages: &[(u64, u8)], count: u32) -> String {
    let ram = GuestRam::new(RAM, Backing::Small).unwrap();
    let header = Header {
        kind,
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
fn an_incomplete_file_still_says_what_it_is() {
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

/// Gives a page of a file its checksum, as the format has it.
fn seal(page: &mut [u8]) {
    page[8..12].fill(0);
    let sum = crc_fast::crc32_iscsi(page);
    page[8..12].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_newer_file_still_says_what_it_is_and_is_not_restored() {
    let host = Host::new();
    let file = file(&host, "a.snap", &[(1, 1)], 7);
    let medium = File::options().read(true).write(true).open(&file).unwrap();
    let (mut header, mut mark) = ([0; 4096], [0; 4096]);
    medium.read_exact_at(&mut header, 0).unwrap();
    medium.read_exact_at(&mut mark, 4096).unwrap();
    header[12..16].copy_from_slice(&2u32.to_le_bytes());
    seal(&mut header);
    mark[32..36].copy_from_slice(&crc_fast::crc32_iscsi(&header).to_le_bytes());
    seal(&mut mark);
    medium.write_all_at(&header, 0).unwrap();
    medium.write_all_at(&mark, 4096).unwrap();
    let said = host.ok(&["inspect", &file]);
    for words in ["format version 2", "inspected (00000000", "complete   yes", "Cannot be restored"]
    {
        assert!(said.contains(words), "`{words}` is missing:\n{said}");
    }
    let said = answer(&host.ok(&["inspect", &file, "--json"]));
    assert_eq!((&said["version"], &said["machine"]["name"]), (&json!(2), &json!("inspected")));
    assert_eq!(said["problem"]["code"], "snapshot-unsupported");
    let said = host.fails(3, &["restore", &file, "--console", "off"]);
    assert!(said.contains('2'), "{said}");
}

#[test]
fn no_device_is_needed_to_look_into_a_file() {
    let host = Host::new();
    let file = file(&host, "a.snap", &[(1, 1)], 7);
    for flags in [&[][..], &["--verify"], &["--state"], &["--page", "0x1000"], &["--diff", &file]] {
        let inspect = [&["inspect", &file][..], flags].concat();
        let output =
            host.within("mount -t tmpfs none /dev\nexec \"$@\"", &inspect).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !output.stdout.is_empty(), "{flags:?}: {said}");
    }
}

#[test]
fn a_claim_shows_the_token_as_reports_do() {
    let host = Host::new();
    let file = saved(&host, "a.save");
    let token = [
        0x0f, 0x1e, 0x2d, 0x3c, 0x4b, 0x5a, 0x69, 0x78, 0x87, 0x96, 0xa5, 0xb4, 0xc3, 0xd2, 0xe1,
        0xf0,
    ];
    let claim = Claim {
        host: "alpha".into(),
        boot: Uuid::from_u128(7),
        time: 951_782_400_000_000_000,
        token,
    };
    let origin = Origin::Path { path: (&file).into(), offset: 0 };
    Reader::open(origin, false).unwrap().write_claim(&claim, false).unwrap();
    let said = answer(&host.ok(&["inspect", &file, "--json"]));
    assert_eq!(said["claim"]["token"], "0f1e2d3c4b5a69788796a5b4c3d2e1f0");
    assert_eq!(said["claim"]["host"], "alpha");
    let size = std::fs::metadata(&file).unwrap().len();
    assert_eq!(said["size"], size);
    assert!(said["allocated"].as_u64().is_some_and(|held| held > 0 && held < size), "{said}");
    let said = host.ok(&["inspect", &file]);
    assert!(said.contains("continued  YES, on alpha at 2000-02-29"), "{said}");
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
