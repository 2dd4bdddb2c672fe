//! Where tests see what is done to storage, and make it fail. Without the feature `simulate` nobody
//! can, and nothing is asked.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

/// Something that is about to be done to storage. Offsets and lengths are in bytes, from the start of
/// the file.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(any(test, feature = "simulate")), allow(dead_code, reason = "nobody looks at it"))]
pub enum Act<'a> {
    /// Bytes are read.
    Read {
        /// From which file.
        file: &'a OwnedFd,
        /// From where on.
        offset: u64,
    },
    /// Bytes are written.
    Write {
        /// To which file.
        file: &'a OwnedFd,
        /// To where.
        offset: u64,
        /// Which.
        bytes: &'a [u8],
    },
    /// Space is taken that is yet to be written.
    Reserve {
        /// In which file.
        file: &'a OwnedFd,
        /// Where it begins.
        offset: u64,
        /// How much it is.
        length: u64,
    },
    /// A hole is made.
    Punch {
        /// In which file.
        file: &'a OwnedFd,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        length: u64,
    },
    /// The length is set.
    SetLength {
        /// Of which file.
        file: &'a OwnedFd,
    },
    /// What was written is made durable.
    Sync {
        /// In which file.
        file: &'a OwnedFd,
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
#[cfg_attr(not(any(test, feature = "simulate")), allow(dead_code, reason = "all is done"))]
pub enum Course {
    /// It is done.
    Done,
    /// It is not done, and nobody is told.
    Skipped,
}

#[cfg(not(any(test, feature = "simulate")))]
pub(crate) fn pass(_: Act) -> std::io::Result<Course> {
    Ok(Course::Done)
}

#[cfg(any(test, feature = "simulate"))]
pub use watched::{Disk, watched_by};

#[cfg(any(test, feature = "simulate"))]
pub(crate) use watched::pass;

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

    pub(crate) fn pass(act: Act) -> io::Result<Course> {
        let disk = DISK.with_borrow(Clone::clone);
        disk.map_or(Ok(Course::Done), |disk| disk.pass(act))
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::{Act, Course, Disk, watched_by};
    use rustix::io::Errno;
    use std::cell::Cell;
    use std::io;
    use std::rc::Rc;

    /// What happens to an operation that changes storage.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Fate {
        /// It alone fails.
        Fails(Errno),
        /// It and all that follow: the process is no more.
        Dies,
    }

    /// Lets so many operations succeed.
    struct Fuse {
        at: u64,
        fate: Fate,
        passed: Cell<u64>,
    }

    impl Disk for Fuse {
        fn pass(&self, act: Act) -> io::Result<Course> {
            if matches!(act, Act::Read { .. } | Act::Lock) {
                return Ok(Course::Done);
            }
            let number = self.passed.replace(self.passed.get() + 1);
            match self.fate {
                Fate::Dies if number >= self.at => Err(Errno::IO.into()),
                Fate::Fails(error) if number == self.at => Err(error.into()),
                _ => Ok(Course::Done),
            }
        }
    }

    /// Does `work` while the operation number `at` (from 0) meets its fate. Says how many operations
    /// there were.
    pub(crate) fn during<T>(at: u64, fate: Fate, work: impl FnOnce() -> T) -> (T, u64) {
        let fuse = Rc::new(Fuse { at, fate, passed: Cell::new(0) });
        let result = watched_by(fuse.clone(), work);
        (result, fuse.passed.get())
    }
}
