//! Why something could not be measured.

use crate::floor::FloorError;
use memory::RamError;
use qmp::ClientError;
use std::io;

/// Why a run of a case could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file, a pipe or a process of the benchmark's own.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A process ended before it answered.
    #[error("{peer} does not start: {said}")]
    Start {
        /// Which VMM.
        peer: &'static str,
        /// Its last words.
        said: String,
    },
    /// A command failed.
    #[error("{peer}, {command}: {source}")]
    Command {
        /// Which VMM.
        peer: &'static str,
        /// Which command.
        command: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// An answer lacks what it should hold.
    #[error("{peer} answers {command} without {what}")]
    Answer {
        /// Which VMM.
        peer: &'static str,
        /// Which command.
        command: &'static str,
        /// What is missing.
        what: &'static str,
    },
    /// The guest does not speak.
    #[error("the guest of {peer} said nothing {when}")]
    Silent {
        /// Which VMM.
        peer: &'static str,
        /// What it was asked, or at which moment.
        when: &'static str,
    },
    /// A move did not end as it should.
    #[error("{peer}: the move ended as `{status}`: {why}")]
    Move {
        /// Which VMM.
        peer: &'static str,
        /// Where it stands.
        status: String,
        /// Why, in the VMM's words.
        why: String,
    },
    /// The engine, used directly, failed.
    #[error("{doing}: {why}")]
    Engine {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        why: String,
    },
    /// The floor cannot be measured.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// There is no memory for it.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The file of raw samples is another machine's, or no such file.
    #[error("{0}")]
    Raw(String),
    /// There is no such case.
    #[error("there is no case `{name}`; `whimbrel bench {bench} --list` names all")]
    NoSuchCase {
        /// What was asked for.
        name: String,
        /// Of which benchmark.
        bench: &'static str,
    },
}

impl BenchError {
    /// For `map_err`: what was being done.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// The machine-readable reason.
    #[must_use]
    pub fn code(&self) -> state::Code {
        match self {
            Self::Floor(e) => e.code(),
            Self::Ram(_) => state::Code::MemoryUnavailable,
            Self::Raw(_) | Self::NoSuchCase { .. } => state::Code::InvalidArgument,
            Self::Silent { .. } => state::Code::GuestError,
            _ => state::Code::HostIo,
        }
    }
}
