use super::*;
use crate::handover::{Decision, Particulars, Role, Token, Witness};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

fn record(token: u8, role: Role, decision: Decision) -> Record {
    let particulars = Particulars::new(Token([token; 16]), Uuid::nil(), "web-1", "peer", 1_000);
    Record { role, decision, particulars: particulars.expect("it is short") }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What every journal does.
fn keeps_records(journal: &mut dyn Journal) {
    let here = record(1, Role::Source, Decision::Open);
    let there = record(1, Role::Destination, Decision::Open);
    assert_eq!(journal.get(here.key()).unwrap(), None);
    assert_eq!(journal.adopt(here.key()).unwrap(), None);
    journal.remove(here.key()).unwrap();
    journal.put(&here).unwrap();
    journal.put(&there).unwrap();
    let decided = record(1, Role::Source, Decision::Refused);
    journal.put(&decided).unwrap();
    assert_eq!(journal.get(here.key()).unwrap(), Some(decided));
    let mut keys = journal.list().unwrap();
    keys.sort();
    assert_eq!(keys, [here.key(), there.key()]);
    journal.remove(here.key()).unwrap();
    journal.remove(here.key()).unwrap();
    assert_eq!(journal.list().unwrap(), [there.key()]);
}

#[test]
fn both_roles_of_one_handover_have_their_records() {
    keeps_records(&mut MemoryJournal::default());
    let folder = folder();
    keeps_records(&mut DirJournal::open(folder.path()).unwrap());
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let mut journal = MemoryJournal::default();
    let open = record(1, Role::Source, Decision::Open);
    journal.put(&open).unwrap();
    journal.failures = 1;
    assert!(journal.put(&record(1, Role::Source, Decision::Refused)).is_err());
    assert_eq!(journal.get(open.key()).unwrap(), Some(open));

    let folder = folder();
    let mut journal = DirJournal::open(folder.path()).unwrap();
    let open = record(1, Role::Source, Decision::Open);
    journal.put(&open).unwrap();
    // A folder where the file would be written: the one obstacle that root meets as well.
    let name = format!(".handover-{}-source.new", open.key().token);
    fs::create_dir(folder.path().join(name)).unwrap();
    let error = journal.put(&record(1, Role::Source, Decision::Refused)).unwrap_err();
    assert!(error.to_string().contains("cannot write the handover record"), "{error}");
    assert_eq!(journal.get(open.key()).unwrap(), Some(open));
}

#[test]
fn a_record_is_one_private_file_as_documented() {
    let folder = folder();
    let mut journal = DirJournal::open(folder.path()).unwrap();
    let record = record(0xab, Role::Destination, Decision::Open);
    journal.put(&record).unwrap();
    let name = format!("handover-{}-destination", "ab".repeat(16));
    let path = folder.path().join(&name);
    assert_eq!(files(folder.path()), [name]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(&path).unwrap(), record.encode());
    journal.remove(record.key()).unwrap();
    assert!(files(folder.path()).is_empty());
}

#[test]
fn nobody_speaks_for_a_process_that_lives() {
    let folder = folder();
    let mut owner = DirJournal::open(folder.path()).unwrap();
    let mut other = DirJournal::open(folder.path()).unwrap();
    let open = record(1, Role::Destination, Decision::Open);
    owner.put(&open).unwrap();
    for _ in 0..2 {
        assert!(matches!(other.adopt(open.key()), Err(JournalError::InUse(_))));
        assert!(matches!(other.put(&open), Err(JournalError::InUse(_))));
        assert!(matches!(other.remove(open.key()), Err(JournalError::InUse(_))));
        let (witnesses, unreadable) = Witness::of_all(&mut other).unwrap();
        assert_eq!((witnesses.len(), unreadable.len()), (0, 0));
        // Replacing the file does not let go of it.
        owner.put(&open).unwrap();
    }
    // Anybody may look.
    assert_eq!(other.get(open.key()).unwrap(), Some(open.clone()));

    // A lock ends with its process, whatever that dies of.
    drop(owner);
    assert_eq!(other.adopt(open.key()).unwrap(), Some(open.clone()));
    let mut third = DirJournal::open(folder.path()).unwrap();
    assert!(matches!(third.adopt(open.key()), Err(JournalError::InUse(_))));
    other.put(&record(1, Role::Destination, Decision::Refused)).unwrap();
    other.remove(open.key()).unwrap();
    assert!(files(folder.path()).is_empty());
}

#[test]
fn adopting_never_wins_against_an_owner_that_keeps_writing() {
    let folder = folder();
    let open = record(1, Role::Source, Decision::Open);
    let mut owner = DirJournal::open(folder.path()).unwrap();
    owner.put(&open).unwrap();
    let path = folder.path().to_owned();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..500).for_each(|_| owner.put(&open).unwrap()));
        let mut other = DirJournal::open(path).unwrap();
        while !writer.is_finished() {
            assert!(matches!(other.adopt(open.key()), Err(JournalError::InUse(_))));
        }
    });
}

