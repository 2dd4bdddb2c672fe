//! One word that two processes see.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// Size of the file that holds it, in bytes: a page, since less cannot be mapped.
const SIZE: u64 = crate::PAGE_SIZE;

/// A word in a sealed memory file, which may be mapped by several processes at the same time.
#[derive(Debug)]
pub struct SharedWord(NonNull<AtomicU32>);

// SAFETY: what it points to is an atomic, in a mapping that lives as long as the value does.
unsafe impl Send for SharedWord {}
// SAFETY: as above; an atomic may be used from any thread.
unsafe impl Sync for SharedWord {}

impl SharedWord {
    /// A new one, zero, and the file that it is in, for another process.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("whimbrel-word", flags)?;
        rustix::fs::ftruncate(&file, SIZE)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok((Self::map(file.as_fd())?, file))
    }

    /// The word in the file that another process made.
    ///
    /// # Errors
    /// When it is no such file: one that could be cut short would end whoever reads it.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let length = file.metadata()?.len();
        if length != SIZE || !seals.contains(SealFlags::SHRINK) {
            let why = format!("a file of {length} bytes with seals {seals:?} holds no shared word");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Self::map(file.as_fd())
    }

    fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        let length = usize::try_from(SIZE).map_err(io::Error::other)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, of a file that cannot be cut short.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), length, prot, MapFlags::SHARED, file, 0)
        }?;
        let word = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self(word))
    }

    /// The word.
    #[must_use]
    pub fn get(&self) -> &AtomicU32 {
        // SAFETY: it points to the beginning of a mapping of `SIZE` bytes, which is aligned to a page
        // and unmapped only when the value is dropped; whoever else has it mapped uses atomics too.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        let length = usize::try_from(SIZE).unwrap_or(0);
        // SAFETY: it was mapped by `map` with this length, and nobody borrows from it any more.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn both_see_what_either_writes() {
        let (here, file) = SharedWord::new().unwrap();
        let there = SharedWord::open(file).unwrap();
        here.get().store(7, Ordering::Release);
        assert_eq!(there.get().swap(9, Ordering::AcqRel), 7);
        drop(there);
        assert_eq!(here.get().load(Ordering::Acquire), 9);
    }

    #[test]
    fn a_file_that_could_be_cut_short_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("other", flags).unwrap();
        rustix::fs::ftruncate(&file, SIZE).unwrap();
        assert!(SharedWord::open(file).is_err());
        assert!(SharedWord::open(std::fs::File::open("/dev/null").unwrap().into()).is_err());
    }
}
