//! Moving the guest away from here, or a copy of it.

use crate::Error;
use crate::monitor::Monitor;
use crate::observer::Observer;
use crate::renew::Renewal;
use links::{Address, Descriptors};
use motion::handover::{DirJournal, Particulars, Side, Standing, Token};
use motion::source::{Command, FilePlace, PeerAddress, SourceJob};
use motion::{
    Blackout, Machine as _, Progress, Purpose, RamWay, Report, SourceMachine, SourceOptions,
    Status, TimeoutAction,
};
use qmp::SetFiles;
use qmp::command::{At, Migrate, Mode, Parameters};
use snapshot::Target;
use state::Code;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};
use vmm::Vm;

/// A motion from here: under way, or how the last one ended.
pub(crate) struct Outgoing {
    job: SourceJob,
    observer: Arc<Observer>,
    peer: String,
    purpose: Purpose,
    to_a_file: bool,
    cont_cancels: bool,
    /// The guest ran when it began.
    ran: bool,
    /// The process that is to take the machine over, where it is an update.
    renewal: Option<Arc<Renewal>>,
    /// The guest, which stayed stopped after it was copied, was let run.
    left: AtomicBool,
    begun: SystemTime,
}

/// Where a guest goes to.
enum Destination {
    Peer(PeerAddress),
    File(FilePlace),
}

impl Monitor {
    /// `migrate`
    pub fn migrate(
        self: &Arc<Self>,
        command: &Migrate,
        given: Arc<Descriptors>,
        set: Option<SetFiles>,
    ) -> Result<(), Error> {
        let doing = format!("cannot {} `{}`", verb(command)?, self.name);
        self.check_postcopy(&doing)?;
        let guest = self.guest("move")?;
        self.may_begin(&doing)?;
        let (peer, destination) = self.destination(command, given, set, &doing)?;
        self.check_background(&destination, &doing)?;
        let reboots = self.reboots(command, &destination, &doing)?;
        let options = self.options(command, &destination, reboots);
        let journal = DirJournal::open(&self.journal)
            .map_err(|e| Error::new(Code::Journal, format!("{doing}: {e}")))?;
        let particulars = self.particulars(&guest, &peer, &doing)?;
        let purpose = options.purpose;
        let gives_away = purpose == Purpose::Move && !options.check_only;
        let on_end = {
            let monitor = Arc::downgrade(self);
            move |report: &Report| {
                let Some(monitor) = monitor.upgrade() else { return };
                let moved = report.status.0 == Status::Completed && gives_away;
                if moved && monitor.config.exit_after_move {
                    monitor.leave();
                }
            }
        };
        let observer = Arc::new(Observer::new(self.events.clone(), on_end));
        let ran = guest.is_running();
        let machine: Arc<dyn SourceMachine> = guest;
        let (journal, told) = (Box::new(journal), observer.clone());
        let to_a_file = matches!(destination, Destination::File(_));
        let job = match destination {
            Destination::Peer(peer) => {
                SourceJob::start(machine, particulars, peer, options, journal, told)
            }
            Destination::File(place) => {
                SourceJob::write(machine, particulars, place, options, journal, told)
            }
        };
        let motion = Outgoing {
            job: job.map_err(|e| Error::new(e.code, format!("{doing}: {e}")))?,
            observer,
            peer,
            purpose,
            to_a_file,
            cont_cancels: command.cont_cancels,
            ran,
            renewal: None,
            left: AtomicBool::new(false),
            begun: SystemTime::now(),
        };
        self.state().outgoing = Some(Arc::new(motion));
        Ok(())
    }

    /// Whether the guest is here, and nothing else is done with it.
    ///
    /// # Errors
    /// The motion that is in the way, or with which the guest has gone.
    pub fn may_begin(&self, doing: &str) -> Result<(), Error> {
        match self.state().outgoing.clone() {
            Some(motion) if !motion.has_ended() => Err(motion.in_the_way(doing)),
            Some(motion) if motion.has_moved() => {
                Err(Error::new(Code::NotOwner, format!("{doing}: {}", motion.gone())))
            }
            _ => Ok(()),
        }
    }

