//! `--console`: where the guest's console goes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the guest's console goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// Standard input and output of this process.
    Stdio,
    /// A new pseudo-terminal.
    Pty,
    /// Output is appended to a file; there is no input.
    File(PathBuf),
    /// A Unix socket that takes one client at a time.
    Unix(PathBuf),
    /// Nowhere.
    Off,
}

/// A console that is none of those.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not one of the words.
    #[error("`{0}` is no console: use stdio, pty, file:PATH, unix:PATH or off")]
    Unknown(String),
    /// The path is missing.
    #[error("`{0}:` needs a path, as in `{0}:/tmp/console`")]
    NoPath(&'static str),
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let path = |kind, path: &str| {
            if path.is_empty() { Err(SpecError::NoPath(kind)) } else { Ok(PathBuf::from(path)) }
        };
        match text.split_once(':') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "pty" => Ok(Self::Pty),
            None if text == "off" => Ok(Self::Off),
            Some(("file", rest)) => path("file", rest).map(Self::File),
            Some(("unix", rest)) => path("unix", rest).map(Self::Unix),
            _ if text == "file" => Err(SpecError::NoPath("file")),
            _ if text == "unix" => Err(SpecError::NoPath("unix")),
            _ => Err(SpecError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::Pty => f.write_str("pty"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Off => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_as_it_is_written() {
        for text in ["stdio", "pty", "off", "file:/a/b c", "file:x:y", "unix:rel.sock"] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_says_what_there_is() {
        for text in ["", "tty", "stdio:", "pty:x", "off:", "tcp:1", "FILE:x", "off "] {
            assert_eq!(text.parse::<Spec>(), Err(SpecError::Unknown(text.to_owned())));
        }
        for text in ["file", "file:", "unix", "unix:"] {
            assert!(matches!(text.parse::<Spec>(), Err(SpecError::NoPath(_))), "{text}");
        }
    }
}
