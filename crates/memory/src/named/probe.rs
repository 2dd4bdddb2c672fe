//! What a file system can do for RAM that lies in a file of it.

use crate::PAGE_SIZE;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

// From include/uapi/linux/magic.h.
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;
const HUGETLBFS: i64 = 0x9584_58f6;

/// Why files there are gone when the host starts anew, if they are.
pub(super) fn is_volatile(file: impl AsFd) -> io::Result<Option<&'static str>> {
    #[allow(clippy::unnecessary_cast, reason = "its width is the architecture's")]
    let kind = rustix::fs::fstatfs(file)?.f_type as i64;
    Ok(match kind {
        TMPFS => Some("tmpfs"),
        RAMFS => Some("ramfs"),
        HUGETLBFS => Some("hugetlbfs"),
        _ => None,
    })
}

/// Whether a page that was written through a mapping, and not written back yet, is no hole for
/// `SEEK_DATA` in files of this folder. A file system on a network may ask its server, which has not
/// heard of it.
pub(super) fn tells_touched(folder: &Path) -> io::Result<bool> {
    const PAGES: usize = 16;
    const WRITTEN: u64 = PAGES as u64 / 2 * PAGE_SIZE;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) else {
        // Not to be tried: then nothing is relied on.
        return Ok(false);
    };
    let length = PAGES * 4096;
    rustix::fs::ftruncate(&file, length as u64)?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping of a file of our own that nobody else can open or cut short.
    let base = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, &file, 0)
    }?;
    // As a write does it, but where there is no room this fails and is no signal.
    // SAFETY: advice on a part of the mapping.
    let written = unsafe {
        let half = base.wrapping_byte_add(length / 2);
        rustix::mm::madvise(half, 4096, Advice::LinuxPopulateWrite)
    };
    let found = rustix::fs::seek(&file, SeekFrom::Data(0));
    // SAFETY: it was mapped above, and nothing points into it any more.
    unsafe { rustix::mm::munmap(base, length) }?;
    Ok(written.is_ok() && matches!(found, Ok(at) if at <= WRITTEN))
}
