//! RAM that is being filled: what all who work at it share, decided here without threads.

use super::pager::{Duty, Pager, Staff};
use super::report::{FillObserver, FillReport, Outage};
use super::source::{PageLane, PageReadError, PageSource};
use super::waits::Waits;
use super::{FillError, FillOptions, MOST_RANGES};
use crate::clock::nanos;
use crate::ram::on_demand::{self, Answer, CHUNK_PAGES, Claim, OnDemand};
use crate::rules::{Rule, keeps};
use memory::{Filling, GuestRam, PageRange};
use rustix::event::EventfdFlags;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How often who waits for pages asks whether they are wanted any more.
const GLANCE: Duration = Duration::from_millis(100);

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

/// Somebody who reads from the source, as the watchdog sees it.
#[derive(Debug)]
pub struct Reader {
    duty: Duty,
    /// What it is reading, and since when it has got no answer.
    reading: Mutex<Option<(Claim, Instant)>>,
    /// It did not answer, and was given up.
    lost: AtomicBool,
}

impl Reader {
    /// It can serve no longer, and is to be replaced.
    pub(super) fn give_up(&self) {
        self.lost.store(true, Relaxed);
    }

    /// Whether that was done: nobody waits for it any more.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.lost.load(Relaxed)
    }
}

/// RAM that is being filled, and all that is decided about it. Who does the work is its [`Staff`]'s to
/// say: in life threads, which [`PageService`](super::PageService) starts.
pub struct FillDesk {
    pub(super) pager: Arc<dyn Pager>,
    pub(super) on_demand: OnDemand,
    pub(super) source: Arc<dyn PageSource>,
    pub(super) options: FillOptions,
    pub(super) waits: Waits,
    /// Set when polite threads starve: those that serve faults stream too.
    pub(super) hurried: AtomicBool,
    /// Written to once, when there is nothing left to do.
    pub(super) over: OwnedFd,
    staff: Box<dyn Staff>,
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

impl fmt::Debug for FillDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.on_demand.left();
        f.debug_struct("FillDesk").field("phase", &*self.phase()).field("left", &left).finish()
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

impl FillDesk {
    /// Begins to fill the RAM that `pager` is of, as [`PageService::start`](super::PageService::start)
    /// does.
    ///
    /// # Errors
    /// [`FillError`]; nothing is registered. RAM may hold pages by then, and is of no further use.
    pub fn start(
        pager: Arc<dyn Pager>,
        source: Arc<dyn PageSource>,
        observer: Arc<dyn FillObserver>,
        options: FillOptions,
        staff: Box<dyn Staff>,
    ) -> Result<Arc<Self>, FillError> {
        let (source_pages, machine_pages) = (source.present().pages(), pager.ram().pages());
        if source_pages != machine_pages || source.recent().pages() != machine_pages {
            return Err(FillError::Size { source_pages, machine_pages });
        }
        let chunk_pages = CHUNK_PAGES.max(pager.unit());
        for range in on_demand::ranges(source.present(), chunk_pages, MOST_RANGES) {
            if let Err(e) = pager.register(range) {
                // Nobody waits yet.
                let _ = pager.unregister_all();
                return Err(FillError::Register(e));
            }
        }
        let on_demand = OnDemand::new(source.present().clone(), source.recent(), chunk_pages);
        let over = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| FillError::Start(e.into()))?;
        let desk = Arc::new(Self {
            pager,
            on_demand,
            source,
            options,
            waits: Waits::default(),
            hurried: AtomicBool::new(false),
            over,
            staff,
            observer,
            phase: Mutex::new(Phase::Filling),
            changed: Condvar::new(),
            arrived: Condvar::new(),
            readers: Mutex::default(),
            started: Instant::now(),
            all_in: OnceLock::new(),
            outages: AtomicU32::new(0),
        });
        if desk.on_demand.left() == 0 {
            desk.complete();
            return Ok(desk);
        }
        desk.ram().set_filling(Some(desk.clone()));
        let FillOptions { fault_threads, stream_threads, .. } = desk.options;
        let duties = std::iter::repeat_n(Duty::Faults, fault_threads.max(1))
            .chain(std::iter::repeat_n(Duty::Stream, stream_threads.max(1)));
        let begun = duties
            .map(|duty| desk.add_reader(duty))
            .chain(std::iter::once_with(|| desk.staff.watch(&desk)));
        if let Err(e) = begun.collect::<io::Result<()>>() {
            desk.abandon();
            return Err(FillError::Start(e));
        }
        Ok(desk)
    }

    fn add_reader(self: &Arc<Self>, duty: Duty) -> io::Result<()> {
        let reading = Mutex::new(None);
        let reader = Arc::new(Reader { duty, reading, lost: AtomicBool::new(false) });
        self.staff.hire(self, duty, &reader)?;
        lock(&self.readers).push(reader);
        Ok(())
    }

