//! What a command answers when it cannot be done.

use state::{Code, Refusal};

/// An error that a person or a script is told: what was being done, to what, why it failed, and
/// what to try, in one sentence; and the stable word for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The machine-readable code; see `docs/errors.md`.
    pub code: Code,
    /// The sentence.
    pub message: String,
}

impl Error {
    /// An error of that code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Something of the host that could not be used: `doing` says what was being done, to what.
    pub fn host(doing: impl std::fmt::Display, source: &std::io::Error) -> Self {
        Self::new(Code::HostIo, format!("{doing}: {source}"))
    }

    /// All the reasons why something was refused, as one error.
    #[must_use]
    pub fn refused(doing: &str, refusals: &[Refusal]) -> Self {
        let reasons: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        let code = refusals.first().map_or(Code::Internal, |first| first.code);
        Self::new(code, format!("{doing}: {}", reasons.join("; ")))
    }
}

impl From<Error> for qmp::Error {
    fn from(error: Error) -> Self {
        Self::new(error.code, error.message)
    }
}

impl From<qmp::Error> for Error {
    fn from(error: qmp::Error) -> Self {
        Self::new(error.code, error.desc)
    }
}

impl From<motion::MotionError> for Error {
    fn from(error: motion::MotionError) -> Self {
        Self::new(error.code, error.why)
    }
}
