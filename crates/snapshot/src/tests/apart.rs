//! A state whose RAM is in a memory file.

use super::*;
use crate::{Apart, Damage, ReadError};
use memory::HUGE_2M;
use std::os::unix::fs::FileExt;
use uuid::Uuid;

fn apart() -> Apart {
    Apart { identity: Uuid::from_u128(7), generation: 3, path: "/pmem/ram".into() }
}

fn begin_apart(path: &Path, ram: u64) -> Arc<Writer> {
    let header = crate::Header { apart: true, ..header(ram) };
    Writer::create(at(path), header, DESCRIPTION, &BUFFERED).unwrap()
}

fn saved(path: &Path, ram: u64) -> Written {
    let writer = begin_apart(path, ram);
    writer.finish_apart(STATE, &apart()).unwrap();
    writer.commit().unwrap()
}

#[test]
fn a_state_names_its_memory_file_and_is_as_small_for_any_ram() {
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (folder.path().join("small"), folder.path().join("large"));
    let (one, other) = (saved(&small, RAM), saved(&large, RAM << 16));
    assert_eq!((one.size, one.pages), (other.size, 0));
    assert!(one.size < 3 << 20);
    let reader = open(&large);
    assert_eq!(reader.header().ram(), RAM << 16);
    assert_eq!(reader.apart(), Some(&apart()));
    assert_eq!((reader.description(), reader.state()), (DESCRIPTION, STATE));
    assert!(reader.present().is_empty());
    assert!(reader.verify(1, &|_| ()).is_empty());
    reader.check_identity().unwrap();
}

#[test]
fn pages_that_are_elsewhere_are_not_taken_for_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    saved(&path, RAM);
    let reader = open(&path);
    let apart = |result: Result<(), ReadError>| {
        assert!(matches!(result, Err(ReadError::Apart { .. })), "{result:?}");
    };
    apart(reader.read(PageRange::new(0, 1), &mut Buffer::new(1)));
    apart(reader.check_absent());
    apart(reader.image().map(drop));
}

#[test]
fn no_page_is_written_where_none_belongs_and_none_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let writer = begin_apart(&folder.path().join("a"), RAM);
    let misused = |result| assert!(matches!(result, Err(WriteError::Misused { .. })), "{result:?}");
    let mut lane = writer.lane();
    misused(lane.write(&ram_with(&[0]), PageRange::new(0, 1)).map(drop));
    misused(writer.finish(STATE, &PageSet::new(RAM / PAGE_SIZE)));
    let writer = begin(at(&folder.path().join("b")), &BUFFERED).unwrap();
    misused(writer.finish_apart(STATE, &apart()));
}

#[test]
fn a_file_that_names_no_memory_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    saved(&path, RAM);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff], HUGE_2M + PAGE_SIZE).unwrap();
    let error = Reader::open(from(&path), false).unwrap_err();
    let damaged =
        matches!(&error, ReadError::Damaged { damage: Damage::Checksum("memory-file"), .. });
    assert!(damaged, "{error}");
}
