//! Files that earlier versions wrote are read by this one, as they are specified.
//!
//! A fixture is a file in compact form: its length, then for each run of bytes that are not zero its
//! offset and its bytes in hexadecimal. What this version writes has to be the same, byte for byte;
//! when the format gets a new version, a new fixture joins the old ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use memory::{Backing, GuestRam, Layout, PAGE_SIZE, PageRange, PageSet};
use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;
use whimbrel_snapshot::{
    Apart, Buffer, Claim, Header, Kind, Mark, Origin, Peek, Reader, Target, WriteOptions, Writer,
};

const RAM: u64 = 16 << 20;
const DESCRIPTION: &[u8] = b"a description";
const STATE: &[u8] = b"a state";
/// The pages that are there, and what they begin with.
const PAGES: [(u64, &[u8]); 4] =
    [(0, b"the first page"), (255, b"another"), (256, b"its neighbour"), (4095, b"the last page")];
/// Their RAM is in a memory file.
const V1_APART: (&str, &str) = ("v1-apart", include_str!("fixtures/v1-apart.txt"));

const V1: [(&str, &str); 2] = [
    ("v1-save", include_str!("fixtures/v1-save.txt")),
    ("v1-claimed", include_str!("fixtures/v1-claimed.txt")),
];

fn header() -> Header {
    Header {
        kind: Kind::Save,
        machine: Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff),
        name: "whimbrel".to_owned(),
        snapshot: Uuid::from_u128(0x0f0e0d0c_0b0a_0908_0706_050403020100),
        taken: 1_750_000_000_123_456_789,
        builder: "0.1.0".to_owned(),
        regions: Layout::new(RAM, PAGE_SIZE).unwrap().regions().to_vec(),
        backing: Backing::Transparent,
        apart: false,
    }
}

fn apart() -> Apart {
    Apart {
        identity: Uuid::from_u128(0x01020304_0506_0708_090a_0b0c0d0e0f10),
        generation: 3,
        path: "/pmem/web.ram".into(),
    }
}

fn claim() -> Claim {
    Claim {
        host: "nordic".to_owned(),
        boot: Uuid::from_u128(0x10203040_5060_7080_90a0_b0c0d0e0f000),
        time: 1_750_000_100_000_000_000,
        token: *b"sixteen bytes of",
    }
}

fn recent() -> PageSet {
    let mut set = PageSet::new(RAM / PAGE_SIZE);
    set.insert(PageRange::new(255, 2));
    set
}

fn written(path: &Path, is_claimed: bool) -> Vec<u8> {
    let ram = GuestRam::new(RAM, Backing::Small).unwrap();
    let target = Target::Path { path: path.to_owned(), offset: 0, force: false };
    let writer =
        Writer::create(target, header(), DESCRIPTION, &WriteOptions { direct: false }).unwrap();
    let mut lane = writer.lane();
    for (page, text) in PAGES {
        ram.slice(PageRange::new(page, 1)).unwrap().copy_from(text);
        lane.write(&ram, PageRange::new(page, 1)).unwrap();
    }
    lane.flush().unwrap();
    writer.finish(STATE, &recent()).unwrap();
    writer.commit().unwrap();
    if is_claimed {
        let origin = Origin::Path { path: path.to_owned(), offset: 0 };
        Reader::open(origin, false).unwrap().write_claim(&claim(), false).unwrap();
    }
    std::fs::read(path).unwrap()
}

fn written_apart(path: &Path) -> Vec<u8> {
    let header = Header { apart: true, ..header() };
    let target = Target::Path { path: path.to_owned(), offset: 0, force: false };
    let writer =
        Writer::create(target, header, DESCRIPTION, &WriteOptions { direct: false }).unwrap();
    writer.finish_apart(STATE, &apart()).unwrap();
    writer.commit().unwrap();
    std::fs::read(path).unwrap()
}

/// Bytes of a line, at most.
const LINE: usize = 40;

