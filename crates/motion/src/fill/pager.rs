//! What a page service asks of its host: somebody who has those wait that touch missing pages, and
//! somebody who works.

use super::desk::{FillDesk, Reader};
use super::{FillOptions, threads};
use memory::userfault::Userfault;
use memory::{GuestRam, PageRange};
use std::fmt;
use std::io;
use std::sync::Arc;

/// Has whoever touches a page that is yet to come wait for it: [`Userfault`], or what stands for one.
pub trait Pager: fmt::Debug + Send + Sync {
    /// The RAM.
    fn ram(&self) -> &Arc<GuestRam>;
    /// As [`Userfault::unit`].
    fn unit(&self) -> u64;
    /// As [`Userfault::register`].
    ///
    /// # Errors
    /// What the host said.
    fn register(&self, range: PageRange) -> io::Result<()>;
    /// As [`Userfault::unregister_all`].
    ///
    /// # Errors
    /// What the host said.
    fn unregister_all(&self) -> io::Result<()>;
    /// As [`Userfault::provide`].
    ///
    /// # Errors
    /// What the host said.
    fn provide(&self, range: PageRange, contents: &[u8]) -> io::Result<u64>;
    /// As [`Userfault::provide_zero`].
    ///
    /// # Errors
    /// What the host said.
    fn provide_zero(&self, range: PageRange) -> io::Result<u64>;
    /// As [`Userfault::wake`].
    ///
    /// # Errors
    /// What the host said.
    fn wake(&self, range: PageRange) -> io::Result<()>;
}

impl Pager for Userfault {
    fn ram(&self) -> &Arc<GuestRam> {
        self.ram()
    }
    fn unit(&self) -> u64 {
        self.unit()
    }
    fn register(&self, range: PageRange) -> io::Result<()> {
        self.register(range)
    }
    fn unregister_all(&self) -> io::Result<()> {
        self.unregister_all()
    }
    fn provide(&self, range: PageRange, contents: &[u8]) -> io::Result<u64> {
        self.provide(range, contents)
    }
    fn provide_zero(&self, range: PageRange) -> io::Result<u64> {
        self.provide_zero(range)
    }
    fn wake(&self, range: PageRange) -> io::Result<()> {
        self.wake(range)
    }
}

/// What somebody is for who fills RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// To serve those who wait.
    Faults,
    /// To bring in what nobody waits for.
    Stream,
}

/// Who fills RAM, as the desk says.
pub trait Staff: Send + Sync {
    /// Has one more begin.
    ///
    /// # Errors
    /// There is nobody left.
    fn hire(&self, desk: &Arc<FillDesk>, duty: Duty, reader: &Arc<Reader>) -> io::Result<()>;

    /// Has somebody [look](FillDesk::watch) now and then whether the others hang.
    ///
    /// # Errors
    /// There is nobody left.
    fn watch(&self, desk: &Arc<FillDesk>) -> io::Result<()>;
}

/// With what RAM is filled while its guest runs.
pub trait Means: Send + Sync {
    /// Somebody to have whoever touches a page wait, and somebody to bring it.
    ///
    /// # Errors
    /// Why RAM cannot be filled so.
    fn begin(&self, ram: &Arc<GuestRam>) -> io::Result<(Arc<dyn Pager>, Box<dyn Staff>)>;

    /// How many of them there are to be.
    fn options(&self) -> FillOptions {
        FillOptions::default()
    }
}

/// A userfaultfd, and threads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

impl Means for Kernel {
    fn begin(&self, ram: &Arc<GuestRam>) -> io::Result<(Arc<dyn Pager>, Box<dyn Staff>)> {
        let userfault = Userfault::open(ram.clone()).map_err(io::Error::other)?;
        Ok(threads::over(userfault))
    }
}
