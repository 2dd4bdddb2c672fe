//! A restore as a job: its phases, on a thread of its own.

use super::admit::admit;
use super::fill::Fill;
use super::on_demand::FilePages;
use super::{How, RestoreOptions, Terms};
use crate::clock::nanos;
use crate::fill::{FillObserver, FillOptions, FillReport, Outage, PageService};
use crate::handover::{
    ContinuationPhase, Denial, Entitlement, FileHandover, FileInput, FileOutput, RunPermit, Token,
};
use crate::report::{ErrorReport, Progress, Report, RestoreReport, StatusOrNone};
use crate::{DestinationMachine, MachineBuilder, MotionError, Observer, Status};
use memory::userfault::Userfault;
use memory::{GuestRam, PAGE_SIZE};
use snapshot::{Claim, Kind, Reader};
use state::{Bundle, Code};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Instant, SystemTime};
use uuid::Uuid;

/// Where a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The machine is checked and built.
    Building,
    /// RAM is being filled, or made to come on demand.
    Filling,
    /// RAM is complete; the state is being loaded.
    Loading,
    /// All is here. It stays stopped, and unclaimed, until [`RestoreJob::cont`].
    Held,
    /// The claim is being written.
    Claiming,
    /// The guest is owned here.
    Owner,
    /// It failed; nothing of the guest is here.
    Ended,
}

/// A guest on its way out of a file.
pub struct RestoreJob {
    restore: Arc<Restore>,
}

struct Restore {
    options: RestoreOptions,
    observer: Arc<dyn Observer>,
    begun: Instant,
    token: Token,
    cancelled: AtomicBool,
    /// Pages that are in the file, and those that are in RAM.
    pages: u64,
    filled: AtomicU64,
    decisions: Mutex<Decisions>,
    /// What brings RAM in while the guest runs, until all is there.
    service: Mutex<Option<PageService>>,
    view: Mutex<View>,
    finished: Condvar,
}

/// Locked for a step and no longer: what a step asks for is done without.
struct Decisions {
    handover: FileHandover,
    loaded: Option<Loaded>,
}

/// A guest that is all here and not yet owned.
struct Loaded {
    machine: Arc<dyn DestinationMachine>,
    /// To claim it in.
    reader: Arc<Reader>,
}

struct View {
    phase: Phase,
    report: Report,
    filling_since: Option<Instant>,
    /// The observer has heard of the end.
    told: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A restore that nothing is against, and that has not begun.
#[must_use = "it begins when it is run"]
pub struct Prepared {
    restore: Arc<Restore>,
    reader: Reader,
    builder: Arc<dyn MachineBuilder>,
    description: Bundle,
}

impl Prepared {
    /// What can be asked of it from any thread.
    #[must_use]
    pub fn job(&self) -> RestoreJob {
        RestoreJob { restore: self.restore.clone() }
    }

