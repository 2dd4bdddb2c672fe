use super::*;
use crate::{GuestRam, PAGE_SIZE, PageRange};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vm_memory::{Bytes as _, GuestAddress};

const SIZE: u64 = 16 << 20;
const MACHINE: [u8; 16] = [1; 16];
const IDENTITY: [u8; 16] = [2; 16];

struct Rig {
    folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ram")
    }

    fn create(&self) -> Result<MemoryFile, MemoryFileError> {
        MemoryFile::create(&self.path(), SIZE, MACHINE, IDENTITY, false, false)
    }
}

fn fits(file: &MemoryFile, generation: u64) -> Result<(), MemoryFileError> {
    file.check_fits(IDENTITY, MACHINE, SIZE, generation)
}

fn touched(ram: &GuestRam) -> Vec<PageRange> {
    ram.touched(PageRange::new(0, ram.pages())).unwrap()
}

#[test]
fn ram_lasts_longer_than_whoever_had_it_and_what_was_never_touched_stays_a_hole() {
    let rig = Rig::new();
    let ram = GuestRam::named(Arc::new(rig.create().unwrap())).unwrap();
    assert!(touched(&ram).is_empty());
    assert!(matches!(MemoryFile::open(&rig.path()), Err(MemoryFileError::InUse { .. })));
    ram.memory().write_obj(7_u8, GuestAddress(9 * PAGE_SIZE + 5)).unwrap();
    assert_eq!(touched(&ram), [PageRange::new(9, 1)]);
    let file = ram.memory_file().unwrap();
    file.enter().unwrap();
    file.make_durable().unwrap();
    assert_eq!(file.leave().unwrap(), 1);
    drop(ram);
    let file = MemoryFile::open(&rig.path()).unwrap();
    fits(&file, 1).unwrap();
    let ram = GuestRam::named(Arc::new(file)).unwrap();
    let mut page = [0; 4096];
    assert_eq!(touched(&ram), [PageRange::new(9, 1)]);
    ram.read(PageRange::new(9, 1), &mut page).unwrap();
    assert_eq!(page[5], 7);
    ram.copy(PageRange::new(9, 1), &mut page).unwrap();
    assert_eq!(page[5], 7);
    assert!(ram.is_zero(8).unwrap() && !ram.is_zero(9).unwrap());
}

#[test]
fn a_state_fits_once() {
    let rig = Rig::new();
    let file = rig.create().unwrap();
    file.enter().unwrap();
    file.enter().unwrap();
    let saved = file.leave().unwrap();
    assert_eq!(saved, 1, "it was raised once for one run");
    drop(file);
    let file = MemoryFile::open(&rig.path()).unwrap();
    fits(&file, saved).unwrap();
    file.enter().unwrap();
    drop(file);
    let file = MemoryFile::open(&rig.path()).unwrap();
    let error = fits(&file, saved).unwrap_err();
    assert!(matches!(error, MemoryFileError::RanOn { saved: 1, now: 2, .. }), "{error}");
    let error = fits(&file, 3).unwrap_err();
    assert!(error.to_string().contains("older"), "{error}");
}

#[test]
fn a_guest_that_goes_on_after_a_save_that_failed_leaves_its_state_behind() {
    let rig = Rig::new();
    let file = rig.create().unwrap();
    file.enter().unwrap();
    let saved = file.leave().unwrap();
    file.enter().unwrap();
    assert!(matches!(fits(&file, saved), Err(MemoryFileError::RanOn { .. })));
}

#[test]
fn what_belongs_to_something_else_is_refused_with_the_reason() {
    let rig = Rig::new();
    drop(rig.create().unwrap());
    let file = MemoryFile::open(&rig.path()).unwrap();
    for (identity, machine, size, reason) in [
        (IDENTITY, [9; 16], SIZE, "another machine"),
        ([9; 16], MACHINE, SIZE, "booted anew"),
        (IDENTITY, MACHINE, SIZE + PAGE_SIZE, "bytes of RAM"),
    ] {
        let error = file.check_fits(identity, machine, size, 0).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    drop(file);
    let longer = File::options().write(true).open(rig.path()).unwrap();
    longer.set_len(SIZE + 1).unwrap();
    let error = MemoryFile::open(&rig.path()).unwrap_err().to_string();
    assert!(error.contains("bytes long"), "{error}");
}

#[test]
fn what_a_file_holds_is_given_up_only_when_that_was_said() {
    let rig = Rig::new();
    let file = rig.create().unwrap();
    file.file().write_all_at(&[1], 0).unwrap();
    drop(file);
    assert!(matches!(rig.create(), Err(MemoryFileError::Occupied { .. })));
    let anew = MemoryFile::create(&rig.path(), 2 * SIZE, MACHINE, [3; 16], true, false).unwrap();
    assert!(matches!(fits(&anew, 0), Err(MemoryFileError::Other { .. })));
    assert!(touched(&GuestRam::named(Arc::new(anew)).unwrap()).is_empty());
    let foreign = rig.folder.path().join("foreign");
    std::fs::write(&foreign, "text").unwrap();
    let create = |path| MemoryFile::create(path, SIZE, MACHINE, IDENTITY, false, false);
    assert!(matches!(create(&foreign), Err(MemoryFileError::Occupied { .. })));
    assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "text");
    assert!(matches!(create(rig.folder.path()), Err(MemoryFileError::System { .. })));
    assert!(matches!(create(Path::new("/dev/null")), Err(MemoryFileError::NotUsable { .. })));
}

