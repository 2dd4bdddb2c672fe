//! Exit statuses.

use state::Code;
use std::process::ExitCode;

/// How a verb ended, as the exit status says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Status 0.
    Done,
    /// Status 1: the guest is safe where it was.
    Failed,
    /// Status 2.
    Usage,
    /// Status 3: refused in preflight, before anything was touched.
    Refused,
    /// Status 4.
    Cancelled,
}

impl Exit {
    /// The status that stands for an error.
    pub fn of(error: &anyhow::Error) -> Self {
        code_of(error).map_or(Self::Failed, Self::of_code)
    }

    /// The status that stands for a code.
    pub fn of_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::Usage,
            Code::IncompatibleVersion
            | Code::IncompatibleCpu
            | Code::IncompatibleTsc
            | Code::ClockSkew
            | Code::IncompatibleDevice
            | Code::ConfigConflict
            | Code::InsufficientMemory
            | Code::NotMovable
            | Code::CannotProtect
            | Code::SnapshotIncomplete
            | Code::SnapshotClaimed
            | Code::SnapshotUnsupported
            | Code::FileExists => Self::Refused,
            Code::Cancelled => Self::Cancelled,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Cancelled => 4,
        })
    }
}

/// The code that an error carries, if any of its causes has one.
pub fn code_of(error: &anyhow::Error) -> Option<Code> {
    error.chain().find_map(|cause| {
        let ours = cause.downcast_ref::<monitor::Error>().map(|e| e.code);
        ours.or_else(|| cause.downcast_ref::<qmp::Error>().map(|e| e.code))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_status_follows_the_code_whatever_was_said_around_it() {
        let of = |code| {
            let error: anyhow::Result<()> = Err(monitor::Error::new(code, "x").into());
            Exit::of(&error.context("moving").unwrap_err())
        };
        assert_eq!(of(Code::InvalidArgument), Exit::Usage);
        assert_eq!(of(Code::IncompatibleCpu), Exit::Refused);
        assert_eq!(of(Code::Cancelled), Exit::Cancelled);
        assert_eq!(of(Code::LinkLost), Exit::Failed);
        assert_eq!(Exit::of(&anyhow::anyhow!("x")), Exit::Failed);
    }
}
