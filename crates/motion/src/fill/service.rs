//! What all threads of a page service share.

use super::FillOptions;
use super::report::{FillObserver, FillReport, Outage};
use super::source::{PageLane, PageSource};
use super::threads;
use super::waits::Waits;
use crate::clock::nanos;
use crate::ram::on_demand::{CHUNK_PAGES, Claim, OnDemand};
use memory::userfault::Userfault;
use memory::{Filling, GuestRam, PageRange};
use rustix::event::EventfdFlags;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Pages come.
    Filling,
    /// Pages cannot be had.
    Outage(Outage),
    /// All have come.
    Done,
    /// The guest is gone.
    Abandoned,
}

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    Faults,
    Stream,
}

/// A thread that reads from the source, as the watchdog sees it.
#[derive(Debug)]
pub(super) struct Reader {
    duty: Duty,
    /// What it is reading, and since when.
    reading: Mutex<Option<(Claim, Instant)>>,
    /// It did not answer, and was given up.
    lost: AtomicBool,
}

impl Reader {
    /// It can serve no longer, and is to be replaced.
    pub fn give_up(&self) {
        self.lost.store(true, Relaxed);
    }
}

pub(super) struct Service {
    pub userfault: Userfault,
    pub on_demand: OnDemand,
    pub source: Arc<dyn PageSource>,
    pub options: FillOptions,
    pub waits: Waits,
    /// Set when polite threads starve: those that serve faults stream too.
    pub hurried: AtomicBool,
    /// Written to once, when there is nothing left to do.
    pub over: OwnedFd,
    observer: Arc<dyn FillObserver>,
    phase: Mutex<Phase>,
    /// The phase is another, or there is something to fetch for those that had nothing to do.
    changed: Condvar,
    /// Pages that somebody wanted are there, or the phase is another.
    arrived: Condvar,
    readers: Mutex<Vec<Arc<Reader>>>,
    started: Instant,
    all_in: OnceLock<Duration>,
    outages: AtomicU32,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.on_demand.left();
        f.debug_struct("Service").field("phase", &*self.phase()).field("left", &left).finish()
    }
}

/// RAM that was given up before all of it had come.
#[derive(Debug)]
struct GivenUp;

impl Filling for GivenUp {
    fn bring(&self, _: PageRange) -> io::Result<()> {
        Err(io::Error::other("the machine has ended before all of its RAM had come"))
    }
    fn trouble(&self) -> Option<String> {
        Some("it was given up".to_owned())
    }
    fn abandon(&self) {}
}

impl Service {
    /// Starts the threads.
    pub fn start(
        userfault: Userfault,
        on_demand: OnDemand,
        source: Arc<dyn PageSource>,
        observer: Arc<dyn FillObserver>,
        options: FillOptions,
    ) -> io::Result<Arc<Self>> {
        let over = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let service = Arc::new(Self {
            userfault,
            on_demand,
            source,
            options,
            waits: Waits::default(),
            hurried: AtomicBool::new(false),
            over,
            observer,
            phase: Mutex::new(Phase::Filling),
            changed: Condvar::new(),
            arrived: Condvar::new(),
            readers: Mutex::default(),
            started: Instant::now(),
            all_in: OnceLock::new(),
            outages: AtomicU32::new(0),
        });
        if service.on_demand.left() == 0 {
            service.complete();
            return Ok(service);
        }
        service.ram().set_filling(Some(service.clone()));
        let FillOptions { fault_threads, stream_threads, .. } = service.options;
        let duties = std::iter::repeat_n(Duty::Faults, fault_threads.max(1))
            .chain(std::iter::repeat_n(Duty::Stream, stream_threads.max(1)));
        let threads = duties
            .map(|duty| service.add_reader(duty))
            .chain(std::iter::once_with(|| threads::start_watchdog(&service)));
        if let Err(e) = threads.collect::<io::Result<()>>() {
            service.abandon();
            return Err(e);
        }
        Ok(service)
    }

    fn add_reader(self: &Arc<Self>, duty: Duty) -> io::Result<()> {
        let reading = Mutex::new(None);
        let reader = Arc::new(Reader { duty, reading, lost: AtomicBool::new(false) });
        threads::start(self, duty, reader.clone())?;
        lock(&self.readers).push(reader);
        Ok(())
    }

    pub fn ram(&self) -> &Arc<GuestRam> {
        self.userfault.ram()
    }

