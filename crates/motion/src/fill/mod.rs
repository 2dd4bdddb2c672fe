//! The page service: a guest that runs while its RAM is still being filled.
//!
//! Pages are [registered](memory::userfault) so that whoever touches a missing one waits. Threads of
//! two kinds bring them in: those that serve faults, and those that stream in the rest, politely.
//! Who fetches what is decided by [`crate::ram::on_demand`].
//!
//! It never fails open. Where pages cannot be had (an error, a wrong checksum, a source that does
//! not answer) it is an **outage**: nothing more is provided, whoever waits goes on waiting, and the
//! [observer](FillObserver) is told, who stops the guest. [`PageService::retry`] goes on. Whoever
//! looks at RAM through the memory file meanwhile is refused ([`memory::Filling`]).
//!
//! No thread that talks to the source is waited for: one that hangs is given up, its claim goes to
//! another, and what it brings late goes nowhere.

mod desk;
mod pager;
mod report;
mod source;
mod threads;
pub(crate) mod waits;

use memory::userfault::Userfault;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use desk::{FillDesk, Reader};
pub use pager::{Duty, Kernel, Means, Pager, Staff};
pub use report::{FillObserver, FillReport, Outage, ThreadWaits};
pub use source::{PageLane, PageReadError, PageSource};

/// How RAM is filled.
#[derive(Debug, Clone)]
pub struct FillOptions {
    /// Threads that serve faults.
    pub fault_threads: usize,
    /// Threads that stream in what nobody waits for.
    pub stream_threads: usize,
    /// A read that takes longer is an outage: a hung network file system gives silence, not errors.
    pub io_stall: Duration,
}

impl Default for FillOptions {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            fault_threads: processors.clamp(2, 8),
            // One that verifies or copies asks storage for nothing meanwhile, and a polite one waits
            // for its turn besides: with one for each processor storage was idle half of the time.
            stream_threads: (2 * processors).clamp(2, 8),
            io_stall: Duration::from_secs(5),
        }
    }
}

/// Why RAM cannot be filled on demand.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The source and the machine disagree.
    #[error("the source has RAM of {source_pages} pages, and the machine's has {machine_pages}")]
    Size {
        /// Pages of the source's RAM.
        source_pages: u64,
        /// Pages of the machine's.
        machine_pages: u64,
    },
    /// The kernel does not report faults there.
    #[error("registering guest RAM with userfaultfd: {0}")]
    Register(#[source] io::Error),
    /// Something else that it needs.
    #[error("starting to fill guest RAM: {0}")]
    Start(#[source] io::Error),
}

/// A guest's RAM that is being filled. A handle: dropping it changes nothing, RAM goes on being
/// filled for as long as the machine is there.
#[derive(Debug, Clone)]
pub struct PageService {
    desk: Arc<FillDesk>,
}

/// More ranges than this are not registered: the kernel keeps a mapping for each and two for each
/// gap (`vm.max_map_count` is 65530), and each costs time before the guest's first instruction.
const MOST_RANGES: usize = 512;

impl PageService {
    /// Begins to fill the RAM that `userfault` is of. When it returns the guest may run: no page
    /// that the source has can be seen before it has come. RAM is empty before.
    ///
    /// # Errors
    /// [`FillError`]; nothing is registered, and no thread is left. RAM may hold pages by then, and
    /// is of no further use.
    pub fn start(
        userfault: Userfault,
        source: Arc<dyn PageSource>,
        observer: Arc<dyn FillObserver>,
        options: FillOptions,
    ) -> Result<Self, FillError> {
        let (pager, staff) = threads::over(userfault);
        Self::by(pager, source, observer, options, staff)
    }

    /// The same, by whoever is there to do it.
    pub(crate) fn by(
        pager: Arc<dyn Pager>,
        source: Arc<dyn PageSource>,
        observer: Arc<dyn FillObserver>,
        options: FillOptions,
        staff: Box<dyn Staff>,
    ) -> Result<Self, FillError> {
        let desk = FillDesk::start(pager, source, observer, options, staff)?;
        Ok(Self { desk })
    }

    /// Goes on after an outage: asks the source again for what is missing. No-op without one.
    ///
    /// # Errors
    /// Threads that were given up cannot be replaced; the outage goes on.
    pub fn retry(&self) -> io::Result<()> {
        self.desk.retry()
    }

    /// The outage that there is, if there is one.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        self.desk.outage()
    }

    /// Whether all has come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.desk.is_done()
    }

    /// How far it is, or how it went.
    #[must_use]
    pub fn report(&self) -> FillReport {
        self.desk.report()
    }

    /// Waits until all has come; `false` if it had not within the time.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        self.desk.wait_done(limit)
    }
}

#[cfg(test)]
mod tests;
