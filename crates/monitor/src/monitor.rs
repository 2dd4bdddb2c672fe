//! What one machine's process knows and does, whoever asks for it.

use crate::handler::Control;
use crate::incoming::Waiting;
use crate::outgoing::Outgoing;
use crate::renew::{Image, Succession};
use crate::restoring::Restoring;
use crate::{Claim, Ending, Error, MachineName, RunConfig, RuntimeDir};
use devices::console::{Console, ConsoleError, SavedConsole, Spec, restore_terminal};
use devices::event_loop::Handle;
use devices::lock;
use links::Waker;
use motion::source::Testimony;
use motion::{Machine, SourceMachine, Status};
use qmp::command::{Capabilities, Parameters};
use qmp::reply::{MigrationInfo, RunState};
use qmp::{Event, EventSender, Server, ServerHandle, ShutdownCause};
use state::{Code, Saved};
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use vmm::{EventSink, Hypervisor, SavedClock, SavedSchemas, SavedVcpu, Vm, VmEvent};

/// How long a machine whose guest has moved away waits to be asked how that went, before it ends.
const LAST_QUESTION: Duration = Duration::from_secs(2);

/// One machine's process.
pub(crate) struct Monitor {
    pub name: MachineName,
    pub config: RunConfig,
    pub hypervisor: Arc<Hypervisor>,
    /// The loop that serves the console.
    pub devices: Handle,
    pub events: EventSender,
    /// Where machines are found by name.
    pub runtime: RuntimeDir,
    /// The name, while it is this process's.
    pub claim: Mutex<Option<Claim>>,
    /// What serves the control sockets, while this process does.
    pub server: Mutex<Option<ServerHandle>>,
    /// What this process becomes when another has taken the machine over.
    pub image: Mutex<Option<Image>>,
    /// The folder of handover records.
    pub journal: PathBuf,
    /// Where it is to be found: its control sockets.
    pub sockets: Vec<PathBuf>,
    /// Where the machine says what happened in it.
    pub happenings: Sender<VmEvent>,
    /// Wakes the thread that waits for the end.
    pub waker: Waker,
    /// The console, once it was opened.
    pub console: Mutex<Option<Console>>,
    pub state: Mutex<State>,
}

/// What changes.
#[derive(Default)]
pub(crate) struct State {
    /// The machine, once there is one here.
    pub guest: Option<Arc<Vm>>,
    /// When the guest came to be here.
    pub since: Option<Instant>,
    /// When the process is to end at the latest, after its guest has moved away.
    pub leave_by: Option<Instant>,
    pub parameters: Parameters,
    pub capabilities: Capabilities,
    /// The present or last motion from here.
    pub outgoing: Option<Arc<Outgoing>>,
    /// The wait for a guest, and how it came.
    pub incoming: Option<Arc<Waiting>>,
    /// What is said for dead sources of this host.
    pub testimonies: Vec<Arc<Testimony>>,
    /// The restore of a guest from a file, and how it went.
    pub restoring: Option<Arc<Restoring>>,
    /// What is being taken over from the process before this one.
    pub succession: Option<Arc<Succession>>,
    /// How that went, once nothing is left to be done for it.
    pub succeeded: Option<MigrationInfo>,
    pub ending: Option<Ending>,
}

impl Monitor {
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Where a machine of this process says what happened in it.
    pub fn sink(&self) -> EventSink {
        let happenings = self.happenings.clone();
        Arc::new(move |event| {
            // Nobody listens any more when the process ends.
            let _ = happenings.send(event);
        })
    }

    /// A guest is here from now on.
    pub fn settle(&self, guest: Arc<Vm>) {
        let mut state = self.state();
        state.guest = Some(guest);
        state.since = Some(Instant::now());
    }

    /// Opens the console for a machine that is to come, so that people can connect to it already.
    pub fn prepare_console(self: &Arc<Self>) -> Result<(), ConsoleError> {
        // A terminal is not taken while there is no guest that could use it: Ctrl-C ends the wait.
        match self.config.console {
            Spec::Stdio => *lock(&self.console) = None,
            _ => drop(self.open_console()?),
        }
        Ok(())
    }