    /// Carries it out on this thread: until the guest is here, is held, or will not come.
    pub fn run(self) {
        let Self { restore, reader, builder, description } = self;
        restore.run(reader, builder.as_ref(), description);
    }
}

impl RestoreJob {
    /// Begins to restore the guest that is in a file. `file` is what to call it.
    ///
    /// # Errors
    /// All that is against it, before anything was built.
    pub fn start(
        reader: Reader,
        file: &str,
        builder: Arc<dyn MachineBuilder>,
        options: RestoreOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, MotionError> {
        let prepared = Self::prepare(reader, file, builder, options, observer)?;
        let job = prepared.job();
        thread::Builder::new()
            .name("restore".to_owned())
            .spawn(move || prepared.run())
            .map_err(|e| MotionError::new(Code::HostIo, format!("starting a restore: {e}")))?;
        Ok(job)
    }

    /// Looks at what is against a restore, for whoever runs it on a thread of its own choice.
    ///
    /// # Errors
    /// All that is against it. Nothing was built.
    pub fn prepare(
        reader: Reader,
        file: &str,
        builder: Arc<dyn MachineBuilder>,
        options: RestoreOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<Prepared, MotionError> {
        let entitlement = admit(&reader, options.terms)?;
        let description = Bundle::decode(reader.description())
            .map_err(|e| MotionError::new(Code::IncompatibleDevice, e.to_string()))?;
        let refusals = builder.check(&description);
        if !refusals.is_empty() {
            return Err(MotionError::refused(refusals));
        }
        let token = Token(*Uuid::new_v4().as_bytes());
        let report = first_report(&reader, file, token, entitlement, &options);
        let handover = FileHandover::begin(entitlement, options.paused);
        let restore = Arc::new(Restore {
            pages: reader.present().count(),
            options,
            observer,
            begun: Instant::now(),
            token,
            cancelled: AtomicBool::new(false),
            filled: AtomicU64::new(0),
            decisions: Mutex::new(Decisions { handover, loaded: None }),
            service: Mutex::new(None),
            view: Mutex::new(View {
                phase: Phase::Building,
                report,
                filling_since: None,
                told: false,
            }),
            finished: Condvar::new(),
        });
        Ok(Prepared { restore, reader, builder, description })
    }

    /// Lets a guest run that was held, which claims it first.
    ///
    /// # Errors
    /// Why it does not run. It is as it was: loaded, and stopped.
    pub fn cont(&self) -> Result<(), MotionError> {
        self.restore.step(FileInput::Cont)
    }

    /// What keeps pages from coming to a guest that runs already, if anything does.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        lock(&self.restore.service).as_ref()?.outage()
    }

    /// Asks the file again for what could not be had. No-op without an outage.
    ///
    /// # Errors
    /// [`Code::HostIo`] when the host has no threads left; the outage goes on.
    pub fn retry(&self) -> Result<(), MotionError> {
        let service = lock(&self.restore.service).clone();
        service.map_or(Ok(()), |service| service.retry()).map_err(|e| {
            MotionError::new(Code::HostIo, format!("asking for the guest's pages again: {e}"))
        })
    }

    /// Gives it up. No-op once it has ended; a guest that is held waits for whoever ends its process.
    ///
    /// # Errors
    /// [`Code::TooLate`] once the guest is being claimed.
    pub fn cancel(&self) -> Result<(), MotionError> {
        self.restore.cancelled.store(true, Ordering::Relaxed);
        match self.phase() {
            Phase::Claiming => Err(denied(Denial::TooLate, Phase::Claiming)),
            _ => Ok(()),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.restore.phase()
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.restore.progress()
    }

    /// Its report so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut report = lock(&self.restore.view).report.clone();
        let service = lock(&self.restore.service).clone();
        if let (Some(restore), Some(service)) = (&mut report.restore, service) {
            restore.fill = Some(service.report());
        }
        if !report.status.0.is_terminal() {
            report.total_ns = nanos(self.restore.begun.elapsed());
        }
        report
    }

    /// Whether the guest is here, or will not come, and the observer has heard of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        lock(&self.restore.view).told
    }

    /// Waits until the guest is here, or will not come.
    #[must_use]
    pub fn wait(&self) -> Report {
        let mut view = lock(&self.restore.view);
        while !view.told {
            view = self.restore.finished.wait(view).unwrap_or_else(PoisonError::into_inner);
        }
        view.report.clone()
    }
}

fn first_report(
    reader: &Reader,
    file: &str,
    token: Token,
    entitlement: Entitlement,
    options: &RestoreOptions,
) -> Report {
    let header = reader.header();
    let kind = match header.kind {
        Kind::Save => "save",
        Kind::Snapshot => "snapshot",
    };
    let claims = entitlement == Entitlement::Once;
    Report {
        token: token.to_string(),
        machine: header.machine.to_string(),
        peer: file.to_owned(),
        restore: Some(RestoreReport {
            kind,
            snapshot: header.snapshot.to_string(),
            claims,
            clone: options.terms == Terms::Clone,
            how: options.how.as_str(),
            ..RestoreReport::default()
        }),
        ..Report::default()
    }
}

impl Restore {
    fn run(self: &Arc<Self>, reader: Reader, builder: &dyn MachineBuilder, description: Bundle) {
        let Err(error) = self.carry_out(reader, builder, description) else { return };
        let input = match error.code {
            Code::Cancelled => FileInput::Cancel,
            _ => FileInput::Failed,
        };
        // Nothing was granted, or it would not be an error.
        if let Err(denial) = self.step(input) {
            tracing::error!(%denial, "giving up a restore");
        }
        self.end(error);
    }