fn compact(bytes: &[u8]) -> String {
    let mut text = format!("length {}\n", bytes.len());
    for (offset, line) in (0..).step_by(LINE).zip(bytes.chunks(LINE)) {
        let Some(last) = line.iter().rposition(|byte| *byte != 0) else { continue };
        let first = line.iter().position(|byte| *byte != 0).unwrap_or(0);
        let hex: String = line[first..=last].iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{} {hex}", offset + first).unwrap();
    }
    text
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// The file of a fixture, with holes.
fn expand(text: &str, path: &Path) {
    let file = File::create(path).unwrap();
    for line in text.lines() {
        match line.split_once(' ').unwrap() {
            ("length", length) => file.set_len(length.parse().unwrap()).unwrap(),
            (at, hex) => file.write_all_at(&unhex(hex), at.parse().unwrap()).unwrap(),
        }
    }
}

fn expanded(name: &str, folder: &Path) -> PathBuf {
    let path = folder.join(name);
    let (_, text) = V1.iter().chain([&V1_APART]).find(|(other, _)| *other == name).unwrap();
    expand(text, &path);
    path
}

#[test]
fn every_fixture_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    for (name, _) in V1 {
        let path = expanded(name, folder.path());
        let origin = || Origin::Path { path: path.clone(), offset: 0 };
        let peek = Peek::at(origin()).unwrap();
        assert!(matches!(peek.mark, Ok(Mark::Complete(_))), "{peek:?}");
        assert_eq!(peek.page.version, 1);
        let reader = Reader::open(origin(), false).unwrap();
        assert_eq!(reader.header(), &header());
        assert_eq!(reader.description(), DESCRIPTION);
        assert_eq!(reader.state(), STATE);
        assert_eq!(reader.recent(), &recent());
        assert_eq!(reader.claim(), (name == "v1-claimed").then(claim).as_ref());
        assert_eq!(reader.present().count(), PAGES.len() as u64);
        assert!(reader.verify(2, &|_| ()).is_empty());
        let mut buffer = Buffer::new(RAM / PAGE_SIZE);
        reader.read(PageRange::new(0, RAM / PAGE_SIZE), &mut buffer).unwrap();
        for (page, bytes) in (0..).zip(buffer.as_slice().chunks(4096)) {
            let text = PAGES.iter().find(|(other, _)| *other == page).map_or(&b""[..], |(_, t)| t);
            assert!(bytes.starts_with(text) && bytes[text.len()..].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn a_state_without_ram_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::Path { path: expanded(V1_APART.0, folder.path()), offset: 0 };
    let reader = Reader::open(origin, false).unwrap();
    assert_eq!(reader.header(), &Header { apart: true, ..header() });
    assert_eq!(reader.apart(), Some(&apart()));
    assert_eq!((reader.description(), reader.state()), (DESCRIPTION, STATE));
    assert!(reader.present().is_empty());
}

#[test]
fn what_this_version_writes_is_the_newest_fixture_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in V1.into_iter().chain([V1_APART]) {
        let path = folder.path().join("new");
        let new = match name {
            "v1-apart" => written_apart(&path),
            _ => written(&path, name == "v1-claimed"),
        };
        std::fs::remove_file(&path).unwrap();
        let old = std::fs::read(expanded(name, folder.path())).unwrap();
        // When it was complete is another time each time, and with it the checksum of the mark.
        let is_same = |at: usize| {
            let is_time = (4104..4108).contains(&at) || (4136..4144).contains(&at);
            is_time || old[at] == new[at]
        };
        if old.len() != new.len() || !(0..new.len()).all(is_same) {
            let found = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.txt"));
            std::fs::write(&found, compact(&new)).unwrap();
            panic!(
                "{name} would now be what {} says; it was {} bytes",
                found.display(),
                text.len()
            );
        }
    }
}

/// Which bytes of which fixture the specification says are where: each table has its place in the
/// heading before it, which also names the fixture unless it is `v1-claimed`, and its rows have an offset, a length and, in the last column, the bytes.
fn specified() -> Vec<(&'static str, u64, Vec<u8>, String)> {
    let text = include_str!("../../../docs/snapshot-format.md");
    let (mut place, mut fixture) = (None, "v1-claimed");
    let mut rows = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            fixture = if line.contains(V1_APART.0) { V1_APART.0 } else { "v1-claimed" };
            place = line.rsplit_once(" at ").and_then(|(_, at)| at.parse::<u64>().ok());
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (Some(place), [_, offset, length, field, bytes, _]) = (place, &cells[..]) else {
            continue;
        };
        let (Ok(offset), Ok(length)) = (offset.parse::<u64>(), length.parse::<usize>()) else {
            continue;
        };
        // `…` stands for more of the same, or zeroes.
        let (hex, is_whole) = match bytes.trim_matches('`').split_once('…') {
            Some((hex, _)) => (hex, false),
            None => (bytes.trim_matches('`'), true),
        };
        let bytes = unhex(&hex.replace(' ', ""));
        assert!(!is_whole || bytes.len() == length, "{line}");
        rows.push((fixture, place + offset, bytes, (*field).to_owned()));
    }
    rows
}

#[test]
fn the_specification_says_what_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name| File::open(expanded(name, folder.path())).unwrap();
    let files = ["v1-claimed", V1_APART.0].map(|name| (name, open(name)));
    let rows = specified();
    assert!(rows.len() > 40, "only {} rows were understood", rows.len());
    for (fixture, at, bytes, field) in rows {
        let (_, file) = files.iter().find(|(name, _)| *name == fixture).unwrap();
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, at).unwrap();
        assert_eq!(found, bytes, "{field}, at {at}");
    }
}
