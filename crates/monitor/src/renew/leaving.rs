//! A machine whose process is being replaced.

use super::channel::Kind;
use super::held::{Held, Role};
use super::outset::SavedReason;
use super::update::Renewal;
use crate::Error;
use crate::monitor::Monitor;
use devices::lock;
use memory::{DirtyLog, GuestRam};
use minicbor::{Decode, Encode};
use motion::handover::RunPermit;
use motion::{Machine, MachineError, SourceMachine};
use state::{Bundle, Code, Refusal, Saved};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vmm::{InUpdate, SavedTouched, Vm};

/// How long commands that are under way may take to end, before the guest is stopped.
const COMMANDS: Duration = Duration::from_secs(3);

/// What clients have to be told that happened since their connections were sent ahead.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct SavedLateEvents {
    /// One line of JSON each.
    #[n(0)]
    pub lines: Vec<String>,
}

impl Saved for SavedLateEvents {
    const SCHEMA: &'static str = "whimbrel.update.late-events";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// What was set on this machine while it ran.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct SavedSettings {
    /// The parameters of motions, as `query-migrate-parameters` answers them.
    #[n(0)]
    pub parameters: String,
    /// Its capabilities.
    #[n(1)]
    pub capabilities: String,
    /// How long the guest has been here, in milliseconds.
    #[n(2)]
    pub uptime: Option<u64>,
}

impl Saved for SavedSettings {
    const SCHEMA: &'static str = "whimbrel.update.settings";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// The machine of a process that is being replaced.
pub(super) struct Leaving {
    vm: Arc<Vm>,
    monitor: Arc<Monitor>,
    renewal: Arc<Renewal>,
    /// What people hold on to is on its way to the new process, and nobody serves it here.
    ahead: Mutex<bool>,
}

impl Leaving {
    pub fn new(vm: Arc<Vm>, monitor: Arc<Monitor>, renewal: Arc<Renewal>) -> Self {
        Self { vm, monitor, renewal, ahead: Mutex::new(false) }
    }

    /// The guest stays here: everybody is served again.
    pub fn stay(&self) {
        if std::mem::take(&mut *lock(&self.ahead)) {
            self.monitor.serve_again();
            self.vm.console().thaw();
        }
    }

    /// Stops serving and gives everything to the new process.
    fn give(&self) -> Result<(), Error> {
        let monitor = &self.monitor;
        let mut bundle = Bundle::new();
        let mut held = Held::default();
        *lock(&self.ahead) = true;
        let (server, descriptors) = monitor.suspend_server(COMMANDS)?;
        bundle.put("", &server);
        descriptors.into_iter().for_each(|fd| held.put(Role::Qmp, "QMP", fd));
        // Nobody can set anything any more: what was set last is in it.
        let (settings, looking) = {
            let state = monitor.state();
            let text = |value: Result<String, serde_json::Error>| {
                value.map_err(|e| Error::new(Code::Internal, e.to_string()))
            };
            let settings = SavedSettings {
                parameters: text(serde_json::to_string(&state.parameters))?,
                capabilities: text(serde_json::to_string(&state.capabilities.list()))?,
                uptime: state.since.and_then(|since| since.elapsed().as_millis().try_into().ok()),
            };
            // The guest runs meanwhile, and nobody is served.
            (settings, Duration::from_millis(state.parameters.stall_limit))
        };
        bundle.put("", &settings);
        let devices = self.vm.in_update();
        for (device, needs) in devices.map_err(|e| Error::host("looking at the devices", &e))? {
            match needs {
                InUpdate::Nothing => {}
                // What the guest prints is written here until it stops, and the rest travels with its state.
                InUpdate::Drained(end, descriptors) => {
                    bundle.put("", &end);
                    descriptors.into_iter().for_each(|fd| held.put(Role::Console, device, fd));
                }
            }
        }
        let (table, descriptors) = held.into_parts();
        bundle.put("", &table);
        let channel = self.renewal.channel()?;
        let failed = |e: std::io::Error| {
            let code = match e.kind() {
                std::io::ErrorKind::TimedOut => Code::LinkStalled,
                _ => Code::LinkLost,
            };
            Error::new(code, format!("giving descriptors to the new process: {e}"))
        };
        channel.send(Kind::Ahead, &bundle.encode(), &descriptors, looking).map_err(failed)?;
        match channel.receive(looking).map_err(failed)? {
            Some(letter) if letter.kind == Kind::Prepared => Ok(()),
            Some(letter) if letter.kind == Kind::Refused => {
                self.renewal.has_refused();
                Err(refused(&letter.content))
            }
            Some(letter) => {
                let why = format!("the new process answered with {:?}", letter.kind);
                Err(Error::new(Code::ProtocolError, why))
            }
            None => Err(Error::new(Code::PeerFailed, "the new process ended")),
        }
    }
}

/// What a process said that refuses.
pub(super) fn refused(content: &[u8]) -> Error {
    let reason = Bundle::decode(content).and_then(|mut bundle| bundle.take::<SavedReason>(""));
    match reason {
        Ok(SavedReason { code, why }) => {
            Error::new(code, format!("the new process refuses: {why}"))
        }
        Err(error) => Error::new(Code::ProtocolError, error.to_string()),
    }
}

impl Machine for Leaving {
    fn ram(&self) -> &Arc<GuestRam> {
        self.vm.ram()
    }

