//! What a handover does not do, and why.

use super::{JournalError, Side, Token, Word};
use state::Code;

/// Something that a handover did not do. Its state is what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("handover {token}: {why}")]
pub struct HandoverError {
    /// The handover.
    pub token: Token,
    /// Why not.
    pub why: Denial,
}

/// Why a handover did not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Denial {
    /// Cancel after COMMIT.
    #[error("it is too late to cancel: the destination has been given the guest")]
    TooLate,
    /// Nobody here knows who owns the guest.
    #[error(
        "it is not known which side owns the guest, so it stays stopped here; see what `handover \
         query` says on both sides, then use `handover resolve`"
    )]
    Undecided,
    /// The guest is not this side's.
    #[error("the guest belongs to the other side and cannot run here")]
    NotOwner,
    /// Resolve without the word that it needs.
    #[error(
        "the side that is not to own the guest must be unable to run it; make sure that it is, and \
         say so with `fenced`"
    )]
    NotFenced,
    /// Run a guest that is being handed over.
    #[error("the guest is being handed over; cancel the motion first")]
    InProgress,
    /// Resolve what is not undecided.
    #[error("there is nothing to resolve yet: the motion is under way and can be cancelled")]
    NothingToResolve,
    /// Resolve what has been decided otherwise.
    #[error("it is decided already: the guest's owner is the side called `{0}`")]
    AlreadyDecided(Side),
    /// Take over a guest whose memory is gone.
    #[error("the process that held the guest is gone, and the guest's memory with it")]
    NoGuest,
    /// There is no record.
    #[error("no such handover is on record here")]
    NoSuchToken,
    /// A message about another handover.
    #[error("a message about handover {0} came in its place")]
    OtherToken(Token),
    /// A message that this side cannot get from an honest peer in its phase.
    #[error("the peer said {0:?}, which makes no sense in this phase; it was ignored")]
    Unexpected(Word),
    /// The peer claims the opposite of what it said, or of what was decided here.
    #[error(
        "the peer said {0:?}, which contradicts what was decided here; check that the guest does \
         not run on both sides"
    )]
    Contradiction(Word),
    /// An input that this role does not have.
    #[error("this role has no such step")]
    NotForThisRole,
}

impl Denial {
    /// The machine-readable reason.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::TooLate => Code::TooLate,
            Self::Undecided => Code::Undecided,
            Self::NotOwner | Self::NoGuest => Code::NotOwner,
            Self::NotFenced => Code::NotFenced,
            Self::InProgress => Code::Busy,
            Self::NothingToResolve | Self::AlreadyDecided(_) => Code::InvalidState,
            Self::NoSuchToken | Self::OtherToken(_) => Code::NoSuchToken,
            Self::Unexpected(_) | Self::Contradiction(_) => Code::ProtocolError,
            Self::NotForThisRole => Code::Internal,
        }
    }
}

/// Why a driven step was not done, or not recorded.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The handover refused the step; nothing was done.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// The record could not be written. The handover has been told, and what it then decided has
    /// been done.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl DriveError {
    /// The machine-readable reason.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Handover(e) => e.why.code(),
            Self::Journal(_) => Code::Journal,
        }
    }
}

impl HandoverError {
    /// The machine-readable reason.
    #[must_use]
    pub fn code(&self) -> Code {
        self.why.code()
    }
}