    pub fn phase(&self) -> MutexGuard<'_, Phase> {
        lock(&self.phase)
    }

    /// Waits for the phase to change, or for something to do.
    pub fn wait<'a>(&self, phase: MutexGuard<'a, Phase>, limit: Duration) -> MutexGuard<'a, Phase> {
        let waited = self.changed.wait_timeout(phase, limit);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits as long as there is an outage. `false` when there is nothing left to do.
    pub fn goes_on(&self) -> bool {
        let mut phase = self.phase();
        loop {
            match *phase {
                Phase::Filling => return true,
                Phase::Done | Phase::Abandoned => return false,
                Phase::Outage(_) => phase = self.wait(phase, Duration::MAX),
            }
        }
    }

    /// Gets what was claimed and puts it into RAM. `false` when the thread was given up meanwhile,
    /// and must end.
    pub fn fetch(&self, reader: &Reader, lane: &mut dyn PageLane, claim: Claim) -> bool {
        let range = self.on_demand.pages_of(claim.chunks());
        *lock(&reader.reading) = Some((claim.clone(), Instant::now()));
        match lane.read(range) {
            Ok(contents) if contents.len() as u64 == range.bytes() => {
                if let Err(e) = self.install(&claim, range, contents) {
                    self.on_demand.give_back(&claim);
                    self.fail(range.start, format!("putting pages into guest RAM: {e}"));
                }
            }
            Ok(contents) => {
                self.on_demand.give_back(&claim);
                let got = contents.len();
                self.fail(range.start, format!("{got} bytes came of {}", range.bytes()));
            }
            Err(error) => {
                self.on_demand.give_back(&claim);
                self.fail(error.page, error.why);
            }
        }
        *lock(&reader.reading) = None;
        !reader.lost.load(Relaxed)
    }

    fn install(&self, claim: &Claim, range: PageRange, contents: &[u8]) -> io::Result<()> {
        for chunk in claim.chunks() {
            // Who was given up must not touch what is somebody else's by now.
            if !self.on_demand.begin(claim, chunk) {
                continue;
            }
            let pages = self.on_demand.pages_of(chunk..chunk + 1);
            let part = |run: PageRange| {
                let at = |page| usize::try_from((page - range.start) * memory::PAGE_SIZE);
                at(run.start).and_then(|start| Ok(&contents[start..at(run.end())?]))
            };
            let provide = |run| self.userfault.provide(run, part(run).map_err(io::Error::other)?);
            if self.is_huge() {
                provide(pages)?;
            } else {
                // Pages that the source does not have stay the kernel's to provide.
                for run in self.on_demand.present().runs_in(pages) {
                    provide(run)?;
                }
            }
            if self.on_demand.finish(claim, chunk) {
                // A page that was discarded as soon as it came, and is waited for again, is asked
                // for again: it is zero now.
                self.userfault.wake(pages)?;
                self.waits.over(chunk);
                let _phase = self.phase();
                self.arrived.notify_all();
            }
        }
        if self.on_demand.left() == 0 {
            self.complete();
        }
        Ok(())
    }

    /// Provides a page of which the source has nothing.
    pub fn provide_zero(&self, page: u64) -> io::Result<()> {
        if self.is_huge() {
            let range = PageRange::new(page, self.userfault.unit());
            let zeroes = vec![0; usize::try_from(range.bytes()).map_err(io::Error::other)?];
            return self.userfault.provide(range, &zeroes).map(drop);
        }
        self.userfault.provide_zero(PageRange::new(page, 1)).map(drop)
    }

    fn is_huge(&self) -> bool {
        self.on_demand.chunk_pages() != CHUNK_PAGES
    }

    /// Pages cannot be had.
    pub fn fail(&self, page: u64, why: String) {
        let offset = page.saturating_mul(memory::PAGE_SIZE);
        let address = self.ram().layout().address_of(page).unwrap_or(offset);
        let outage = Outage { offset, address, why };
        {
            let mut phase = self.phase();
            if *phase != Phase::Filling {
                return;
            }
            *phase = Phase::Outage(outage.clone());
            self.outages.fetch_add(1, Relaxed);
            self.tell_all();
        }
        tracing::debug!(offset, address, why = outage.why, "guest RAM cannot be filled");
        self.observer.outage(&outage);
    }

    /// Gives up threads that have been reading for too long.
    pub fn watch(&self) {
        let readers = lock(&self.readers).clone();
        for reader in readers {
            if let Some(claim) = self.give_up(&reader, self.options.io_stall) {
                let page = self.on_demand.pages_of(claim.chunks()).start;
                let seconds = self.options.io_stall.as_secs_f64();
                self.fail(page, format!("reading it has not ended for {seconds} s"));
            }
        }
    }

    /// Gives up a thread that has been reading for so long, if it has. What it was reading.
    fn give_up(&self, reader: &Reader, limit: Duration) -> Option<Claim> {
        let reading = lock(&reader.reading);
        let (claim, since) = reading.as_ref()?;
        if since.elapsed() < limit || reader.lost.swap(true, Relaxed) {
            return None;
        }
        self.on_demand.revoke(claim);
        Some(claim.clone())
    }

    pub fn retry(self: &Arc<Self>) -> io::Result<()> {
        if self.outage().is_none() {
            return Ok(());
        }
        // What was asked before is not waited for any longer.
        for reader in &*lock(&self.readers) {
            self.give_up(reader, Duration::ZERO);
        }
        let lost: Vec<_> = {
            let mut readers = lock(&self.readers);
            readers.extract_if(.., |reader| reader.lost.load(Relaxed)).collect()
        };
        for (at, reader) in lost.iter().enumerate() {
            if let Err(e) = self.add_reader(reader.duty) {
                // They count as lost still, for the next time.
                lock(&self.readers).extend(lost[at..].iter().cloned());
                return Err(e);
            }
        }
        let mut phase = self.phase();
        if !matches!(*phase, Phase::Outage(_)) {
            return Ok(());
        }
        *phase = Phase::Filling;
        self.waits.forget();
        // Faults that were taken and not served come anew.
        let all = PageRange::new(0, self.ram().pages());
        self.userfault.wake(all)?;
        self.tell_all();
        Ok(())
    }

    /// All has come.
    fn complete(&self) {
        {
            let mut phase = self.phase();
            if !matches!(*phase, Phase::Filling | Phase::Outage(_)) {
                return;
            }
            *phase = Phase::Done;
            let _ = self.all_in.set(self.started.elapsed());
            if let Err(e) = self.userfault.unregister_all() {
                // Nothing is missing: what is left is that faults on discarded pages would wait.
                tracing::warn!("unregistering guest RAM that has come: {e}");
            }
            self.ram().set_filling(None);
            self.end();
        }
        self.observer.finished(&self.report());
    }

    /// Has all threads end.
    fn end(&self) {
        // It cannot fail: the counter is at most one.
        let _ = rustix::io::write(&self.over, &1u64.to_ne_bytes());
        self.tell_all();
    }

    /// The phase is another: its lock is held.
    fn tell_all(&self) {
        self.changed.notify_all();
        self.arrived.notify_all();
    }

    pub fn outage(&self) -> Option<Outage> {
        match &*self.phase() {
            Phase::Outage(outage) => Some(outage.clone()),
            _ => None,
        }
    }

    pub fn is_done(&self) -> bool {
        *self.phase() == Phase::Done
    }

    /// Waits at most so long until all has come.
    pub fn wait_done(&self, limit: Duration) -> bool {
        let begun = Instant::now();
        let mut phase = self.phase();
        while !matches!(*phase, Phase::Done | Phase::Abandoned) {
            let Some(left) = limit.checked_sub(begun.elapsed()) else { break };
            phase = self.wait(phase, left);
        }
        *phase == Phase::Done
    }

    pub fn report(&self) -> FillReport {
        let (faults, fetched) = self.on_demand.totals();
        let (latency, waits) = self.waits.report();
        FillReport {
            pages: self.on_demand.present().count(),
            fetched,
            chunk_pages: self.on_demand.chunk_pages(),
            faults,
            latency,
            waits,
            outages: self.outages.load(Relaxed),
            all_in_ns: self.all_in.get().map(|took| nanos(*took)),
        }
    }
}

