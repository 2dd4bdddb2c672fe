//! Moving the guest away from here.

use crate::Error;
use crate::monitor::Monitor;
use crate::observer::Observer;
use links::{Address, Descriptors};
use motion::handover::{DirJournal, Particulars, Side, Token};
use motion::source::{Command, PeerAddress, SourceJob};
use motion::{Blackout, Progress, Report, SourceMachine, SourceOptions, Status, TimeoutAction};
use qmp::command::{Migrate, Parameters};
use state::Code;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

/// A motion from here: under way, or how the last one ended.
pub(crate) struct Outgoing {
    job: SourceJob,
    observer: Arc<Observer>,
    peer: Address,
    begun: SystemTime,
}

impl Monitor {
    /// `migrate`
    pub fn migrate(
        self: &Arc<Self>,
        command: &Migrate,
        given: Arc<Descriptors>,
    ) -> Result<(), Error> {
        let doing = format!("cannot move `{}`", self.name);
        let peer = crate::address::of(&command.address()?)?;
        let guest = self.guest("move")?;
        if let Some(motion) = self.state().outgoing.clone() {
            if !motion.has_ended() {
                return Err(motion.in_the_way(&doing));
            }
            if motion.has_moved() {
                let why = format!("{doing}: its guest has moved to {} already", motion.peer());
                return Err(Error::new(Code::NotOwner, why));
            }
        }
        crate::address::check_exposure(&peer, command.insecure || self.config.insecure)
            .map_err(|e| Error::new(e.code, format!("{doing}: {e}")))?;
        let options = self.options(command);
        let journal = DirJournal::open(&self.journal)
            .map_err(|e| Error::new(Code::Journal, format!("{doing}: {e}")))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let particulars = Particulars::new(
            Token(*uuid::Uuid::new_v4().as_bytes()),
            guest.config().uuid,
            self.name.as_str(),
            peer.to_string(),
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        )
        .map_err(|e| Error::new(Code::InvalidArgument, format!("{doing}: {e}")))?;
        let check = options.check_only;
        let on_end = {
            let monitor = Arc::downgrade(self);
            move |report: &Report| {
                let Some(monitor) = monitor.upgrade() else { return };
                let moved = report.status.0 == Status::Completed && !check;
                if moved && monitor.config.exit_after_move {
                    monitor.leave();
                }
            }
        };
        let observer = Arc::new(Observer::new(self.events.clone(), on_end));
        let machine: Arc<dyn SourceMachine> = guest;
        let address = PeerAddress { address: peer.clone(), descriptors: given };
        let job = SourceJob::start(
            machine,
            particulars,
            address,
            options,
            Box::new(journal),
            observer.clone(),
        )
        .map_err(|e| Error::new(e.code, format!("{doing}: {e}")))?;
        let motion = Outgoing { job, observer, peer, begun: SystemTime::now() };
        self.state().outgoing = Some(Arc::new(motion));
        Ok(())
    }

    fn options(&self, command: &Migrate) -> SourceOptions {
        let state = self.state();
        let Parameters {
            max_bandwidth,
            downtime_limit: _,
            downtime_unlimited: _,
            avail_switchover_bandwidth,
            multifd_channels,
            stall_limit,
        } = state.parameters;
        let connections = match multifd_channels {
            0 => SourceOptions::default().connections,
            some => some.into(),
        };
        SourceOptions {
            connections,
            blackout: blackout(&state.parameters),
            max_bandwidth: NonZeroU64::new(max_bandwidth),
            switchover_bandwidth: NonZeroU64::new(avail_switchover_bandwidth),
            timeout: command.timeout.map(Duration::from_millis),
            timeout_action: match command.timeout_action.unwrap_or_default() {
                qmp::command::TimeoutAction::Cancel => TimeoutAction::Cancel,
                qmp::command::TimeoutAction::Switch => TimeoutAction::Switch,
            },
            frozen: command.frozen,
            check_only: command.check,
            pause_before_switchover: state.capabilities.pause_before_switchover,
            stall_limit: Duration::from_millis(stall_limit),
        }
    }