    pub(super) fn ram(&self) -> &Arc<GuestRam> {
        self.pager.ram()
    }

    pub(super) fn phase(&self) -> MutexGuard<'_, Phase> {
        lock(&self.phase)
    }

    /// Waits for the phase to change, or for something to do.
    pub(super) fn wait<'a>(
        &self,
        phase: MutexGuard<'a, Phase>,
        limit: Duration,
    ) -> MutexGuard<'a, Phase> {
        let waited = self.changed.wait_timeout(phase, limit);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits as long as there is an outage. `false` when there is nothing left to do.
    pub(super) fn goes_on(&self) -> bool {
        let mut phase = self.phase();
        loop {
            match *phase {
                Phase::Filling => return true,
                Phase::Done | Phase::Abandoned => return false,
                Phase::Outage(_) => phase = self.wait(phase, Duration::MAX),
            }
        }
    }

    /// Whether pages come, at this moment.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        *self.phase() == Phase::Filling
    }

    /// Somebody waits for a page: what to get for that, if anything is to be got.
    #[must_use]
    pub fn answer(&self, page: u64, thread: u32) -> Option<Claim> {
        let since = Instant::now();
        let chunk = page / self.on_demand.chunk_pages();
        let ask = || {
            let answer = self.on_demand.fault(page);
            let waits = answer != Answer::Zero;
            (answer, waits)
        };
        match self.waits.ask(thread, chunk, since, ask) {
            Answer::Underway => None,
            Answer::Zero => {
                if let Err(e) = self.provide_zero(page) {
                    self.fail(page, format!("putting a page into guest RAM: {e}"));
                }
                self.waits.over_of(thread, since);
                None
            }
            Answer::Fetch(claim) => Some(claim),
        }
    }

    /// What to get when nobody waits: at most so many adjacent chunks.
    #[must_use]
    pub fn next(&self, most: u64) -> Option<Claim> {
        self.on_demand.next(most)
    }

    /// Gets what was claimed and puts it into RAM. `false` when the reader was given up meanwhile, and
    /// must end.
    pub(super) fn fetch(&self, reader: &Reader, lane: &mut dyn PageLane, claim: Claim) -> bool {
        self.begin(reader, &claim, Instant::now());
        let mut came = || self.has_come(reader, Instant::now());
        let contents = lane.read(self.pages_of(&claim), &mut came);
        self.end(reader, &claim, contents)
    }

    /// The pages that were claimed.
    #[must_use]
    pub fn pages_of(&self, claim: &Claim) -> PageRange {
        self.on_demand.pages_of(claim.chunks())
    }

    /// Where the pages come from.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn PageSource> {
        &self.source
    }

    /// A reader asks the source for what it has claimed.
    pub fn begin(&self, reader: &Reader, claim: &Claim, now: Instant) {
        *lock(&reader.reading) = Some((claim.clone(), now));
    }

    /// A reader has got a part of what it has claimed. A page of 1 GiB may take longer in all than anybody who
    /// hangs is waited for.
    pub fn has_come(&self, reader: &Reader, now: Instant) {
        if let Some((_, since)) = lock(&reader.reading).as_mut() {
            *since = now;
        }
    }

    /// What a reader got for its claim goes into RAM. `false` when the reader was given up meanwhile, and
    /// must end.
    pub fn end(
        &self,
        reader: &Reader,
        claim: &Claim,
        contents: Result<&[u8], PageReadError>,
    ) -> bool {
        // What takes its time from now on is not the source.
        *lock(&reader.reading) = None;
        let range = self.pages_of(claim);
        match contents {
            Ok(contents) if contents.len() as u64 == range.bytes() => {
                if let Err(e) = self.install(claim, range, contents) {
                    self.on_demand.give_back(claim);
                    self.fail(range.start, format!("putting pages into guest RAM: {e}"));
                }
            }
            Ok(contents) => {
                self.on_demand.give_back(claim);
                let got = contents.len();
                self.fail(range.start, format!("{got} bytes came of {}", range.bytes()));
            }
            Err(error) => {
                if keeps(Rule::WhatFailedIsAskedAgain) {
                    self.on_demand.give_back(claim);
                }
                if keeps(Rule::NothingIsMadeUp) {
                    self.fail(error.page, error.why);
                } else {
                    let _ = self.pager.provide_zero(range);
                }
            }
        }
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
            let provide = |run| self.pager.provide(run, part(run).map_err(io::Error::other)?);
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
                self.pager.wake(pages)?;
                self.waits.over(chunk);
                let _phase = self.phase();
                self.arrived.notify_all();
            }
        }
        if self.on_demand.left() <= u64::from(!keeps(Rule::AllComes)) {
            self.complete();
        }
        Ok(())
    }

    /// Provides a page of which the source has nothing.
    fn provide_zero(&self, page: u64) -> io::Result<()> {
        if self.is_huge() {
            let range = PageRange::new(page, self.pager.unit());
            let zeroes = vec![0; usize::try_from(range.bytes()).map_err(io::Error::other)?];
            return self.pager.provide(range, &zeroes).map(drop);
        }
        self.pager.provide_zero(PageRange::new(page, 1)).map(drop)
    }

    fn is_huge(&self) -> bool {
        self.on_demand.chunk_pages() != CHUNK_PAGES
    }

    /// Pages cannot be had.
    pub(super) fn fail(&self, page: u64, why: String) {
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

    /// Gives up readers that have been at it for too long.
    pub fn watch(&self, now: Instant) {
        if !keeps(Rule::SilenceIsAnOutage) {
            return;
        }
        let readers = lock(&self.readers).clone();
        for reader in readers {
            if let Some(claim) = self.give_up(&reader, self.options.io_stall, now) {
                let page = self.on_demand.pages_of(claim.chunks()).start;
                let seconds = self.options.io_stall.as_secs_f64();
                self.fail(page, format!("reading it has not ended for {seconds} s"));
            }
        }
    }

    /// Gives up somebody who has been reading for so long, if they have. What they were reading.
    fn give_up(&self, reader: &Reader, limit: Duration, now: Instant) -> Option<Claim> {
        let reading = lock(&reader.reading);
        let (claim, since) = reading.as_ref()?;
        if now.saturating_duration_since(*since) < limit || reader.lost.swap(true, Relaxed) {
            return None;
        }
        self.on_demand.revoke(claim);
        Some(claim.clone())
    }

    /// As [`PageService::retry`](super::PageService::retry).
    ///
    /// # Errors
    /// Readers that were given up cannot be replaced; the outage goes on.
    pub fn retry(self: &Arc<Self>) -> io::Result<()> {
        if self.outage().is_none() {
            return Ok(());
        }
        // What was asked before is not waited for any longer.
        for reader in &*lock(&self.readers) {
            self.give_up(reader, Duration::ZERO, Instant::now());
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
        self.pager.wake(all)?;
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
            if let Err(e) = self.pager.unregister_all() {
                // Nothing is missing: what is left is that faults on discarded pages would wait.
                tracing::warn!("unregistering guest RAM that has come: {e}");
            }
            self.ram().set_filling(None);
            self.end_all();
        }
        self.observer.finished(&self.report());
    }

    /// Has all threads end.
    fn end_all(&self) {
        // It cannot fail: the counter is at most one.
        let _ = rustix::io::write(&self.over, &1u64.to_ne_bytes());
        self.tell_all();
    }

    /// The phase is another: its lock is held.
    fn tell_all(&self) {
        self.changed.notify_all();
        self.arrived.notify_all();
    }

    /// The outage that there is, if there is one.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        match &*self.phase() {
            Phase::Outage(outage) => Some(outage.clone()),
            _ => None,
        }
    }

    /// Whether all has come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        *self.phase() == Phase::Done
    }

    /// Waits at most so long until all has come.
    pub(super) fn wait_done(&self, limit: Duration) -> bool {
        let begun = Instant::now();
        let mut phase = self.phase();
        while !matches!(*phase, Phase::Done | Phase::Abandoned) {
            let Some(left) = limit.checked_sub(begun.elapsed()) else { break };
            phase = self.wait(phase, left);
        }
        *phase == Phase::Done
    }

    /// How far it is, or how it went.
    #[must_use]
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

impl Filling for FillDesk {
    fn bring(&self, range: PageRange) -> io::Result<()> {
        self.bring_while(range, &|| true).map(drop)
    }

    fn bring_while(&self, range: PageRange, wanted: &dyn Fn() -> bool) -> io::Result<bool> {
        if self.on_demand.ask(range) {
            return Ok(true);
        }
        let mut phase = self.phase();
        self.changed.notify_all();
        loop {
            if self.on_demand.are_there(range) {
                return Ok(true);
            }
            match &*phase {
                Phase::Filling if !wanted() => return Ok(false),
                Phase::Filling => {
                    let waited = self.arrived.wait_timeout(phase, GLANCE);
                    phase = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Phase::Done => return Ok(true),
                Phase::Abandoned => return GivenUp.bring_while(range, wanted),
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
        if let Err(e) = self.pager.unregister_all() {
            tracing::warn!("unregistering guest RAM that was given up: {e}");
        }
        self.end_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
