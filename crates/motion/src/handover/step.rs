//! What goes into a handover, and what comes out.

use super::{Message, Record, RunPermit};
use serde::Serialize;

/// What happened. One thing at a time; the clock is the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input<M = Message> {
    /// The peer said something, over whichever connection.
    Received(M),
    /// Destination only: everything has been restored and verified; it could run.
    Complete,
    /// The connection to the peer broke, was closed, or was silent for too long.
    LinkLost,
    /// A timer that was set has run out.
    Expired(Timer),
    /// Something failed: here, or at the peer, which said so outside of the handover.
    Failed,
    /// An operator wants the motion cancelled.
    Cancel,
    /// An operator wants the guest to run.
    Cont,
    /// An operator decides where nobody else can.
    Resolve {
        /// Who is to own the guest.
        owner: Side,
        /// The operator's word that the side that is *not* to own the guest can no longer run it.
        fenced: bool,
    },
    /// The [`Output::Record`] of the step before could not be written, and what followed it in that
    /// list was not done.
    RecordFailed,
}

impl<M> Input<M> {
    /// The same, with what was said in other words.
    pub(super) fn map<N>(self, say: impl FnOnce(M) -> N) -> Input<N> {
        match self {
            Self::Received(message) => Input::Received(say(message)),
            Self::Complete => Input::Complete,
            Self::LinkLost => Input::LinkLost,
            Self::Expired(timer) => Input::Expired(timer),
            Self::Failed => Input::Failed,
            Self::Cancel => Input::Cancel,
            Self::Cont => Input::Cont,
            Self::Resolve { owner, fenced } => Input::Resolve { owner, fenced },
            Self::RecordFailed => Input::RecordFailed,
        }
    }
}

/// What is to be done, in the order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Output<M = Message, R = Record, P = RunPermit> {
    /// Send this, over the link or a new connection, if there is a way.
    Send(M),
    /// Write this down before anything that follows. Replaces the handover's record.
    Record(R),
    /// Remove the handover's record: whoever could ask knows the answer.
    Forget,
    /// The guest may run here.
    Grant(P),
    /// Destination: drop the copy of the guest that is here.
    Discard,
    /// Start this timer, afresh if it is running.
    SetTimer(Timer),
    /// Stop this timer, if it is running.
    ClearTimer(Timer),
    /// Tell whoever looks after the machine.
    Notice(Notice),
}

/// The timers. How long each runs is the caller's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Source: READY has to come within it. The caller starts it when the handover begins.
    Ready,
    /// Source: after COMMIT, RUNNING has to come within it, or the source is undecided.
    Reply,
    /// Say it again, over a new connection. A caller that sees no sense in going on lets it lapse
    /// once [`owner`](super::SourceHandover::owner) is decided.
    Retry,
    /// Destination: `--handover-hold`. Never runs out where that was not asked for.
    Hold,
}

/// One side, seen from the process in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// This process.
    Here,
    /// The other side of the handover.
    Peer,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Here => "here",
            Self::Peer => "peer",
        })
    }
}

/// News for whoever looks after the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Notice {
    /// Source: COMMIT was sent and nothing came back. The guest is stopped until the destination
    /// answers or an operator decides.
    Undecided,
    /// Destination: the source was lost after READY. The copy that is here may be the only one; it
    /// waits for the source's word or for an operator.
    Holding,
    /// Decided: who owns the guest. Comes once, except where an operator gave the guest to a peer
    /// that had refused it already: then [`Side::Here`] follows.
    Decided(Side),
    /// Neither side has the guest any more: the source died with it, and the destination refused it.
    Lost,
}