#[test]
fn damaged_and_foreign_files_are_reported_and_left_alone() {
    let folder = folder();
    let key = record(1, Role::Source, Decision::Open).key();
    let at = |name: String| folder.path().join(name);
    fs::write(at(format!("handover-{}-source", key.token)), "rubbish").unwrap();
    let misfiled = record(2, Role::Source, Decision::Open);
    fs::write(at(format!("handover-{}-source", Token([3; 16]))), misfiled.encode()).unwrap();
    fs::write(at(format!("handover-{}-source", Token([4; 16]))), vec![b'x'; 1 << 20]).unwrap();
    for foreign in ["web-1.sock", "handover-", "handover-x-source", ".handover-x-source.new"] {
        fs::write(at(foreign.into()), "not ours").unwrap();
    }
    let before = files(folder.path());
    let mut journal = DirJournal::open(folder.path()).unwrap();
    assert_eq!(journal.list().unwrap().len(), 3);
    assert!(matches!(journal.get(key), Err(JournalError::Record { .. })));
    let (witnesses, unreadable) = Witness::of_all(&mut journal).unwrap();
    assert_eq!((witnesses.len(), unreadable.len()), (0, 3));
    journal.sweep(SystemTime::now()).unwrap();
    assert_eq!(files(folder.path()), before);
}

#[test]
fn only_old_decided_records_of_the_dead_are_swept() {
    let folder = folder();
    let week = Duration::from_secs(7 * 24 * 3600);
    let soon = SystemTime::UNIX_EPOCH + week;
    let later = soon + Duration::from_secs(2);
    let mut dead = DirJournal::open(folder.path()).unwrap();
    let open = record(1, Role::Source, Decision::Open);
    dead.put(&open).unwrap();
    dead.put(&record(2, Role::Source, Decision::Refused)).unwrap();
    dead.put(&record(3, Role::Destination, Decision::Committed)).unwrap();
    drop(dead);
    let mut alive = DirJournal::open(folder.path()).unwrap();
    let claimed = record(4, Role::Destination, Decision::Committed);
    alive.put(&claimed).unwrap();

    let mut journal = DirJournal::open(folder.path()).unwrap();
    assert_eq!(journal.sweep(soon).unwrap(), 0);
    assert_eq!(journal.sweep(later).unwrap(), 2);
    let mut left = journal.list().unwrap();
    left.sort();
    assert_eq!(left, [open.key(), claimed.key()]);
    assert_eq!(alive.sweep(later).unwrap(), 0, "one's own records are not swept either");
}

#[test]
fn a_write_that_was_never_completed_is_no_record_and_does_not_hinder_the_next() {
    let folder = folder();
    let open = record(1, Role::Source, Decision::Open);
    let unfinished = folder.path().join(format!(".handover-{}-source.new", open.key().token));
    fs::write(&unfinished, "whimbrel-hand").unwrap();
    let mut journal = DirJournal::open(folder.path()).unwrap();
    assert!(journal.list().unwrap().is_empty());
    assert_eq!(journal.sweep(SystemTime::now()).unwrap(), 0, "it may be in the making");
    journal.put(&open).unwrap();
    assert_eq!(journal.get(open.key()).unwrap(), Some(open));
    assert_eq!(files(folder.path()).len(), 1);

    fs::write(&unfinished, "whimbrel-hand").unwrap();
    let in_a_month = SystemTime::now() + Duration::from_secs(30 * 24 * 3600);
    assert_eq!(journal.sweep(in_a_month).unwrap(), 1);
    assert_eq!(files(folder.path()).len(), 1);
}

#[test]
fn a_folder_that_is_not_there_is_an_error_that_names_it() {
    let folder = folder();
    let error = DirJournal::open(folder.path().join("gone")).unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
}

#[test]
fn whoever_looks_sees_whether_a_process_lives_and_is_in_nobodys_way() {
    let folder = folder();
    let open = record(1, Role::Source, Decision::Open);
    let looker = DirJournal::open(folder.path()).unwrap();
    for _ in 0..50 {
        let mut owner = DirJournal::open(folder.path()).unwrap();
        owner.put(&open).unwrap();
        assert!(!looker.is_orphan(open.key()).unwrap());
        drop(owner);
        assert!(looker.is_orphan(open.key()).unwrap());
        // Somebody looks at just the moment at which another takes it over.
        let (told, tells) = std::sync::mpsc::channel();
        let path = folder.path().join(&files(folder.path())[0]);
        let looks = std::thread::spawn(move || {
            let file = fs::File::open(path).unwrap();
            file.lock_shared().unwrap();
            told.send(()).unwrap();
        });
        tells.recv().unwrap();
        let mut witness = DirJournal::open(folder.path()).unwrap();
        assert_eq!(witness.adopt(open.key()).unwrap().as_ref(), Some(&open));
        looks.join().unwrap();
        assert!(!looker.is_orphan(open.key()).unwrap());
        witness.remove(open.key()).unwrap();
        assert!(!looker.is_orphan(open.key()).unwrap());
    }
}
