//! Run states, and what the guest does to them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Run states by the names of QEMU's `RunState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Built, and never run.
    Prelaunch,
    /// The guest runs.
    Running,
    /// Stopped by a person.
    Paused,
    /// Built for a guest that has not come.
    Inmigrate,
    /// Stopped by a motion that is about to end.
    FinishMigrate,
    /// The guest has gone elsewhere.
    Postmigrate,
    /// Stopped while its state is written.
    SaveVm,
    /// Stopped while its state is read.
    RestoreVm,
    /// The guest sleeps.
    Suspended,
    /// The guest has powered off.
    Shutdown,
    /// A vCPU cannot go on.
    InternalError,
    /// A device of the host failed.
    IoError,
    /// The guest's kernel says that it has crashed.
    GuestPanicked,
}

impl RunState {
    /// The name in QMP.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Inmigrate => "inmigrate",
            Self::FinishMigrate => "finish-migrate",
            Self::Postmigrate => "postmigrate",
            Self::SaveVm => "save-vm",
            Self::RestoreVm => "restore-vm",
            Self::Suspended => "suspended",
            Self::Shutdown => "shutdown",
            Self::InternalError => "internal-error",
            Self::IoError => "io-error",
            Self::GuestPanicked => "guest-panicked",
        }
    }

    /// Whether the guest cannot go on from here but by a reset.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Shutdown | Self::InternalError | Self::GuestPanicked)
    }
}

impl serde::Serialize for RunState {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened in a machine without anybody having asked from outside. All vCPUs have been told
/// to stop when it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmEvent {
    /// The guest powered off: run state [`RunState::Shutdown`].
    Shutdown,
    /// Something of the host that the guest depends on failed: run state [`RunState::IoError`]. It
    /// can go on when that is there again.
    IoError {
        /// What happened.
        reason: String,
    },
    /// The guest asked to be reset, and waits for [`Vm::reset`](crate::Vm::reset).
    Reset,
    /// A vCPU cannot go on: run state [`RunState::InternalError`].
    GuestError {
        /// The vCPU.
        vcpu: u32,
        /// What happened.
        reason: String,
        /// Its registers.
        registers: Registers,
    },
}

/// Registers of a vCPU, by name; none where they could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registers(pub Vec<(&'static str, u64)>);

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{name}={value:#x}")?;
        }
        Ok(())
    }
}

/// Where events go. Called on the vCPU's thread: it must neither block nor ask anything of the
/// machine, which would wait for that very thread. A channel's sender is what it is meant for.
pub type EventSink = Arc<dyn Fn(VmEvent) + Send + Sync>;

/// A machine's run state, as far as the machine itself knows.
pub(crate) struct Status {
    state: Mutex<Now>,
    events: EventSink,
}

#[derive(Debug, Clone)]
struct Now {
    state: RunState,
    /// The guest has asked for a reset that has not been carried out.
    reset_wanted: bool,
    /// Why the guest cannot go on, or could not when it was stopped.
    failure: Option<String>,
}

impl Status {
    pub fn new(state: RunState, events: EventSink) -> Self {
        Self { state: Mutex::new(Now { state, reset_wanted: false, failure: None }), events }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> RunState {
        self.now().state
    }

    pub fn failure(&self) -> Option<String> {
        self.now().failure.clone()
    }

    pub fn reset_wanted(&self) -> bool {
        self.now().reset_wanted
    }

    /// Somebody outside stopped or started it. The guest's own end stays.
    pub fn set(&self, state: RunState) {
        let mut now = self.now();
        if !now.state.is_end() {
            now.state = state;
            now.failure = None;
        }
    }

    /// Something of the host that the guest depends on failed.
    pub fn fail_io(&self, reason: &str) {
        {
            let mut now = self.now();
            if now.state.is_end() || now.state == RunState::IoError {
                return;
            }
            now.state = RunState::IoError;
            now.failure = Some(reason.to_owned());
        }
        (self.events)(VmEvent::IoError { reason: reason.to_owned() });
    }

    /// The machine is as if it had just been switched on.
    pub fn set_anew(&self, state: RunState) {
        *self.now() = Now { state, reset_wanted: false, failure: None };
    }

    /// A vCPU cannot go on. `false` if the guest had ended already: then it is no news.
    pub fn fail(&self, vcpu: u32, reason: &str, registers: Registers) -> bool {
        {
            let mut now = self.now();
            if now.state.is_end() {
                return false;
            }
            now.state = RunState::InternalError;
            now.failure = Some(format!("vCPU {vcpu}: {reason}"));
        }
        (self.events)(VmEvent::GuestError { vcpu, reason: reason.to_owned(), registers });
        true
    }

    /// The guest powered off.
    pub fn shut_down(&self) {
        {
            let mut now = self.now();
            if now.state.is_end() {
                return;
            }
            now.state = RunState::Shutdown;
        }
        (self.events)(VmEvent::Shutdown);
    }

    /// The guest asked for a reset.
    pub fn want_reset(&self) {
        {
            let mut now = self.now();
            if now.state.is_end() || now.reset_wanted {
                return;
            }
            now.reset_wanted = true;
        }
        (self.events)(VmEvent::Reset);
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.now().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn status() -> (Status, mpsc::Receiver<VmEvent>) {
        let (sender, events) = mpsc::channel();
        let sink: EventSink = Arc::new(move |event| sender.send(event).unwrap());
        (Status::new(RunState::Running, sink), events)
    }

    #[test]
    fn only_the_first_end_is_an_event() {
        let (status, events) = status();
        let registers = Registers(vec![("rip", 0xfff0), ("cs", 8)]);
        assert_eq!(registers.to_string(), "rip=0xfff0 cs=0x8");
        assert!(status.fail(3, "triple fault", registers.clone()));
        assert!(!status.fail(1, "triple fault", Registers::default()));
        status.shut_down();
        status.want_reset();
        status.set(RunState::Paused);
        assert_eq!(status.state(), RunState::InternalError);
        assert_eq!(status.failure().as_deref(), Some("vCPU 3: triple fault"));
        let reason = "triple fault".to_owned();
        let event = VmEvent::GuestError { vcpu: 3, reason, registers };
        assert_eq!(events.try_iter().collect::<Vec<_>>(), [event]);
    }

    #[test]
    fn a_reset_takes_the_machine_out_of_any_state() {
        let (status, events) = status();
        status.want_reset();
        status.want_reset();
        assert!(status.reset_wanted());
        status.set_anew(RunState::Running);
        assert!(!status.reset_wanted());
        assert_eq!(events.try_iter().collect::<Vec<_>>(), [VmEvent::Reset]);
    }
}