impl Filling for Service {
    fn bring(&self, range: PageRange) -> io::Result<()> {
        if self.on_demand.ask(range) {
            return Ok(());
        }
        let mut phase = self.phase();
        self.changed.notify_all();
        loop {
            if self.on_demand.are_there(range) {
                return Ok(());
            }
            match &*phase {
                Phase::Filling => {
                    let waited = self.arrived.wait(phase);
                    phase = waited.unwrap_or_else(PoisonError::into_inner);
                }
                Phase::Done => return Ok(()),
                Phase::Abandoned => return GivenUp.bring(range),
                Phase::Outage(Outage { offset, why, .. }) => {
                    return Err(io::Error::other(format!(
                        "the guest's memory has not all come, and at {offset:#x} cannot be had \
                         ({why}): retry when it can"
                    )));
                }
            }
        }
    }

    fn trouble(&self) -> Option<String> {
        self.outage().map(|outage| outage.why)
    }

    fn abandon(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Done | Phase::Abandoned) {
            return;
        }
        *phase = Phase::Abandoned;
        // From here on nobody is told that a page is zero because it was not there.
        self.ram().set_filling(Some(Arc::new(GivenUp)));
        if let Err(e) = self.userfault.unregister_all() {
            tracing::warn!("unregistering guest RAM that was given up: {e}");
        }
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