    /// The phases, in their order.
    fn carry_out(
        self: &Arc<Self>,
        reader: Reader,
        builder: &dyn MachineBuilder,
        description: Bundle,
    ) -> Result<(), MotionError> {
        let reader = Arc::new(reader);
        self.enter(Phase::Building, Status::Setup);
        let machine = self.build(&reader, builder, description)?;
        self.enter(Phase::Filling, Status::Active);
        match self.options.how {
            How::Eager => self.fill(&reader, Some(machine.ram()))?,
            How::Mapped => self.check_mapped(&reader, machine.as_ref())?,
            How::Lazy => self.fill_on_demand(&reader, machine.as_ref())?,
        }
        self.enter(Phase::Loading, Status::Device);
        self.load(&reader, machine.as_ref())?;
        // One that cannot have its pages now is not worth a claim.
        let outage = lock(&self.service).as_ref().and_then(PageService::outage);
        if let Some(outage) = outage {
            return Err(MotionError::new(Code::HostIo, outage.why));
        }
        lock(&self.decisions).loaded = Some(Loaded { machine, reader });
        self.step(FileInput::Restored)
    }

    fn build(
        &self,
        reader: &Reader,
        builder: &dyn MachineBuilder,
        description: Bundle,
    ) -> Result<Arc<dyn DestinationMachine>, MotionError> {
        let begun = Instant::now();
        let machine = builder.build(description).map_err(MotionError::refused)?;
        let (here, there) = (machine.ram().layout(), reader.header());
        if here.regions() != there.regions || here.pages() != reader.present().pages() {
            let why = "the file lays RAM out otherwise than the machine that it describes";
            return Err(MotionError::new(Code::SnapshotCorrupt, why));
        }
        self.note(|report, restore| {
            report.ram.total_pages = here.pages();
            restore.build_ns = nanos(begun.elapsed());
            report.setup_ns = nanos(self.begun.elapsed());
        });
        Ok(machine)
    }

    /// RAM is there already. What is in the file is verified, unless that was said to be needless.
    fn check_mapped(
        &self,
        reader: &Reader,
        machine: &dyn DestinationMachine,
    ) -> Result<(), MotionError> {
        if machine.ram().image().is_none() {
            let why = "the file is to be mapped, and the machine was built with RAM of its own";
            return Err(MotionError::new(Code::Internal, why));
        }
        if !self.options.verify {
            return Ok(());
        }
        reader.check_absent()?;
        self.fill(reader, None)
    }

    /// Takes all pages out of the file, verified, and into RAM if there is any to fill.
    fn fill(&self, reader: &Reader, ram: Option<&Arc<GuestRam>>) -> Result<(), MotionError> {
        let begun = Instant::now();
        lock(&self.view).filling_since = Some(begun);
        let (ram, done) = (ram.map(Arc::as_ref), &self.filled);
        let fill = Fill { reader, ram, done, cancelled: &self.cancelled };
        let threads = self.options.threads.clamp(1, RestoreOptions::MOST_THREADS);
        fill.run(threads)?;
        // What was read of a file that was replaced or cut short meanwhile was verified all the same;
        // but the claim would go where nobody looks for it.
        reader.check_identity()?;
        self.note(|report, restore| {
            restore.threads = threads;
            restore.fill_ns = nanos(begun.elapsed());
            restore.verified_pages = self.filled.load(Ordering::Relaxed);
            report.ram.data_pages = restore.verified_pages;
            report.ram.bytes = restore.verified_pages.saturating_mul(PAGE_SIZE);
        });
        Ok(())
    }

    /// Has pages come when they are touched, from now on.
    fn fill_on_demand(
        self: &Arc<Self>,
        reader: &Arc<Reader>,
        machine: &dyn DestinationMachine,
    ) -> Result<(), MotionError> {
        let failed = |why: String| {
            let why = format!("RAM cannot be filled while the guest runs: {why}");
            MotionError::new(Code::Unsupported, why)
        };
        let begun = Instant::now();
        let userfault =
            Userfault::open(machine.ram().clone(), None).map_err(|e| failed(e.to_string()))?;
        let source = Arc::new(FilePages(reader.clone()));
        let observer = Arc::new(Filling(Arc::downgrade(self)));
        let options = FillOptions { io_stall: self.options.io_stall, ..FillOptions::default() };
        let threads = options.fault_threads + options.stream_threads;
        let service = PageService::start(userfault, source, observer, options)
            .map_err(|e| failed(e.to_string()))?;
        // It may have ended before it is known here, and with it what it is kept for.
        let mut kept = lock(&self.service);
        if !service.is_done() {
            *kept = Some(service);
        }
        drop(kept);
        self.note(|_, restore| {
            restore.threads = threads;
            restore.register_ns = Some(nanos(begun.elapsed()));
        });
        Ok(())
    }

