//! Space that is taken beforehand is given back where it is not needed, and is missed by nobody.

use super::*;
use crate::fuse::{Fate, during};
use rustix::io::Errno;

/// Pages that are touched, and those of them that are zero.
const TOUCHED: PageRange = PageRange::new(100, 2000);
const ZERO: [PageRange; 2] = [PageRange::new(600, 700), PageRange::new(1301, 1)];

fn half_zero() -> GuestRam {
    let ram = ram_with(&(TOUCHED.start..TOUCHED.end()).collect::<Vec<_>>());
    for page in ZERO.iter().flat_map(|run| run.start..run.end()) {
        fill(&ram, page, &[0; 4096]);
    }
    ram
}

/// Saves RAM with its space reserved; the fate befalls what is done number `at`.
fn reserved(
    path: &Path,
    ram: &GuestRam,
    at: u64,
    fate: Fate,
) -> (Result<Written, WriteError>, u64) {
    let work = || {
        let writer = begin(over(path), &BUFFERED)?;
        writer.reserve(&[TOUCHED]);
        let mut lane = writer.lane();
        lane.write(ram, TOUCHED)?;
        lane.flush()?;
        writer.finish(STATE, &PageSet::new(ram.pages()))?;
        writer.commit()
    };
    during(at, fate, work)
}

#[test]
fn what_was_reserved_and_is_zero_takes_no_space() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    let ram = half_zero();
    let plain = save(over(&path), &ram, &BUFFERED).unwrap();
    let (written, _) = reserved(&path, &ram, u64::MAX, Fate::Dies);
    let written = written.unwrap();
    assert_eq!((written.pages, written.size), (plain.pages, plain.size));
    // The file system may need a block more for where its pieces are.
    assert!(written.allocated <= plain.allocated + (64 << 10), "{written:?} {plain:?}");
    assert_same(&open(&path), &ram);
}

#[test]
fn space_that_cannot_be_reserved_is_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    let ram = half_zero();
    let begun = during(u64::MAX, Fate::Dies, || begin(over(&path), &BUFFERED).unwrap());
    for errno in [Errno::NOSPC, Errno::OPNOTSUPP, Errno::IO] {
        reserved(&path, &ram, begun.1, Fate::Fails(errno)).0.unwrap();
        assert_same(&open(&path), &ram);
    }
}

#[test]
fn a_kill_between_any_two_steps_leaves_the_old_file_or_the_whole_new_one() {
    let (old, new) = (ram_with(&[1]), half_zero());
    for step in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.snap");
        save(over(&path), &old, &BUFFERED).unwrap();
        let (result, passed) = reserved(&path, &new, step, Fate::Dies);
        let reader = open(&path);
        let is_new = reader.present().contains(TOUCHED.start);
        assert_same(&reader, if is_new { &new } else { &old });
        if passed <= step {
            result.unwrap();
            assert!(is_new && step > 5, "{step}");
            break;
        }
    }
}
