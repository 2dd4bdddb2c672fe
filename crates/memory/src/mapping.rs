//! All of RAM, mapped once.

use crate::{Backing, HUGE_2M, MemoryFile, RamImage};
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// What a guest's RAM is kept in.
#[derive(Debug)]
pub(crate) enum Store {
    /// A memory file of its own.
    File(File),
    /// A file with a name, which lasts longer than the process.
    Named(Arc<MemoryFile>),
    /// A file that others may use, and private pages over it.
    Image(Arc<RamImage>),
}

/// One mapping of all of RAM, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub base: *mut libc::c_void,
    length: usize,
}

// SAFETY: the pointer is only an address; whoever goes through it uses volatile accesses of
// vm-memory, which allow for other threads (and the guest) to access it at the same time.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `Mapping::new` and everything that points into it is
        // dropped before it, by the order of the fields of `GuestRam`.
        let _ = unsafe { rustix::mm::munmap(self.base, self.length) };
    }
}

impl Mapping {
    /// Maps `length` bytes of what is in `store` at an address that is a multiple of 2 MiB, or of a
    /// larger page of `backing`, so that huge pages fit both the guest's and the host's page tables.
    pub fn new(store: &Store, length: usize, backing: Backing) -> io::Result<Self> {
        let align = backing.page_size().max(HUGE_2M);
        let align = usize::try_from(align).expect("a page fits into usize");
        // SAFETY: an anonymous reservation at an address of the kernel's choice.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                length + align,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let skip = reserved.align_offset(align);
        let base = reserved.wrapping_byte_add(skip);
        // SAFETY: what lies before and behind the aligned part of our own reservation, which
        // nothing uses.
        unsafe {
            if skip > 0 {
                rustix::mm::munmap(reserved, skip)?;
            }
            rustix::mm::munmap(base.wrapping_byte_add(length), align - skip)?;
        }
        let mapping = Self { base, length };
        let (fd, offset, manner) = match store {
            Store::File(file) => (file.as_fd(), 0, MapFlags::SHARED),
            Store::Named(file) => (file.as_fd(), 0, MapFlags::SHARED),
            Store::Image(image) => {
                (image.as_fd(), image.offset(), MapFlags::PRIVATE | MapFlags::NORESERVE)
            }
        };
        // SAFETY: replaces our own reservation. A memory file has `length` bytes and is sealed
        // against shrinking, so that no access can end in SIGBUS for want of a file. An image and
        // a named file may be cut short by others, and storage may fail: all that reads their pages in
        // passing goes through the kernel, which fails instead (`GuestRam::copy`).
        unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(base, length, access, manner | MapFlags::FIXED, fd, offset)
        }?;
        Ok(mapping)
    }
}

/// Reads this process's own memory by way of the kernel (`process_vm_readv(2)`).
pub(crate) fn copy_own(from: *const u8, buffer: &mut [u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: from.cast_mut().cast(), iov_len: buffer.len() };
    // SAFETY: the kernel writes to the buffer, which is ours alone, and looks itself whether what it
    // reads can be read.
    let copied = unsafe {
        libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    match usize::try_from(copied) {
        Ok(copied) if copied == buffer.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
