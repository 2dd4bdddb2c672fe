//! A machine that only pretends, for tests and the example.
#![allow(dead_code, reason = "each test uses another part")]
#![allow(clippy::unwrap_used, reason = "clippy knows tests only by their attribute")]

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use qmp::command::{Address, Capabilities, Command, Parameters};
use qmp::reply::{
    CpuInfo, KvmInfo, MemoryInfo, MigrationInfo, MigrationStatus, NameInfo, Reply, RunState,
    StatusInfo, UuidInfo,
};
use qmp::{
    Context, Error, Event, EventSender, Handler, Limits, SavedServer, Server, ServerHandle,
    ShutdownCause,
};
use serde_json::{Map, json};
use state::{Code, Payload};

/// Long enough for any machine; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps `system_reset` from ending until it is opened.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    waiting: usize,
}

impl Gate {
    pub fn close(&self) {
        self.state.lock().unwrap().closed = true;
    }

    pub fn open(&self) {
        self.state.lock().unwrap().closed = false;
        self.changed.notify_all();
    }

    /// Returns when somebody waits at the closed gate.
    pub fn await_waiting(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.waiting == 0).unwrap());
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        state = self.changed.wait_while(state, |state| state.closed).unwrap();
        state.waiting -= 1;
    }
}

pub struct Machine {
    pub gate: Gate,
    events: EventSender,
    running: Mutex<bool>,
    settings: Mutex<(Capabilities, Parameters)>,
    quit: Sender<()>,
}

impl Machine {
    fn set_running(&self, running: bool) -> Reply {
        let mut now = self.running.lock().unwrap();
        if std::mem::replace(&mut *now, running) != running {
            self.events.send(if running { &Event::Resume } else { &Event::Stop });
        }
        Reply::Done {}
    }
}

impl Handler for Machine {
    fn execute(&self, command: Command, context: &Context) -> Result<Reply, Error> {
        Ok(match command {
            Command::QueryStatus => {
                let running = *self.running.lock().unwrap();
                let status = if running { RunState::Running } else { RunState::Paused };
                StatusInfo { running, status }.into()
            }
            Command::QueryName => NameInfo { name: Some("pretender".into()) }.into(),
            Command::QueryUuid => {
                UuidInfo { uuid: "01234567-89ab-4cde-8f01-23456789abcd".into() }.into()
            }
            Command::QueryKvm => KvmInfo { enabled: false, present: false }.into(),
            Command::QueryCpusFast => vec![CpuInfo::new(0, 1), CpuInfo::new(1, 2)].into(),
            Command::QueryMemorySizeSummary => MemoryInfo { base_memory: 1 << 30 }.into(),
            Command::QueryMachine => Map::from_iter([("pretends".to_owned(), json!(true))]).into(),
            Command::Stop => self.set_running(false),
            Command::Cont => self.set_running(true),
            Command::SystemReset => {
                self.gate.pass();
                let reason = ShutdownCause::HostQmpSystemReset;
                self.events.send(&Event::Reset { guest: false, reason });
                Reply::Done {}
            }
            Command::SystemPowerdown => {
                self.events.send(&Event::Powerdown);
                Reply::Done {}
            }
            Command::Quit => {
                let reason = ShutdownCause::HostQmpQuit;
                self.events.send(&Event::Shutdown { guest: false, reason });
                self.quit.send(()).expect("the test or example waits for it");
                Reply::Done {}
            }
            // The machine of these tests has no process that could be replaced.
            Command::Update(_) => return Err(Error::unsupported("it is not updated")),
            Command::Migrate(migrate) => match migrate.address()? {
                Address::Fd(name) => {
                    let mut file = File::from(context.take_descriptor(&name)?);
                    file.write_all(b"moved").expect("the test's pipe takes five bytes");
                    Reply::Done {}
                }
                address => {
                    return Err(Error::new(
                        Code::ConnectFailed,
                        format!("migrate: to {address}: a pretender does not move"),
                    ));
                }
            },
            Command::MigrateContinue(_) => panic!("a pretender cannot go on (on purpose)"),
            Command::QueryMigrate => {
                MigrationInfo { status: Some(MigrationStatus::None), ..MigrationInfo::default() }
                    .into()
            }
            Command::MigrateSetCapabilities(set) => {
                self.settings.lock().unwrap().0.set(&set)?.into()
            }
            Command::QueryMigrateCapabilities => self.settings.lock().unwrap().0.list().into(),
            Command::MigrateSetParameters(set) => self.settings.lock().unwrap().1.set(&set)?.into(),
            Command::QueryMigrateParameters => self.settings.lock().unwrap().1.clone().into(),
            Command::HandoverQuery(_) => Reply::Handovers(Vec::new()),
            Command::MigrateIncoming(_) | Command::MigrateCancel | Command::HandoverResolve(_) => {
                return Err(Error::new(Code::InvalidState, "a pretender does not move"));
            }
        })
    }
}

/// A server of a pretended machine.
pub struct Pretender {
    pub machine: Arc<Machine>,
    pub events: EventSender,
    pub server: ServerHandle,
    /// Told when `quit` was carried out.
    pub quit: Receiver<()>,
    pub path: PathBuf,
    limits: Limits,
    folder: Option<tempfile::TempDir>,
}

impl Pretender {
    pub fn new() -> Self {
        Self::within(Limits::default())
    }

    pub fn within(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        Self { folder: Some(folder), ..Self::at(&path, limits) }
    }

    pub fn at(path: &Path, limits: Limits) -> Self {
        let server = Server::bind_within(&[(path.to_owned(), 0o600)], limits.clone()).unwrap();
        Self::of(server, path.to_owned(), limits, None)
    }

    fn of(
        server: Server,
        path: PathBuf,
        limits: Limits,
        folder: Option<tempfile::TempDir>,
    ) -> Self {
        let events = server.events();
        let (quit, quits) = mpsc::channel();
        let machine = Arc::new(Machine {
            gate: Gate::default(),
            events: events.clone(),
            running: Mutex::new(true),
            settings: Mutex::default(),
            quit,
        });
        let handler: Arc<dyn Handler> = machine.clone();
        let server = server.start(handler).unwrap();
        Self { machine, events, server, quit: quits, path, limits, folder }
    }

    /// Suspends the server; its state has been through its encoding.
    pub fn suspend(&self) -> (SavedServer, Vec<OwnedFd>) {
        let (saved, descriptors) = self.server.suspend(PATIENCE).unwrap().into_parts();
        let saved = Payload::pack("", &saved).unpack().unwrap();
        (saved, descriptors.into_iter().map(|(_, descriptor)| descriptor).collect())
    }

    /// Suspends the server, again and again until it is in the state that was waited for.
    pub fn suspend_when(
        &self,
        mut awaited: impl FnMut(&SavedServer) -> bool,
    ) -> (SavedServer, Vec<OwnedFd>) {
        loop {
            let parts = self.suspend();
            if awaited(&parts.0) {
                return parts;
            }
            self.server.resume();
        }
    }

    /// Goes on as another process would: with another server and another machine.
    pub fn replaced(self, (saved, descriptors): (SavedServer, Vec<OwnedFd>)) -> Self {
        let Self { server: old, path, limits, folder, .. } = self;
        let mut server = Server::adopt_within(saved, descriptors, limits.clone()).unwrap();
        server.deliver(old.late_events());
        old.release();
        Self::of(server, path, limits, folder)
    }
}