    /// The console that was asked for, frozen unless the guest runs.
    pub fn open_console(self: &Arc<Self>) -> Result<Console, ConsoleError> {
        let mut console = lock(&self.console);
        if let Some(console) = &*console {
            return Ok(console.clone());
        }
        let opened = Console::open(&self.config.console, &self.devices, self.quitter())?;
        Ok(console.insert(opened).clone())
    }

    /// What a person at the console types to end the machine comes to this.
    pub fn quitter(self: &Arc<Self>) -> impl Fn() + Send + Sync + 'static {
        let monitor = Arc::downgrade(self);
        move || {
            let Some(monitor) = monitor.upgrade() else { return };
            if let Err(error) = monitor.quit(Ending::Quit) {
                tracing::error!("{error}");
            }
        }
    }

    /// Begins to answer commands.
    pub fn serve(self: &Arc<Self>, server: Server) -> std::io::Result<()> {
        let handle = server.start(Arc::new(Control::new(self.clone())))?;
        *lock(&self.server) = Some(handle);
        Ok(())
    }

    /// The machine.
    ///
    /// # Errors
    /// While it waits for one.
    pub fn guest(&self, doing: &str) -> Result<Arc<Vm>, Error> {
        self.state().guest.clone().ok_or_else(|| {
            Error::new(
                Code::InvalidState,
                format!("cannot {doing} `{}`: it waits for a guest that has not come", self.name),
            )
        })
    }

    /// Gives back the terminal and removes the socket: the engine may keep the machine, and with it
    /// the console, until the process has ended.
    pub fn close_console(&self) {
        lock(&self.console).take();
        restore_terminal();
        if let Spec::Unix(path) = &self.config.console
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "cannot remove the console's socket");
        }
    }

    /// The motion from here that has not ended.
    pub fn motion_under_way(&self) -> Option<Arc<Outgoing>> {
        self.state().outgoing.clone().filter(|motion| !motion.has_ended())
    }

    pub fn run_state(&self) -> RunState {
        let state = self.state();
        let Some(guest) = &state.guest else {
            let restores = state.restoring.as_ref().is_some_and(|restoring| restoring.at_start);
            return if restores { RunState::RestoreVm } else { RunState::InMigrate };
        };
        match &state.outgoing {
            Some(motion) if motion.has_moved() || motion.left_it_stopped() => RunState::PostMigrate,
            Some(motion) if motion.holds_the_guest() && motion.is_to_a_file() => RunState::SaveVm,
            Some(motion) if motion.holds_the_guest() => RunState::FinishMigrate,
            _ => run_state(guest.state()),
        }
    }

    /// `stop`
    pub fn stop(&self) -> Result<(), Error> {
        let doing = format!("cannot pause `{}`", self.name);
        let guest = self.guest("pause")?;
        // Whether a motion ends with the guest running is decided when it begins.
        if let Some(motion) = self.motion_under_way().filter(|motion| motion.needs_the_guest()) {
            return Err(motion.in_the_way(&doing));
        }
        if guest.is_running() {
            guest.halt().map_err(|e| Error::new(e.code, format!("{doing}: {e}")))?;
            self.events.send(&Event::Stop);
        }
        Ok(())
    }

    /// `cont`
    pub fn cont(&self) -> Result<(), Error> {
        let doing = format!("cannot resume `{}`", self.name);
        let guest = self.guest("resume")?;
        if guest.is_running() {
            return Ok(());
        }
        if let Some(motion) = self.state().outgoing.clone() {
            if motion.has_moved() {
                return Err(Error::new(Code::NotOwner, format!("{doing}: {}", motion.gone())));
            }
            if motion.needs_the_guest() && !motion.cancel_for_cont() {
                return Err(motion.in_the_way(&doing));
            }
            motion.leave_alone();
            if guest.is_running() {
                return Ok(());
            }
        }
        let restoring = self.state().restoring.clone();
        if let Some(restoring) = restoring.filter(|restoring| restoring.is_held()) {
            return restoring.cont().map_err(|e| Error::new(e.code, format!("{doing}: {e}")));
        }
        if let Some(restoring) = self.state().restoring.clone() {
            restoring.retry().map_err(|e| Error::new(e.code, format!("{doing}: {e}")))?;
        }
        self.let_run(&guest, &doing)
    }

    /// Runs a guest that is stopped.
    fn let_run(&self, guest: &Vm, doing: &str) -> Result<(), Error> {
        // It was told to stop, and was perhaps not waited for.
        guest.pause().map_err(|e| Error::new(e.code, format!("{doing}: {e}")))?;
        let permit = guest.surrender().ok_or_else(|| {
            Error::new(Code::NotOwner, format!("{doing}: this side may not run its guest"))
        })?;
        guest.run(permit).map_err(|e| Error::new(e.code, format!("{doing}: {e}")))?;
        self.events.send(&Event::Resume);
        Ok(())
    }

    /// `system_powerdown`
    pub fn power_down(&self) -> Result<(), Error> {
        let guest = self.guest("shut down")?;
        if !guest.is_running() {
            let (name, state) = (&self.name, self.run_state());
            return Err(Error::new(
                Code::InvalidState,
                format!(
                    "cannot shut `{name}` down: its guest does not run (it is {}), so it cannot \
                     listen; `whimbrel resume {name}` first, or `whimbrel kill {name}`",
                    crate::view::word(&state)
                ),
            ));
        }
        guest.press_power_button();
        self.events.send(&Event::Powerdown);
        Ok(())
    }

    /// `system_reset`, or the guest's own wish. A motion under way has nothing left to move, and what it
    /// has stopped runs again.
    pub fn reset(&self, by_guest: bool) -> Result<(), Error> {
        let doing = format!("cannot reset `{}`", self.name);
        let guest = self.guest("reset")?;
        let motion = self.motion_under_way();
        let stopper =
            motion.clone().filter(|motion| motion.ran_before() && motion.needs_the_guest());
        if let Some(motion) = motion {
            motion.guest_gone();
        }
        // Whoever let it run meanwhile has granted its wish.
        if !by_guest || guest.wants_reset() {
            guest.reset().map_err(|e| Error::new(e.code, format!("{doing}: {e}")))?;
        }
        let reason =
            if by_guest { ShutdownCause::GuestReset } else { ShutdownCause::HostQmpSystemReset };
        self.events.send(&Event::Reset { guest: by_guest, reason });
        if let Some(motion) = stopper
            && !guest.is_running()
            // Told by then: that it was stopped is heard before that it runs.
            && motion.wait().status.0 != Status::Completed
        {
            self.let_run(&guest, &doing)?;
        }
        Ok(())
    }

    /// Ends the process, unless that could lose the guest.
    ///
    /// # Errors
    /// [`Code::Undecided`] where this process may hold the only copy.
    pub fn quit(&self, ending: Ending) -> Result<(), Error> {
        if let Some(undecided) = self.in_doubt() {
            let name = &self.name;
            return Err(Error::new(
                Code::Undecided,
                format!(
                    "cannot end `{name}`: it may hold the only copy of its guest, because handover \
                     {} with {} is not decided; see `whimbrel handover query {name}`, or use \
                     `whimbrel kill --force {name}` and lose it",
                    undecided.token, undecided.peer
                ),
            ));
        }
        self.end(ending);
        Ok(())
    }

    /// Ends the process. The first reason counts.
    pub fn end(&self, ending: Ending) {
        self.state().ending.get_or_insert(ending);
        self.waker.wake();
    }

    /// Ends the process soon, because its guest has moved away: when somebody has been told how that
    /// went, or nobody asks.
    pub fn leave(&self) {
        self.state().leave_by = Some(Instant::now() + LAST_QUESTION);
        self.waker.wake();
    }

    /// Somebody has been told how the motion went.
    pub fn has_told(&self) {
        if let Some(leave_by) = &mut self.state().leave_by {
            *leave_by = Instant::now();
            self.waker.wake();
        }
    }

    /// The handover of which this side does not know how it ended.
    pub fn undecided(&self) -> Option<motion::Undecided> {
        let (outgoing, incoming) = {
            let state = self.state();
            (state.outgoing.clone(), state.incoming.clone())
        };
        let source = outgoing.and_then(|motion| motion.progress().undecided);
        source.or_else(|| incoming.and_then(|waiting| waiting.progress().undecided))
    }

    /// The handover because of which this process may hold the only copy of the guest.
    fn in_doubt(&self) -> Option<motion::Undecided> {
        let (outgoing, incoming) = {
            let state = self.state();
            (state.outgoing.clone(), state.incoming.clone())
        };
        let source = outgoing.and_then(|motion| motion.progress().in_doubt);
        source.or_else(|| incoming.and_then(|waiting| waiting.progress().in_doubt))
    }

    /// What the machine said happened in it.
    pub fn happened(&self, event: VmEvent) {
        match event {
            VmEvent::Shutdown => {
                if let Some(motion) = self.motion_under_way() {
                    motion.guest_gone();
                }
                self.end(Ending::PoweredOff);
            }
            VmEvent::Reset => {
                if let Err(error) = self.reset(true) {
                    tracing::error!(%error, "the guest asked for a reset");
                }
            }
            VmEvent::IoError { reason } => {
                tracing::warn!(reason, "the guest is stopped");
                self.events.send(&Event::Stop);
            }
            VmEvent::GuestError { vcpu, reason, registers } => {
                if let Some(motion) = self.motion_under_way() {
                    motion.guest_gone();
                }
                self.events.send(&Event::Stop);
                // As text: not every reader of JSON keeps 64 bits.
                let text = |(name, value): (&str, u64)| (name.to_owned(), format!("{value:#x}"));
                let registers: std::collections::BTreeMap<_, _> =
                    registers.0.into_iter().map(text).collect();
                let registers = serde_json::json!(registers);
                self.events.send(&Event::GuestError { cpu: vcpu, reason, registers });
            }
        }
    }
}