    /// All pages have come.
    fn filled(&self, fill: &FillReport) {
        let service = lock(&self.service).take();
        self.note(|report, restore| {
            restore.verified_pages = fill.pages;
            restore.fill_ns = fill.all_in_ns.unwrap_or(0);
            restore.fill = Some(fill.clone());
            report.ram.data_pages = fill.pages;
            report.ram.bytes = fill.pages.saturating_mul(PAGE_SIZE);
        });
        self.observer.filled(fill);
        // With it goes the file.
        drop(service);
    }

    fn load(&self, reader: &Reader, machine: &dyn DestinationMachine) -> Result<(), MotionError> {
        let begun = Instant::now();
        let state = Bundle::decode(reader.state())
            .map_err(|e| MotionError::new(Code::BadState, format!("reading the state: {e}")))?;
        machine.restore(state)?;
        self.note(|_, restore| restore.state_ns = nanos(begun.elapsed()));
        Ok(())
    }

    /// Takes a step, and does what follows from it.
    fn step(&self, input: FileInput) -> Result<(), MotionError> {
        let (output, is_held) = {
            let mut decisions = lock(&self.decisions);
            if input == FileInput::Restored && self.cancelled.load(Ordering::Relaxed) {
                return Err(MotionError::new(Code::Cancelled, "it was cancelled"));
            }
            let output = decisions.handover.step(input);
            (output, decisions.handover.phase() == ContinuationPhase::Held)
        };
        match output.map_err(|denial| denied(denial, self.phase()))? {
            Some(FileOutput::WriteClaim) => return self.claim(),
            Some(FileOutput::Grant(permit)) => self.own(permit),
            Some(FileOutput::Discard) => lock(&self.decisions).loaded = None,
            None if is_held && input == FileInput::Restored => {
                self.enter(Phase::Held, Status::Completed);
                self.finish();
            }
            None => {}
        }
        Ok(())
    }

    /// Writes the claim. The guest runs once it is durable.
    fn claim(&self) -> Result<(), MotionError> {
        let before = std::mem::replace(&mut lock(&self.view).phase, Phase::Claiming);
        let begun = Instant::now();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let claim = Claim {
            host: self.options.claimant.host.clone(),
            boot: self.options.claimant.boot,
            time: nanos(since),
            token: self.token.0,
        };
        let again = self.options.terms == Terms::Reclaim;
        let reader = lock(&self.decisions).loaded.as_ref().map(|loaded| loaded.reader.clone());
        let gone = || MotionError::new(Code::Internal, "a guest is claimed that is not here");
        let written = reader
            .ok_or_else(gone)
            .and_then(|reader| reader.write_claim(&claim, again).map_err(MotionError::from));
        match written {
            Ok(()) => {
                self.note(|_, restore| restore.claim_ns = Some(nanos(begun.elapsed())));
                self.step(FileInput::ClaimWritten)
            }
            Err(error) => {
                lock(&self.view).phase = before;
                self.step(FileInput::ClaimFailed)?;
                Err(error)
            }
        }
    }

    /// The guest is this side's: it runs, unless it is a copy that is to stay stopped.
    fn own(&self, permit: RunPermit) {
        let Some(Loaded { machine, .. }) = lock(&self.decisions).loaded.take() else {
            tracing::error!("a guest is granted that is not here");
            return;
        };
        let runs = self.phase() == Phase::Claiming || !self.options.paused;
        let mut has_run = false;
        if runs {
            match machine.run(permit) {
                Ok(()) => {
                    let running_for = machine.running_for().unwrap_or_default();
                    let first = self.begun.elapsed().saturating_sub(running_for);
                    self.note(|_, restore| restore.first_instruction_ns = Some(nanos(first)));
                    has_run = true;
                }
                Err(error) => {
                    tracing::error!(%error, "the guest is ours and could not be started");
                    let (code, why) = (error.code, error.to_string());
                    self.note(|report, _| report.error = Some(ErrorReport { code, why }));
                }
            }
        } else {
            machine.grant(permit);
        }
        self.enter(Phase::Owner, Status::Completed);
        if has_run {
            self.observer.resumed();
        }
        self.finish();
    }

