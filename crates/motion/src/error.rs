//! Why a motion ended without success.

use crate::MachineError;
use crate::handover::{DriveError, HandoverError};
use state::{Code, Refusal};
use wire::FrameError;

/// Why a motion, or a command to it, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct MotionError {
    /// The machine-readable reason.
    pub code: Code,
    /// What was being done, to what, and why it failed.
    pub why: String,
    /// All reasons, where it was refused before anything was touched.
    pub refusals: Vec<Refusal>,
}

impl MotionError {
    /// An error of this kind.
    pub fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into(), refusals: Vec::new() }
    }

    /// Refused, for all of these reasons.
    #[must_use]
    pub fn refused(refusals: Vec<Refusal>) -> Self {
        let code = refusals.first().map_or(Code::Internal, |r| r.code);
        let all: Vec<String> = refusals.iter().map(Refusal::to_string).collect();
        Self { code, why: format!("refused: {}", all.join("; ")), refusals }
    }

    /// The connection, or what came over it, was at fault while doing `what`.
    #[must_use]
    pub fn link(what: &str, error: &FrameError) -> Self {
        let code = if error.is_stall() {
            Code::LinkStalled
        } else if error.is_link() {
            Code::LinkLost
        } else {
            Code::ProtocolError
        };
        Self::new(code, format!("{what}: {error}"))
    }

    /// The connection failed while sending.
    #[must_use]
    pub fn sending(what: &str, error: std::io::Error) -> Self {
        Self::link(what, &FrameError::Io(error))
    }
}

impl From<MachineError> for MotionError {
    fn from(error: MachineError) -> Self {
        Self::new(error.code, error.to_string())
    }
}

impl From<HandoverError> for MotionError {
    fn from(error: HandoverError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<DriveError> for MotionError {
    fn from(error: DriveError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