/// The devices are what has a schema beside the machine's own parts.
pub(crate) fn devices_of(guest: &Vm) -> Vec<String> {
    let schemas = guest.describe().ok().and_then(|mut about| about.take::<SavedSchemas>("").ok());
    let own = [SavedVcpu::SCHEMA, SavedClock::SCHEMA, SavedConsole::SCHEMA];
    let names = schemas.into_iter().flat_map(|saved| saved.schemas).map(|(name, ..)| name);
    names
        .filter(|name| !own.contains(&name.as_str()))
        .map(|name| name.strip_prefix("whimbrel.").unwrap_or(&name).to_owned())
        .collect()
}

/// The machine's own state in QMP's words.
fn run_state(state: vmm::RunState) -> RunState {
    match state {
        vmm::RunState::Prelaunch => RunState::Prelaunch,
        vmm::RunState::Running => RunState::Running,
        vmm::RunState::Paused => RunState::Paused,
        // It has come, and was not to run.
        vmm::RunState::Inmigrate => RunState::Paused,
        vmm::RunState::FinishMigrate => RunState::FinishMigrate,
        vmm::RunState::Postmigrate => RunState::PostMigrate,
        vmm::RunState::SaveVm => RunState::SaveVm,
        vmm::RunState::RestoreVm => RunState::RestoreVm,
        vmm::RunState::Suspended => RunState::Suspended,
        vmm::RunState::Shutdown => RunState::Shutdown,
        vmm::RunState::InternalError => RunState::InternalError,
        vmm::RunState::IoError => RunState::IoError,
        vmm::RunState::GuestPanicked => RunState::GuestPanicked,
    }
}
