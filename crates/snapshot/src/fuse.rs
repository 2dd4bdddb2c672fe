//! Operations on storage that fail, in tests.

use memory::fuse::{Act, Course, Disk, watched_by};
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