    fn phase(&self) -> Phase {
        lock(&self.view).phase
    }

    /// Goes on to the next phase.
    fn enter(&self, phase: Phase, status: Status) {
        let changed = {
            let mut view = lock(&self.view);
            view.phase = phase;
            if status.is_terminal() && !view.told {
                view.report.total_ns = nanos(self.begun.elapsed());
            }
            let before = std::mem::replace(&mut view.report.status, StatusOrNone(status));
            before != view.report.status
        };
        if changed {
            self.observer.status(status);
        }
    }

    /// It brought no guest.
    fn end(&self, error: MotionError) {
        tracing::info!(%error, "the restore brought no guest");
        let status = if error.code == Code::Cancelled { Status::Cancelled } else { Status::Failed };
        self.note(|report, _| {
            report.error = Some(ErrorReport { code: error.code, why: error.why });
            report.refusals = error.refusals;
        });
        self.enter(Phase::Ended, status);
        self.finish();
    }

    /// Tells of the end, once: a guest that was held has been told of when it runs.
    fn finish(&self) {
        let report = {
            let view = lock(&self.view);
            if view.told {
                return;
            }
            view.report.clone()
        };
        self.observer.finished(&report);
        lock(&self.view).told = true;
        self.finished.notify_all();
    }

    fn note(&self, change: impl FnOnce(&mut Report, &mut RestoreReport)) {
        let mut view = lock(&self.view);
        let mut restore = view.report.restore.take().unwrap_or_default();
        change(&mut view.report, &mut restore);
        view.report.restore = Some(restore);
    }

    fn progress(&self) -> Progress {
        let view = lock(&self.view);
        let lazily = lock(&self.service).as_ref().map(PageService::report);
        let lazily = lazily.as_ref().or(view.report.restore.as_ref().and_then(|r| r.fill.as_ref()));
        let pages = self.pages;
        let done = match lazily {
            Some(fill) => fill.fetched.sum(),
            None => self.filled.load(Ordering::Relaxed),
        };
        let bytes = done.saturating_mul(PAGE_SIZE);
        let elapsed = view.filling_since.map(|since| since.elapsed()).unwrap_or_default();
        let rate = u128::from(bytes) * 1_000_000_000 / elapsed.as_nanos().max(1);
        let rate = match view.phase {
            Phase::Filling => u64::try_from(rate).unwrap_or(u64::MAX),
            _ => 0,
        };
        let note = match view.phase {
            Phase::Owner if lazily.is_some_and(|fill| fill.all_in_ns.is_none()) => {
                "RAM comes while the guest runs"
            }
            phase => note_of(phase),
        };
        let left = (pages - done.min(pages)).saturating_mul(PAGE_SIZE);
        Progress {
            status: view.report.status,
            peer: view.report.peer.clone(),
            elapsed_ns: nanos(self.begun.elapsed()),
            pass: 1,
            pass_pages: pages,
            pass_done: done,
            bytes,
            rate,
            eta_ns: left.saturating_mul(1_000_000_000).checked_div(rate),
            note: note.to_owned(),
            ..Progress::default()
        }
    }
}

/// Hears what becomes of RAM that comes on demand.
struct Filling(Weak<Restore>);

impl FillObserver for Filling {
    fn outage(&self, outage: &Outage) {
        if let Some(restore) = self.0.upgrade() {
            restore.observer.outage(outage);
        }
    }

    fn finished(&self, report: &FillReport) {
        if let Some(restore) = self.0.upgrade() {
            restore.filled(report);
        }
    }
}

/// Why something is not done, in the words of a restore.
fn denied(denial: Denial, phase: Phase) -> MotionError {
    let why = match (denial, phase) {
        (Denial::TooLate, Phase::Claiming) => "it is too late: the guest is being claimed",
        (Denial::TooLate, _) => "it is too late: the guest is here",
        (_, Phase::Claiming) => "the guest is being claimed, and runs in a moment",
        (_, Phase::Ended) => "the restore has failed",
        _ => "the guest is still being read from its file",
    };
    MotionError::new(denial.code(), why)
}

fn note_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Building => "building the machine",
        Phase::Loading => "loading the state",
        Phase::Held => "loaded; claimed when it is resumed",
        Phase::Claiming => "writing the claim into the file",
        Phase::Filling | Phase::Owner | Phase::Ended => "",
    }
}
