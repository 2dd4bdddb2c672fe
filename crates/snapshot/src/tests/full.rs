//! Where storage is full, for real.

use super::*;
use crate::ReadError;
use rustix::mount::{MountFlags, UnmountFlags};

/// A small file system in memory, as long as this lives.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(options: &std::ffi::CStr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        rustix::mount::mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), options)
            .expect("this test mounts a small file system, and may not");
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_file_system_leaves_the_old_file_and_says_where_it_ended() {
    let small = Small::mount(c"size=6m");
    let folder = small.0.path();
    let path = folder.join("a.snap");
    let old = ram_with(&[1, 2, 3]);
    // A tmpfs of this kernel may have O_DIRECT or not; that it is asked for must not matter.
    let options = WriteOptions { direct: true };
    save(at(&path), &old, &options).unwrap();
    let large = ram_with(&(0..4096).collect::<Vec<_>>());
    let error = save(over(&path), &large, &options).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("a.snap") && text.contains("at offset"), "{text}");
    assert!(text.contains("free some space"), "{text}");
    assert_eq!(names(folder), ["a.snap"]);
    assert_same(&open(&path), &old);
    // What was taken has been given back.
    let least = ram_with(&(0..512).collect::<Vec<_>>());
    save(over(&path), &least, &options).unwrap();
    assert_same(&open(&path), &least);
}

#[test]
fn a_full_file_system_leaves_an_incomplete_file_in_a_descriptor() {
    let small = Small::mount(c"size=6m");
    let path = small.0.path().join("a.snap");
    save(at(&path), &ram_with(&[1]), &BUFFERED).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let target =
        Target::Descriptor { file: file.into(), direct: None, offset: 0, name: "fd".into() };
    let large = ram_with(&(0..4096).collect::<Vec<_>>());
    save(target, &large, &BUFFERED).unwrap_err();
    assert!(matches!(Reader::open(from(&path), false), Err(ReadError::Incomplete(_))));
}

#[test]
fn where_holes_cannot_be_punched_zeroes_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    let ram = ram_with(&[5, 6, 7]);
    let writer = begin(at(&path), &BUFFERED).unwrap();
    writer.storage.forbid_holes();
    let mut lane = writer.lane();
    lane.write(&ram, PageRange::new(5, 3)).unwrap();
    lane.flush().unwrap();
    [5, 6].iter().for_each(|page| fill(&ram, *page, &[0; 4096]));
    lane.write(&ram, PageRange::new(5, 2)).unwrap();
    writer.finish(STATE, &PageSet::new(4096)).unwrap();
    writer.commit().unwrap();
    let mut raw = [1; 2 * 4096];
    let file = std::fs::File::open(&path).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut raw, open(&path).place_of(5)).unwrap();
    assert_eq!(raw, [0; 2 * 4096]);
    assert_same(&open(&path), &ram);
}
