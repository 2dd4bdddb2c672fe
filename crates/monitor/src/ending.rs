//! Why a machine's process ends.

use crate::Error;
use qmp::ShutdownCause;
use rustix::process::Signal;
use std::fmt;

/// Why a machine's process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The guest powered off.
    PoweredOff,
    /// Somebody said `quit`, or typed Ctrl-A x.
    Quit,
    /// A signal.
    Signal(Signal),
    /// The guest has moved away, and nothing was to stay.
    Moved,
    /// A new process has taken the machine over.
    Renewed,
    /// This process was to take a machine over, and the old one keeps it.
    NotTaken,
    /// It cannot go on.
    Failed(Error),
}

impl Ending {
    /// What the event SHUTDOWN says of it.
    pub(crate) fn cause(&self) -> ShutdownCause {
        match self {
            Self::PoweredOff => ShutdownCause::GuestShutdown,
            Self::Quit | Self::Moved | Self::Renewed | Self::NotTaken => ShutdownCause::HostQmpQuit,
            Self::Signal(_) => ShutdownCause::HostSignal,
            Self::Failed(_) => ShutdownCause::HostError,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("the guest has powered off"),
            Self::Quit => f.write_str("the machine was ended"),
            Self::Signal(signal) => write!(f, "the machine was ended by {signal:?}"),
            Self::Moved => f.write_str("the guest has moved away"),
            Self::Renewed => f.write_str("a new process has taken the machine over"),
            Self::NotTaken => f.write_str("the old process keeps its machine"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}
