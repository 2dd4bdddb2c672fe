//! A restore as a job: its phases, on a thread of its own.

use super::admit::admit;
use super::ownership::denied;
use super::view::View;
use super::{How, RestoreOptions, Terms};
use crate::clock::nanos;
use crate::fill::{Kernel, Means, Outage, PageService};
use crate::handover::{Denial, Entitlement, FileHandover, FileInput, Token};
use crate::report::{Progress, Report, RestoreReport};
use crate::{DestinationMachine, MachineBuilder, MotionError, Observer};
use snapshot::{Kind, Reader};
use state::{Bundle, Code};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;
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

pub(super) struct Restore {
    pub options: RestoreOptions,
    pub observer: Arc<dyn Observer>,
    pub begun: Instant,
    pub token: Token,
    pub cancelled: AtomicBool,
    /// Pages that are in the file, and those that are in RAM.
    pub pages: u64,
    pub filled: AtomicU64,
    pub decisions: Mutex<Decisions>,
    /// What brings RAM in while the guest runs, until all is there.
    pub service: Mutex<Option<PageService>>,
    pub view: Mutex<View>,
    pub finished: Condvar,
}

/// Locked for a step and no longer: what a step asks for is done without.
pub(super) struct Decisions {
    pub handover: FileHandover,
    pub loaded: Option<Loaded>,
}

/// A guest that is all here and not yet owned.
pub(super) struct Loaded {
    pub machine: Arc<dyn DestinationMachine>,
    /// To claim it in.
    pub reader: Arc<Reader>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A restore that nothing is against, and that has not begun.
#[must_use = "it begins when it is run"]
pub struct Prepared {
    restore: Arc<Restore>,
    reader: Reader,
    builder: Arc<dyn MachineBuilder>,
    means: Arc<dyn Means>,
    description: Bundle,
}

impl Prepared {
    /// What can be asked of it from any thread.
    #[must_use]
    pub fn job(&self) -> RestoreJob {
        RestoreJob { restore: self.restore.clone() }
    }

    /// Has RAM that comes while the guest runs come by other means than the kernel's.
    pub fn filled_by(&mut self, means: Arc<dyn Means>) {
        self.means = means;
    }

    /// Carries it out on this thread: until the guest is here, is held, or will not come.
    pub fn run(self) {
        let Self { restore, reader, builder, means, description } = self;
        restore.run(reader, builder.as_ref(), means.as_ref(), description);
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
        if reader.apart().is_some() != (options.how == How::InPlace) {
            let why = "RAM stays in place where it is in a memory file, and only there";
            return Err(MotionError::new(Code::InvalidArgument, why));
        }
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
        Ok(Prepared { restore, reader, builder, means: Arc::new(Kernel), description })
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