#[test]
fn a_file_without_its_sidecar_is_nobodys_ram() {
    let rig = Rig::new();
    drop(rig.create().unwrap());
    let sidecar = Sidecar::path_of(&rig.path());
    std::fs::write(&sidecar, "garbage").unwrap();
    assert!(matches!(MemoryFile::open(&rig.path()), Err(MemoryFileError::Unknown { .. })));
    std::fs::remove_file(&sidecar).unwrap();
    assert!(matches!(MemoryFile::open(&rig.path()), Err(MemoryFileError::System { .. })));
}

#[test]
fn a_file_is_locked_under_each_of_its_names() {
    let rig = Rig::new();
    let _file = rig.create().unwrap();
    let other = rig.folder.path().join("other");
    std::fs::hard_link(rig.path(), &other).unwrap();
    std::fs::copy(Sidecar::path_of(&rig.path()), Sidecar::path_of(&other)).unwrap();
    assert!(matches!(MemoryFile::open(&other), Err(MemoryFileError::InUse { .. })));
}

#[test]
fn another_process_takes_it_over_with_its_locks() {
    let rig = Rig::new();
    let file = rig.create().unwrap();
    file.enter().unwrap();
    let of = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
    let heir = MemoryFile::inherit(
        &rig.path(),
        of(file.as_fd()),
        of(file.sidecar_fd()),
        file.has_entered(),
    )
    .unwrap();
    drop(file);
    assert!(matches!(MemoryFile::open(&rig.path()), Err(MemoryFileError::InUse { .. })));
    heir.enter().unwrap();
    assert_eq!(heir.generation(), 1, "it is the same run");
}

#[test]
fn what_was_let_go_is_somebody_elses_and_runs_no_guest() {
    let rig = Rig::new();
    let file = rig.create().unwrap();
    file.enter().unwrap();
    file.release();
    let next = MemoryFile::open(&rig.path()).unwrap();
    assert!(file.enter().is_err());
    next.enter().unwrap();
}

#[test]
fn more_than_fits_is_refused_unless_it_will_not_be_used() {
    let rig = Rig::new();
    let huge = 1 << 44;
    let create = |overcommit| {
        MemoryFile::create(&rig.path(), huge - PAGE_SIZE, MACHINE, IDENTITY, true, overcommit)
    };
    assert!(matches!(create(false), Err(MemoryFileError::NoRoom { .. })));
    // Where the file system has files so large at all.
    if let Err(error) = create(true) {
        assert!(matches!(error, MemoryFileError::System { action: "sizing", .. }), "{error}");
    }
}

#[test]
fn a_file_that_was_cut_short_is_an_error_from_then_on() {
    let rig = Rig::new();
    let file = rig.create().unwrap();
    file.file().write_all_at(&[1; 4096], 0).unwrap();
    let ram = GuestRam::named(Arc::new(file)).unwrap();
    assert_eq!(ram.trouble(), None);
    let mut page = [0; 4096];
    ram.copy(PageRange::new(0, 1), &mut page).unwrap();
    let other = File::options().write(true).open(rig.path()).unwrap();
    other.set_len(0).unwrap();
    assert!(ram.copy(PageRange::new(0, 1), &mut page).is_err());
    assert!(ram.is_zero(0).is_err());
    other.set_len(SIZE).unwrap();
    assert!(ram.trouble().unwrap().contains("cannot go on"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens to a file, a state fits only what it was saved with.
    #[test]
    fn a_state_fits_only_the_ram_that_it_was_saved_with(steps in proptest::collection::vec(0u8..4, 1..20)) {
        let rig = Rig::new();
        let mut file = Some(rig.create().unwrap());
        // The last state that was saved, and whether the guest has run since.
        let mut state: Option<(u64, bool)> = None;
        for step in steps {
            match step {
                0 => {
                    let file = file.get_or_insert_with(|| MemoryFile::open(&rig.path()).unwrap());
                    file.enter().unwrap();
                    state = state.map(|(generation, _)| (generation, true));
                }
                1 => {
                    let file = file.get_or_insert_with(|| MemoryFile::open(&rig.path()).unwrap());
                    state = Some((file.leave().unwrap(), false));
                }
                // The process is killed.
                2 => file = None,
                _ => {
                    let file = file.get_or_insert_with(|| MemoryFile::open(&rig.path()).unwrap());
                    if let Some((generation, has_run)) = state {
                        prop_assert_eq!(fits(file, generation).is_ok(), !has_run);
                    }
                }
            }
        }
    }
}
