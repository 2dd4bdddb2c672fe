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
    fn the_manual_lists_the_codes_of_each_status() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
        let text = std::fs::read_to_string(path).unwrap();
        let begin = text.find("The exit status of the command line").unwrap();
        let sentence = text[begin..].split("\n\n").next().unwrap();
        let listed = |of: &str, until: &str| -> Vec<&str> {
            let part = sentence.split(of).nth(1).unwrap().split(until).next().unwrap();
            part.split('`').skip(1).step_by(2).collect()
        };
        let usage = listed(": 2 for", "; 3");
        let refused = listed("; 3 where", "; 4 for");
        let cancelled = listed("; 4 for", "; 1 for");
        let is_in = |list: &[&str], code: &str| {
            let named =
                |word: &&str| word.strip_suffix('…').map_or(*word == code, |w| code.starts_with(w));
            list.iter().any(named)
        };
        for code in Code::ALL {
            let word = code.as_str();
            let status = match () {
                () if is_in(&usage, word) => Exit::Usage,
                () if is_in(&refused, word) => Exit::Refused,
                () if is_in(&cancelled, word) => Exit::Cancelled,
                () => Exit::Failed,
            };
            assert_eq!(Exit::of_code(*code), status, "{code}");
        }
    }

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
