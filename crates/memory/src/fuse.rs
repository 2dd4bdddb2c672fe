//! Where tests see what is done to storage, and make it fail. Without the feature `simulate` nobody
//! can, and nothing is asked.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

/// Something that is about to be done to storage. Offsets and lengths are in bytes, from the start of
/// the file.
#[derive(Debug, Clone, Copy)]
pub enum Act<'a> {
    /// Bytes are read.
    Read {
        /// From which file.
        file: BorrowedFd<'a>,
        /// From where on.
        offset: u64,
    },
    /// Bytes are written.
    Write {
        /// To which file.
        file: BorrowedFd<'a>,
        /// To where.
        offset: u64,
        /// Which.
        bytes: &'a [u8],
    },
    /// Space is taken that is yet to be written.
    Reserve {
        /// In which file.
        file: BorrowedFd<'a>,
        /// Where it begins.
        offset: u64,
        /// How much it is.
        length: u64,
    },
    /// A hole is made.
    Punch {
        /// In which file.
        file: BorrowedFd<'a>,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        length: u64,
    },
    /// The length is set.
    SetLength {
        /// Of which file.
        file: BorrowedFd<'a>,
    },
    /// What was written is made durable.
    Sync {
        /// In which file.
        file: BorrowedFd<'a>,
    },
    /// A file that has no name is given its temporary one.
    Name,
    /// A file that is complete is brought to its name, in the folder that it waits in.
    Publish {
        /// The name.
        name: &'a OsStr,
    },
    /// A name in that folder is removed.
    Remove {
        /// The name.
        name: &'a OsStr,
    },
    /// Names are made durable.
    SyncFolder,
    /// A file is locked, to be claimed.
    Lock,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It is done.
    Done,
    /// Of what is read or written no more than so many bytes are.
    Part(usize),
    /// It is not done, and nobody is told.
    Skipped,
}

/// Asked before anything is done to storage.
///
/// # Errors
/// What whoever does it is to see; then it is not done.
#[cfg(not(any(test, feature = "simulate")))]
#[inline]
pub fn pass(_: Act) -> std::io::Result<Course> {
    Ok(Course::Done)
}

#[cfg(any(test, feature = "simulate"))]
pub use watched::{Disk, pass, watched_by};

#[cfg(any(test, feature = "simulate"))]
mod watched {
    use super::{Act, Course};
    use std::cell::RefCell;
    use std::io;
    use std::rc::Rc;

    /// Decides what becomes of what this thread does to storage.
    pub trait Disk {
        /// Something is about to be done.
        ///
        /// # Errors
        /// What whoever does it is to see; then it is not done.
        fn pass(&self, act: Act) -> io::Result<Course>;
    }

    thread_local! {
        static DISK: RefCell<Option<Rc<dyn Disk>>> = const { RefCell::new(None) };
    }

    /// Does `work` on this thread while `disk` decides.
    pub fn watched_by<T>(disk: Rc<dyn Disk>, work: impl FnOnce() -> T) -> T {
        struct Before(Option<Rc<dyn Disk>>);
        impl Drop for Before {
            fn drop(&mut self) {
                DISK.set(self.0.take());
            }
        }
        let _before = Before(DISK.replace(Some(disk)));
        work()
    }

    /// Asked before anything is done to storage.
    ///
    /// # Errors
    /// What whoever does it is to see; then it is not done.
    pub fn pass(act: Act) -> io::Result<Course> {
        let disk = DISK.with_borrow(Clone::clone);
        disk.map_or(Ok(Course::Done), |disk| disk.pass(act))
    }
}
