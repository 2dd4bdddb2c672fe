//! What the two sides of a handover say to each other.

use super::Token;
use serde::Serialize;

/// One message about one handover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Message {
    /// The handover that it is about.
    pub token: Token,
    /// What is said.
    pub word: Word,
}

/// What is said about a handover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Word {
    /// Destination: everything is here and verified, and this is on record. I do not run it.
    Ready,
    /// Source: it is yours. I may not run it again, unless you refuse it.
    Commit,
    /// Destination: I own the guest.
    Running,
    /// Source: I have the guest and keep it; drop yours.
    Abort,
    /// What became of this handover?
    Query,
    /// The answer to [`Word::Query`]. A destination's [`Verdict::Refused`] also answers COMMIT and
    /// ABORT; a source's [`Verdict::Committed`] says that it has understood and will not ask again.
    Answer(Verdict),
}

/// What became of a handover, as far as the one who is asked knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The destination owns the guest.
    Committed,
    /// The destination never owned the guest and never will.
    Refused,
    /// Whoever was asked cannot say: it has no record, or one without a decision.
    Unknown,
}

impl Token {
    /// The message that says `word` about this handover.
    #[must_use]
    pub fn says(self, word: Word) -> Message {
        Message { token: self, word }
    }
}