    /// `migrate-set-parameters`
    pub fn set_parameters(&self, set: &qmp::command::SetParameters) -> Result<(), Error> {
        let parameters = {
            let mut state = self.state();
            state.parameters.set(set)?;
            state.parameters.clone()
        };
        if let Some(motion) = self.motion_under_way() {
            motion.adjust(&parameters);
        }
        Ok(())
    }

    /// `migrate_cancel`. Out of band it must not wait, so it only passes the word on.
    pub fn cancel(&self, oob: bool) -> Result<(), Error> {
        let Some(motion) = self.motion_under_way() else {
            let restoring = self.state().restoring.clone();
            return restoring.map_or(Ok(()), |restoring| restoring.cancel());
        };
        if oob && self.undecided().is_none() {
            let failed = |e| Error::host("cannot cancel the motion: no thread can be had", &e);
            let spawned = std::thread::Builder::new().name("cancel".into()).spawn(move || {
                if let Err(error) = motion.job.cancel() {
                    tracing::warn!(%error, "cancelling a motion");
                }
            });
            return spawned.map(drop).map_err(failed);
        }
        motion.job.cancel().map_err(Into::into)
    }
}

/// The promise that the parameters make.
fn blackout(parameters: &Parameters) -> Blackout {
    match parameters.downtime_unlimited {
        true => Blackout::Unlimited,
        false => Blackout::Limit(Duration::from_millis(parameters.downtime_limit)),
    }
}

impl Outgoing {
    /// Where the guest goes to.
    pub fn peer(&self) -> &Address {
        &self.peer
    }

    /// When it began.
    pub fn begun(&self) -> SystemTime {
        self.begun
    }

    pub fn progress(&self) -> Progress {
        self.job.progress()
    }

    pub fn report(&self) -> Option<Report> {
        self.job.report()
    }

    /// Whether it is known how it ended.
    pub fn has_ended(&self) -> bool {
        self.job.report().is_some()
    }

    /// Whether the guest is the other side's.
    pub fn has_moved(&self) -> bool {
        self.job.report().is_some_and(|r| r.status.0 == Status::Completed && !r.checked)
    }

    /// Whether the guest stands still for it.
    pub fn holds_the_guest(&self) -> bool {
        !self.has_ended() && self.observer.has_stopped_the_guest()
    }

    /// `migrate-continue`
    pub fn proceed(&self) -> Result<(), Error> {
        self.job.proceed().map_err(Into::into)
    }

    /// Decides an undecided handover.
    pub fn resolve(&self, owner: Side, fenced: bool) -> Result<(), Error> {
        self.job.command(Command::Resolve { owner, fenced }).map_err(Into::into)
    }

    /// The guest has shut down or is about to be reset.
    pub fn guest_gone(&self) {
        if let Err(error) = self.job.command(Command::GuestGone) {
            tracing::debug!(%error, "telling a motion that its guest is gone");
        }
    }

    /// Keeps other values from now on. A motion that has just ended needs none.
    fn adjust(&self, parameters: &Parameters) {
        let bandwidth = NonZeroU64::new(parameters.max_bandwidth);
        for command in
            [Command::SetBlackout(blackout(parameters)), Command::SetBandwidth(bandwidth)]
        {
            if let Err(error) = self.job.command(command) {
                tracing::debug!(%error, "adjusting a motion");
            }
        }
    }

    /// Why something cannot be done while this motion is under way.
    pub fn in_the_way(&self, doing: &str) -> Error {
        Error::new(
            Code::Busy,
            format!(
                "{doing}: its motion to {} is under way ({}); cancel it with migrate_cancel first, \
                 or wait for its end",
                self.peer,
                self.progress().status.0
            ),
        )
    }

    /// Ends it because the process ends, and waits a little so that the destination is told.
    pub fn abandon(&self) {
        if let Err(error) = self.job.cancel() {
            tracing::debug!(%error, "cancelling a motion at the end");
        }
    }
}
