//! What a command answers when it is refused or fails.

use serde::{Deserialize, Deserializer, Serialize};
use state::Code;

/// Longest description that is made of what a client sent, in bytes: an error must not become a
/// way to have a megabyte echoed.
const LONGEST_ECHO: usize = 512;

/// QMP's own classes of errors (QAPI `QapiErrorClass`, as far as they are used here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// Anything but the below; [`Error::code`] tells more.
    GenericError,
    /// There is no such command, or not in this phase of the session.
    CommandNotFound,
}

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{desc}")]
pub struct Error {
    /// QMP's class.
    pub class: Class,
    /// What was being done, to what, and why it failed; for people.
    pub desc: String,
    /// The stable word for scripts; see `docs/errors.md`.
    #[serde(rename = "x-whimbrel-code", default = "foreign", deserialize_with = "code")]
    pub code: Code,
}

impl Error {
    /// An error of class `GenericError`.
    #[must_use]
    pub fn new(code: Code, desc: impl Into<String>) -> Self {
        Self { class: Class::GenericError, desc: desc.into(), code }
    }

    /// An error of class `CommandNotFound`.
    #[must_use]
    pub fn command_not_found(code: Code, desc: impl Into<String>) -> Self {
        Self { class: Class::CommandNotFound, desc: desc.into(), code }
    }

    /// A command, argument or value that is not valid. The description is cut short, because part
    /// of it is usually what the client sent.
    #[must_use]
    pub fn invalid(desc: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, clip(desc.into()))
    }

    /// Something known that this build does not do.
    #[must_use]
    pub fn unsupported(desc: impl Into<String>) -> Self {
        Self::new(Code::Unsupported, clip(desc.into()))
    }
}

/// The first [`LONGEST_ECHO`] bytes of a description, whole characters only.
pub(crate) fn clip(mut text: String) -> String {
    if text.len() > LONGEST_ECHO {
        let end = (0..=LONGEST_ECHO).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A server that sends no code is not ours, one that sends an unknown code is newer than we are:
/// in both cases the description says what went wrong.
fn foreign() -> Code {
    Code::PeerFailed
}

fn code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Code, D::Error> {
    let word = String::deserialize(deserializer)?;
    Ok(word.parse().unwrap_or_else(|_| foreign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_class_description_and_stable_code() {
        let error = Error::new(Code::Busy, "migrate: a motion is under way");
        let text = serde_json::to_string(&error).unwrap();
        assert_eq!(
            text,
            r#"{"class":"GenericError","desc":"migrate: a motion is under way","x-whimbrel-code":"busy"}"#
        );
        assert_eq!(serde_json::from_str::<Error>(&text).unwrap(), error);
    }

    #[test]
    fn an_error_of_another_server_is_understood_without_a_code() {
        let error: Error =
            serde_json::from_str(r#"{"class":"CommandNotFound","desc":"no"}"#).unwrap();
        assert_eq!(error, Error::command_not_found(Code::PeerFailed, "no"));
    }

    #[test]
    fn a_description_made_of_input_is_cut_at_a_whole_character() {
        let error = Error::invalid("é".repeat(LONGEST_ECHO));
        assert!(error.desc.len() <= LONGEST_ECHO + '…'.len_utf8());
        assert!(error.desc.ends_with("é…"));
    }
}