    fn is_running(&self) -> bool {
        self.vm.is_running()
    }

    fn pause(&self) -> Result<(), MachineError> {
        self.vm.pause()
    }

    fn surrender(&self) -> Option<RunPermit> {
        self.vm.surrender()
    }

    fn grant(&self, permit: RunPermit) {
        self.vm.grant(permit);
    }

    fn run(&self, permit: RunPermit) -> Result<(), MachineError> {
        self.vm.run(permit)
    }
}

impl SourceMachine for Leaving {
    fn describe(&self) -> Result<Bundle, MachineError> {
        self.vm.describe()
    }

    fn describe_within(&self, most: u64) -> Result<Bundle, MachineError> {
        self.vm.describe_within(most)
    }

    fn refusals(&self) -> Vec<Refusal> {
        let mut refusals = self.vm.refusals();
        refusals.extend(self.renewal.refusal());
        let ram = self.vm.ram();
        let mut refuse = |code, why: &str, advice: &str| {
            refusals.push(Refusal::new(code, "ram", why, advice));
        };
        if ram.image().is_some() {
            refuse(
                Code::NotMovable,
                "it is mapped from the file that the guest was restored from, and its own pages \
                 cannot be given to another process",
                "restore with --lazy or --eager a guest that is to be updated; this one can be moved \
                 to another process with `whimbrel migrate`",
            );
        } else if ram.may_wait() {
            refuse(
                Code::Busy,
                "pages of it are still to come out of a file, or to be copied into one",
                "wait until that is done; `whimbrel status` shows it",
            );
        }
        refusals
    }

    fn send_ahead(&self) -> Result<(), MachineError> {
        self.give().map_err(|e| {
            MachineError::new(e.code, "giving the new process what people hold on to", e.message)
        })
    }

    fn yield_to_guest(&self) {
        self.vm.yield_to_guest();
    }

    fn dirty_log(&self) -> &dyn DirtyLog {
        self.vm.dirty_log()
    }

    fn save(&self) -> Result<Bundle, MachineError> {
        let mut bundle = self.vm.save()?;
        let touched = SavedTouched::of(self.vm.ram())
            .map_err(|e| MachineError::new(Code::HostIo, "asking what of RAM was touched", e))?;
        if let Some(touched) = touched {
            bundle.put("", &touched);
        }
        let lines = self.monitor.late_events();
        if !lines.is_empty() {
            bundle.put("", &SavedLateEvents { lines });
        }
        Ok(bundle)
    }
}