    /// What a handover of this guest to `peer` is known by.
    pub fn particulars(&self, guest: &Vm, peer: &str, doing: &str) -> Result<Particulars, Error> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Particulars::new(
            Token(*uuid::Uuid::new_v4().as_bytes()),
            guest.config().uuid,
            self.name.as_str(),
            peer,
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        )
        .map_err(|e| Error::new(Code::InvalidArgument, format!("{doing}: {e}")))
    }

    /// Where the guest is to go, and what that is called.
    fn destination(
        &self,
        command: &Migrate,
        given: Arc<Descriptors>,
        set: Option<SetFiles>,
        doing: &str,
    ) -> Result<(String, Destination), Error> {
        let address = command.address()?;
        let direct = self.state().parameters.direct_io;
        let place = |target| FilePlace {
            target,
            direct,
            builder: concat!("whimbrel ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        if let qmp::command::Address::File { path, offset } = &address {
            let (path, offset) = (path.clone(), *offset);
            let name = address.to_string();
            let target = match set {
                None => Target::Path { path, offset, force: command.force },
                Some(SetFiles { file, direct }) => {
                    Target::Descriptor { file, direct, offset, name }
                }
            };
            return Ok((address.to_string(), Destination::File(place(target))));
        }
        let peer = crate::address::of(&address)?;
        crate::address::check_exposure(&peer, command.insecure || self.config.insecure)
            .map_err(|e| Error::new(e.code, format!("{doing}: {e}")))?;
        if let Address::Fd(name) = &peer
            && let Some(file) = regular_file(&given, name)
        {
            let name = peer.to_string();
            // What comes before where it stands is somebody else's.
            let offset = rustix::fs::tell(&file)
                .map_err(|e| Error::host(format!("{doing}: looking at {name}"), &e.into()))?;
            let target = Target::Descriptor { file, direct: None, offset, name: name.clone() };
            return Ok((name, Destination::File(place(target))));
        }
        Ok((
            peer.to_string(),
            Destination::Peer(PeerAddress { address: peer, descriptors: given, sibling: None }),
        ))
    }

    /// Who wants a copy of the start is not to be given a move instead.
    fn check_background(&self, destination: &Destination, doing: &str) -> Result<(), Error> {
        let is_set = self.state().capabilities.background_snapshot;
        if is_set && !matches!(destination, Destination::File(_)) {
            let why = "`background-snapshot` is for files; switch it off";
            return Err(Error::new(Code::Unsupported, format!("{doing}: {why}")));
        }
        Ok(())
    }

    /// Whether RAM stays where it is while the host starts anew: `cpr-reboot`.
    ///
    /// # Errors
    /// When that makes no sense for what else is asked.
    fn reboots(&self, command: &Migrate, to: &Destination, doing: &str) -> Result<bool, Error> {
        let mode = command.mode.unwrap_or(self.state().parameters.mode);
        let against = match mode {
            // As an update it went another way.
            Mode::Normal | Mode::CprTransfer | Mode::CprExec => return Ok(false),
            Mode::CprReboot if !matches!(to, Destination::File(_)) => {
                "mode `cpr-reboot` writes a machine's state to a file, and this is none"
            }
            Mode::CprReboot if command.snapshot || command.at.is_some() => {
                "mode `cpr-reboot` takes no snapshot: the guest goes on from its memory file"
            }
            Mode::CprReboot => return Ok(true),
        };
        Err(Error::new(Code::InvalidArgument, format!("{doing}: {against}")))
    }

    fn options(
        &self,
        command: &Migrate,
        destination: &Destination,
        reboots: bool,
    ) -> SourceOptions {
        let state = self.state();
        let Parameters {
            mode: _,
            cpr_exec_command: _,
            max_bandwidth,
            downtime_limit: _,
            downtime_unlimited: _,
            avail_switchover_bandwidth,
            multifd_channels,
            direct_io: _,
            stall_limit,
            io_stall,
        } = state.parameters;
        let connections = match multifd_channels {
            0 if matches!(destination, Destination::File(_)) => FilePlace::WRITERS,
            0 => SourceOptions::default().connections,
            some => some.into(),
        };
        let at_start = match command.at {
            Some(at) => at == At::Start,
            None => state.capabilities.background_snapshot,
        };
        SourceOptions {
            purpose: match destination {
                Destination::File(_) if reboots => Purpose::Move,
                Destination::File(_) if at_start && !command.frozen => Purpose::CopyAtStart,
                Destination::File(_) if command.snapshot => Purpose::Copy,
                Destination::File(_) if !command.frozen => Purpose::CopyAndStop,
                _ => Purpose::Move,
            },
            ram: if reboots { RamWay::Shared } else { RamWay::Passes },
            connections,
            // The guest stands still until the host is there again.
            blackout: match reboots {
                true => Blackout::Unlimited,
                false => blackout(&state.parameters),
            },
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
            stall_limit: Duration::from_millis(match destination {
                Destination::File(_) => io_stall,
                Destination::Peer(_) => stall_limit,
            }),
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
        let waiting = self.state().incoming.clone();
        if let Some(waiting) = waiting {
            waiting.adjust(&parameters);
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

/// What is being done, for messages.
fn verb(command: &Migrate) -> Result<&'static str, Error> {
    Ok(match command.address()? {
        qmp::command::Address::File { .. } if command.mode == Some(Mode::CprReboot) => "update",
        qmp::command::Address::File { .. } if command.frozen => "save",
        qmp::command::Address::File { .. } => "write a snapshot of",
        _ => "move",
    })
}

/// The descriptor of this name, if it is a regular file's: a guest is written to it as to a path.
fn regular_file(given: &Descriptors, name: &str) -> Option<OwnedFd> {
    let fd = given.take(name)?;
    let mode = rustix::fs::fstat(&fd).map(|about| about.st_mode).unwrap_or_default();
    if rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::RegularFile {
        return Some(fd);
    }
    given.give(name, fd);
    None
}

/// The promise that the parameters make.
pub(crate) fn blackout(parameters: &Parameters) -> Blackout {
    match parameters.downtime_unlimited {
        true => Blackout::Unlimited,
        false => Blackout::Limit(Duration::from_millis(parameters.downtime_limit)),
    }
}

impl Outgoing {
    /// An update.
    pub fn of_update(
        job: SourceJob,
        observer: Arc<Observer>,
        peer: String,
        renewal: Arc<Renewal>,
        ran: bool,
    ) -> Self {
        Self {
            job,
            observer,
            peer,
            purpose: Purpose::Move,
            to_a_file: false,
            cont_cancels: false,
            ran,
            renewal: Some(renewal),
            left: AtomicBool::new(false),
            begun: SystemTime::now(),
        }
    }

    /// Waits until it is known how it ended.
    pub fn wait(&self) -> Report {
        self.job.wait()
    }

    /// The versions of the program that is replaced and of the one that replaces it, where it is an
    /// update.
    pub fn versions(&self) -> Option<(String, Option<String>)> {
        self.renewal.as_ref().map(|renewal| renewal.versions())
    }

    /// Whether it is an update in which a guardian would end with the process that it guards.
    pub fn is_unguarded(&self) -> bool {
        self.renewal.as_ref().is_some_and(|renewal| renewal.is_unguarded())
    }

    /// Whether it is an update, and another process has taken the machine over. Waits until it is known.
    pub fn has_renewed(&self) -> bool {
        self.renewal.as_ref().is_some_and(|renewal| {
            let _ = self.job.wait();
            renewal.has_taken_over()
        })
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
        self.purpose == Purpose::Move && self.has_completed()
    }

    /// Whether it has ended without success.
    pub fn has_failed(&self) -> bool {
        self.job.report().is_some_and(|report| report.status.0 != Status::Completed)
    }

    fn has_completed(&self) -> bool {
        self.job.report().is_some_and(|r| r.status.0 == Status::Completed && !r.checked)
    }

    /// Whether the guest ran when it began, and so is to run where it ends.
    pub fn ran_before(&self) -> bool {
        self.ran
    }

    /// Whether the guest was copied, and has stayed stopped since.
    pub fn left_it_stopped(&self) -> bool {
        let left = self.left.load(Ordering::Acquire);
        self.purpose == Purpose::CopyAndStop && self.has_completed() && !left
    }

    /// The guest was let run after it was copied.
    pub fn leave_alone(&self) {
        self.left.store(true, Ordering::Release);
    }

    /// Whether it is written to a file.
    pub fn is_to_a_file(&self) -> bool {
        self.to_a_file
    }

    /// Ends it because somebody wants the guest to run, if it was begun so.
    pub fn cancel_for_cont(&self) -> bool {
        self.cont_cancels && self.job.cancel().is_ok() && {
            let _ = self.job.wait();
            true
        }
    }

    /// Where the guest is, when it is not here any more.
    pub fn gone(&self) -> String {
        if self.renewal.is_some() {
            return "a new process has taken it over".to_owned();
        }
        match self.to_a_file {
            true => {
                format!("its guest was saved to {}; `whimbrel restore` continues it", self.peer)
            }
            false => format!("its guest has moved to {}", self.peer),
        }
    }

    /// Whether the guest stands still for it.
    pub fn holds_the_guest(&self) -> bool {
        !self.has_ended() && self.observer.has_stopped_the_guest()
    }

    /// Whether it decides when the guest runs, until it has ended.
    pub fn needs_the_guest(&self) -> bool {
        !self.has_ended() && !self.progress().released
    }

    /// `migrate-continue`
    pub fn proceed(&self) -> Result<(), Error> {
        self.job.proceed().map_err(Into::into)
    }

    /// How its handover stands, while anybody may ask for that or decide it.
    pub fn handover(&self) -> Option<Arc<Standing>> {
        // An update decides itself, and a file is asked until it has answered.
        let progress = self.progress();
        let asks = !self.to_a_file || progress.undecided.is_some();
        progress.handover.filter(|_| asks && self.renewal.is_none() && !self.job.is_over())
    }

    /// Decides its handover.
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
        let of_last_pages = NonZeroU64::new(parameters.avail_switchover_bandwidth);
        let stall = Command::SetStall(Duration::from_millis(parameters.stall_limit));
        let commands = [
            Command::SetBlackout(blackout(parameters)),
            Command::SetBandwidth(bandwidth),
            Command::SetSwitchoverBandwidth(of_last_pages),
        ];
        // No peer is on the other end of a file.
        for command in commands.into_iter().chain((!self.to_a_file).then_some(stall)) {
            if let Err(error) = self.job.command(command) {
                tracing::debug!(%error, "adjusting a motion");
            }
        }
    }

    /// Why something cannot be done while this motion is under way.
    pub fn in_the_way(&self, doing: &str) -> Error {
        let what = match (self.to_a_file, self.purpose) {
            (false, _) if self.renewal.is_some() => "update",
            (false, _) => "motion",
            (true, Purpose::Move) => "save",
            (true, _) => "snapshot",
        };
        Error::new(
            Code::Busy,
            format!(
                "{doing}: its {what} to {} is under way ({}); cancel it with migrate_cancel first, \
                 or wait for its end",
                self.peer,
                self.progress().status.0
            ),
        )
    }

    /// Ends it because the process ends, and waits a little so that the destination is told, and whoever
    /// listens here.
    pub fn abandon(&self) {
        /// It may have to wait for a page of RAM that never comes.
        const TELLING: Duration = Duration::from_secs(2);
        if let Err(error) = self.job.cancel() {
            tracing::debug!(%error, "cancelling a motion at the end");
            if error.code != Code::InvalidState {
                return;
            }
            // It had ended before.
        }
        let _ = self.job.wait_within(TELLING);
    }
}
