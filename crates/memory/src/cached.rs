//! How much of a piece of a memory file there is: in memory, or swapped out.

use crate::PageRange;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// cachestat(2), of Linux 6.5; the number is the same on all architectures (Linux
/// `include/uapi/asm-generic/unistd.h`).
const CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` (Linux `include/uapi/linux/mman.h`), in bytes.
#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

/// `struct cachestat`, in pages.
#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

const _: () = assert!(size_of::<Range>() == 16 && size_of::<Counts>() == 40);

/// How many pages of a shmem file there are within a range. It takes as long as the range is large, and
/// holes take no time. `None` where the kernel does not say.
pub(crate) fn pages(file: impl AsFd, within: PageRange) -> io::Result<Option<u64>> {
    let range = Range { offset: within.offset(), length: within.bytes() };
    let mut counts = Counts::default();
    let file = file.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the one and writes the other, which are as it expects them and live that long.
    let result = unsafe { libc::syscall(CACHESTAT, file, &raw const range, &raw mut counts, 0) };
    if result == 0 {
        return Ok(Some(counts.cached + counts.evicted));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // An older kernel, a filter of system calls, or a file that has no page cache.
        Some(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP) => Ok(None),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;
    use rustix::fs::MemfdFlags;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_was_written_is_counted_within_the_range_only() {
        let file = File::from(rustix::fs::memfd_create("cached", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(100 * PAGE_SIZE).unwrap();
        for page in [3, 4, 5, 50, 99] {
            file.write_all_at(&[1], page * PAGE_SIZE).unwrap();
        }
        let count = |start, count| pages(&file, PageRange::new(start, count)).unwrap();
        let Some(all) = count(0, 100) else {
            eprintln!("*** SKIPPED: this kernel has no cachestat(2)");
            return;
        };
        assert_eq!(all, 5);
        assert_eq!(count(0, 3), Some(0));
        assert_eq!(count(4, 2), Some(2));
        assert_eq!(count(6, 94), Some(2));
    }
}
