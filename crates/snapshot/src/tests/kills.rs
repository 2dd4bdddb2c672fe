//! The old file or none: whatever fails, and wherever the process ends.

use super::*;
use crate::ReadError;
use crate::fuse::{Fate, during};
use rustix::io::Errno;

/// More operations than a save has.
const MANY: u64 = 1000;

fn descriptor(path: &Path) -> Target {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    Target::Descriptor { file: file.into(), direct: None, offset: 0, name: "fd".into() }
}

#[test]
fn a_kill_between_any_two_steps_leaves_the_old_file_or_none_or_the_whole_new_one() {
    let (old, new) = (ram_with(&[1, 2, 3]), ram_with(&[2, 3, 900]));
    for exists in [false, true] {
        let mut steps = 0..MANY;
        let mut outcomes = [0, 0];
        while let Some(step) = steps.next() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.snap");
            if exists {
                save(at(&path), &old, &BUFFERED).unwrap();
            }
            let work = || save(over(&path), &new, &BUFFERED);
            let (result, passed) = during(step, Fate::Dies, work);
            if passed <= step {
                result.unwrap();
                steps = 0..0;
            }
            let mut left = names(folder.path());
            left.retain(|name| name != "a.snap");
            assert!(left.len() <= 1 && left.iter().all(|name| name.ends_with(".part")), "{left:?}");
            if !path.exists() {
                assert!(!exists, "the old file is gone at step {step}");
                outcomes[0] += 1;
                continue;
            }
            let reader = open(&path);
            let is_new = reader.present().contains(900);
            assert_same(&reader, if is_new { &new } else { &old });
            outcomes[usize::from(is_new)] += 1;
        }
        assert!(outcomes[0] > 5 && outcomes[1] >= 1, "{outcomes:?}");
    }
}

#[test]
fn whatever_fails_the_file_is_as_before_and_nothing_is_left_beside_it() {
    let (old, new) = (ram_with(&[1, 2, 3]), ram_with(&[2, 3, 900]));
    for (exists, errno) in [(false, Errno::IO), (true, Errno::IO), (true, Errno::NOSPC)] {
        for step in 0..MANY {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.snap");
            if exists {
                save(at(&path), &old, &BUFFERED).unwrap();
            }
            let work = || save(over(&path), &new, &BUFFERED);
            let (result, passed) = during(step, Fate::Fails(errno), work);
            let Err(error) = result else {
                assert!(passed <= step, "step {step} failed and nobody was told");
                break;
            };
            // Only when it was the name that could not be made durable had the old file gone.
            let renamed = error.to_string().contains("fsync of the folder");
            assert!(matches!(error, WriteError::Io { .. }), "{error}");
            assert!(error.to_string().contains("a.snap"), "{error}");
            let expected: &[&str] = if exists && !renamed { &["a.snap"] } else { &[] };
            assert_eq!(names(folder.path()), expected, "step {step}: {error}");
            if exists && !renamed {
                assert_same(&open(&path), &old);
            }
            assert!(step < MANY - 1);
        }
    }
}

#[test]
fn what_fails_in_a_descriptor_is_never_taken_for_complete() {
    let (old, new) = (ram_with(&[1, 2, 3]), ram_with(&[2, 3, 900]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    save(at(&path), &old, &BUFFERED).unwrap();
    for fate in [Fate::Fails(Errno::IO), Fate::Dies] {
        for step in 0..MANY {
            save(over(&path), &old, &BUFFERED).unwrap();
            let work = || save(descriptor(&path), &new, &BUFFERED);
            let (result, passed) = during(step, fate, work);
            let read = Reader::open(from(&path), false);
            if passed <= step {
                result.unwrap();
                assert_same(&read.unwrap(), &new);
                break;
            }
            let error = result.unwrap_err();
            match read {
                // The very first step failed, before anything was changed; then undoing it failed, or
                // the mark that was taken back was the old one's.
                Ok(reader) if matches!(error, WriteError::NotUndone { .. }) => {
                    let is_new = reader.present().contains(900);
                    assert_same(&reader, if is_new { &new } else { &old });
                }
                Ok(_) => panic!("step {step} failed ({error}), and the file is complete"),
                Err(ReadError::Incomplete(_) | ReadError::Damaged { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn an_existing_file_is_refused_at_the_start_and_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    let writer = begin(at(&path), &BUFFERED).unwrap();
    writer.finish(STATE, &PageSet::new(4096)).unwrap();
    // Somebody else was faster.
    std::fs::write(&path, b"theirs").unwrap();
    assert!(matches!(begin(at(&path), &BUFFERED), Err(WriteError::Exists(_))));
    assert!(matches!(writer.commit(), Err(WriteError::Exists(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
    assert_eq!(names(folder.path()), ["a.snap"]);
}

#[test]
fn what_is_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    let writer = begin(at(&path), &BUFFERED).unwrap();
    assert!(writer.abandon().unwrap());
    assert!(writer.abandon().unwrap());
    assert!(matches!(writer.finish(STATE, &PageSet::new(4096)), Err(WriteError::Misused { .. })));
    assert!(matches!(writer.commit(), Err(WriteError::Misused { .. })));
    drop(begin(at(&path), &BUFFERED).unwrap());
    assert_eq!(names(folder.path()), [""; 0]);
    // In a file of somebody else's, it is what it was made: incomplete.
    std::fs::write(&path, b"").unwrap();
    assert!(begin(descriptor(&path), &BUFFERED).unwrap().abandon().unwrap());
    assert!(matches!(Reader::open(from(&path), false), Err(ReadError::Incomplete(_))));
}

#[test]
fn what_is_complete_is_not_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    let writer = begin(at(&path), &BUFFERED).unwrap();
    writer.finish(STATE, &PageSet::new(4096)).unwrap();
    writer.commit().unwrap();
    assert!(!writer.abandon().unwrap());
    drop(writer);
    open(&path);
}

/// Where it could not be made sure that a mark is gone, nobody is told that it is, until it is.
#[test]
fn a_mark_that_may_be_there_stays_in_doubt_until_it_is_gone() {
    let mut doubts = 0;
    for step in 0..MANY {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.snap");
        let writer = begin(at(&path), &BUFFERED).unwrap();
        writer.finish(STATE, &PageSet::new(4096)).unwrap();
        let (result, passed) = during(step, Fate::Dies, || writer.commit());
        if passed <= step {
            result.unwrap();
            break;
        }
        if matches!(result, Err(WriteError::NotUndone { .. })) {
            doubts += 1;
            during(0, Fate::Dies, || writer.abandon()).0.expect_err("the disk is gone");
        }
        assert!(writer.abandon().unwrap());
        assert!(writer.abandon().unwrap());
        assert_eq!(names(folder.path()), [""; 0], "step {step}");
    }
    assert!(doubts > 0);
}

#[test]
fn what_has_no_fixed_places_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let refused = |target| matches!(begin(target, &BUFFERED), Err(WriteError::NotRegular { .. }));
    assert!(refused(over(&pipe)));
    assert!(refused(Target::Path { path: pipe.clone(), offset: 4096, force: true }));
    assert!(refused(over(Path::new("/dev/null"))));
    let (_, end) = std::io::pipe().unwrap();
    assert!(refused(Target::Descriptor {
        file: end.into(),
        direct: None,
        offset: 0,
        name: "fd".into()
    }));
    for origin in [from(&pipe), from(folder.path())] {
        assert!(matches!(Reader::open(origin, false), Err(ReadError::NotRegular { .. })));
    }
    assert!(matches!(
        Reader::open(from(&folder.path().join("no")), false),
        Err(ReadError::Io { .. })
    ));
}
