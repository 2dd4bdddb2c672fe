//! Waiting for a guest from elsewhere.

use crate::arrival::{Arrivals, Arrived};
use crate::monitor::Monitor;
use crate::{Ending, Error, MachineName};
use links::{Address, Descriptors, Listener, SocketFile};
use motion::destination::{Command, DestinationJob, Phase};
use motion::handover::{DirJournal, Side, Standing, Token};
use motion::source::Testimony;
use motion::{DestinationOptions, Progress, RamWay, Report, Status};
use qmp::command::Parameters;
use state::Code;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use vmm::{Builder, Wishes};

/// The wait for a guest, and how it came.
pub(crate) struct Waiting {
    job: DestinationJob,
    begun: SystemTime,
    /// The engine keeps the listener for as long as anybody may ask.
    socket: Option<Arc<SocketFile>>,
    /// What comes is decided between the two processes.
    of_update: bool,
}

impl Monitor {
    /// `migrate-incoming`, and `run --incoming URI`
    pub fn wait_for_guest(
        self: &Arc<Self>,
        address: &Address,
        given: &Descriptors,
        keep_waiting: bool,
        insecure: bool,
    ) -> Result<(), Error> {
        let doing = format!("cannot wait for a guest as `{}`", self.name);
        self.check_postcopy(&doing)?;
        self.is_vacant(&doing)?;
        let fail = |code, why: String| Error::new(code, format!("{doing}: {why}"));
        crate::address::check_exposure(address, insecure || self.config.insecure)
            .map_err(|e| fail(e.code, e.message))?;
        let listener = Listener::bind(address, given).map_err(|e| fail(e.code(), e.to_string()))?;
        let socket = listener.file();
        let journal =
            DirJournal::open(&self.journal).map_err(|e| fail(Code::Journal, e.to_string()))?;
        // What a dead source of this host had decided may be all that its destination waits for.
        let words =
            DirJournal::open(&self.journal).map_err(|e| fail(Code::Journal, e.to_string()))?;
        let stall_limit = Duration::from_millis(self.state().parameters.stall_limit);
        let words = Testimony::begin(Box::new(words), stall_limit)
            .map_err(|e| Error::host(doing.clone(), &e))?;
        self.state().testimonies.push(Arc::new(words));
        let arrivals = Arc::new(Arrivals::new(self.builder(), Arc::downgrade(self)));
        let observer = Arc::new(Arrived::new(self, arrivals.clone()));
        let options = DestinationOptions {
            stall_limit,
            hold: self.config.hold,
            keep_waiting,
            name: self.name.to_string(),
            ram: RamWay::Passes,
        };
        let job =
            DestinationJob::listen(listener, arrivals, options, Box::new(journal), observer, None)
                .map_err(|e| fail(e.code, e.why))?;
        let waiting = Waiting { job, begun: SystemTime::now(), socket, of_update: false };
        let waiting = Arc::new(waiting);
        self.state().incoming = Some(waiting.clone());
        let monitor = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("incoming".into())
            .spawn(move || {
                let report = waiting.job.wait();
                if report.status.0 != Status::Completed
                    && let Some(monitor) = monitor.upgrade()
                {
                    monitor.end(Ending::Failed(in_vain(&monitor.name, &report)));
                }
            })
            .map_err(|e| Error::host(doing, &e))?;
        Ok(())
    }

    /// Builds the machine that comes, as far as this side's flags have a say in it.
    fn builder(self: &Arc<Self>) -> Builder {
        let config = &self.config;
        let wishes = Wishes {
            name: Some(self.name.to_string()),
            backing: config.backing,
            uuid: config.uuid,
            memory: config.memory,
            vcpus: config.cpus.map(Into::into),
            overcommit: config.overcommit,
            ..Wishes::default()
        };
        let console = self.clone();
        let consoles = Box::new(move || console.open_console());
        Builder::new(self.hypervisor.clone(), wishes, consoles, self.sink())
    }
}

/// Why no guest came.
fn in_vain(name: &MachineName, report: &Report) -> Error {
    match &report.error {
        Some(error) => {
            let why = format!(
                "no guest came to `{name}`: its source was {}, and {}",
                report.peer, error.why
            );
            Error::new(error.code, why)
        }
        None => Error::new(Code::Cancelled, format!("no guest came to `{name}`")),
    }
}

impl Waiting {
    /// The wait for the guest of a process that is being replaced.
    pub fn over(job: DestinationJob) -> Self {
        Self { job, begun: SystemTime::now(), socket: None, of_update: true }
    }

    /// Waits until it is known how it ended.
    pub fn wait(&self) -> Report {
        self.job.wait()
    }

    /// Where it waits, with the port that the kernel chose.
    pub fn address(&self) -> &Address {
        self.job.address()
    }

    pub fn begun(&self) -> SystemTime {
        self.begun
    }

    pub fn progress(&self) -> Progress {
        self.job.progress()
    }

    pub fn report(&self) -> Report {
        self.job.report()
    }

    /// Keeps other values from now on.
    pub fn adjust(&self, parameters: &Parameters) {
        self.job.set_stall_limit(Duration::from_millis(parameters.stall_limit));
    }

    /// The process ends: nobody will be answered there any more.
    pub fn leave(&self) {
        if let Some(socket) = &self.socket {
            socket.remove();
        }
    }

    /// How the handovers stand that can be decided here: its own first, then those of dead processes that
    /// it speaks for.
    pub fn handovers(&self) -> Vec<Standing> {
        if self.of_update || self.job.phase() == Phase::Ended {
            return Vec::new();
        }
        let own = self.job.progress().handover;
        own.iter().map(|standing| (**standing).clone()).chain(self.job.spoken_for()).collect()
    }

    /// Decides one of those.
    pub fn resolve(&self, token: Token, owner: Side, fenced: bool) -> Result<(), Error> {
        self.job.command(Command::Resolve { token, owner, fenced }).map_err(Into::into)
    }
}
