//! What an event comes to where both sides have the guest's RAM.
//!
//! Neither side may go on by what it believes of the other then: RAM moves on with the first
//! instruction. One word that both see decides, once and for all, and it is asked right before
//! anything would make one of them run the guest. So silence leaves nothing undecided, and a
//! destination whose source is gone need not wait for anybody.

use super::{AllRules, DestinationPhase, Event, SourcePhase};
use crate::handover::{Input, Side, Timer, Verdict, Word};

/// A rule of a handover between two who share RAM. None can be left out: a test takes out one at a
/// time, and a promise breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SharedRule {
    /// The source goes on with the guest only when it has kept it.
    KeptFirst,
    /// The destination goes on with the guest only when it has entered it.
    EnteredFirst,
    /// Who is not ready enters nothing.
    OnlyTheReadyEnter,
    /// A destination that is ready takes over from a source that is gone.
    HeirTakesOver,
    /// After COMMIT the word answers for a destination that does not.
    SilenceIsAnswered,
}

impl SharedRule {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::KeptFirst,
        Self::EnteredFirst,
        Self::OnlyTheReadyEnter,
        Self::HeirTakesOver,
        Self::SilenceIsAnswered,
    ];
}

/// Which rules are kept. Production has [`AllRules`], which is no choice at run time.
pub trait SharedRules {
    /// Whether this one is.
    fn keep(rule: SharedRule) -> bool;
}

impl SharedRules for AllRules {
    fn keep(_: SharedRule) -> bool {
        true
    }
}

/// What an event comes to at the source: what would have it keep the guest, or ask for it, is answered
/// by the word. `keep` keeps the guest, if that can still be.
pub fn at_source<R: SharedRules>(
    phase: SourcePhase,
    event: Event,
    keep: impl FnOnce() -> bool,
) -> Event {
    let offers = phase == SourcePhase::Offered;
    let is_open = offers || phase == SourcePhase::Committing;
    let silence = match event {
        Input::LinkLost | Input::Failed | Input::Expired(Timer::Ready | Timer::Reply) => is_open,
        _ => false,
    };
    let settles = match event {
        // After COMMIT it is too late for that.
        Input::Cancel => offers,
        Input::Resolve { owner, fenced } => is_open && fenced && owner == Side::Here,
        Input::Received(word) => word == Word::Answer(Verdict::Refused),
        _ => silence && (offers || R::keep(SharedRule::SilenceIsAnswered)),
    };
    if !settles {
        return event;
    }
    let kept = !R::keep(SharedRule::KeptFirst) || keep();
    let verdict = if kept { Verdict::Refused } else { Verdict::Committed };
    Input::Received(Word::Answer(verdict))
}

/// What an event comes to at the destination: whatever the source said, it may have gone on by now, and
/// then what would give the guest to this side is the end of it. `enter` enters it, if that can be.
pub fn at_destination<R: SharedRules>(
    phase: DestinationPhase,
    event: Event,
    enter: impl FnOnce() -> bool,
) -> Event {
    let is_ready = matches!(phase, DestinationPhase::Ready | DestinationPhase::Holding);
    let gives = match event {
        Input::Received(word) => word == Word::Commit,
        Input::Resolve { owner, fenced } => fenced && owner == Side::Here,
        // If the source has not gone on, that is as good as COMMIT.
        Input::LinkLost => R::keep(SharedRule::HeirTakesOver),
        _ => false,
    };
    if !gives || !is_ready && R::keep(SharedRule::OnlyTheReadyEnter) {
        return event;
    }
    let entered = !R::keep(SharedRule::EnteredFirst) || enter();
    Input::Received(if entered { Word::Commit } else { Word::Abort })
}

#[cfg(test)]
mod tests;
