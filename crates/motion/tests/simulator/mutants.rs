//! What is wrong on purpose: whatever a simulator does not find, it does not prove.

use crate::machine::Defect;
use motion::handover::{Decision, Role};

/// A mistake, in the machine, in the journal, or in what drives the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    Machine(Defect),
    /// The journal says that it has written this, and has not.
    JournalLies(Role, Decision),
    /// READY may come as late as it likes.
    NoReadyTimer,
    /// `cont` works while it is undecided.
    RunsWhileUndecided,
    /// A destination that does not know says that it refuses.
    RefusedForUnknown,
    /// The destination runs the guest when it is ready.
    RunsWhenReady,
    /// A destination that lost its source drops what it has.
    DropsWhenHolding,
    /// An undecided source asks once.
    AsksOnce,
    /// A destination that does not know says that the guest is its own.
    CommittedForUnknown,
    /// Questions are not answered.
    NeverAnswers,
    /// A source lets its timers run out without noticing.
    IgnoresTimers,
    /// Frames are lost on the way to RAM.
    LosesFrames,
    LosesPages,
    TearsPages,
    SwapsPages,
}

impl Mutant {
    pub const ALL: [Self; 23] = [
        Self::Machine(Defect::ForgetsABit),
        Self::Machine(Defect::RearmsLate),
        Self::Machine(Defect::KeepsLogging),
        Self::Machine(Defect::StaysStopped),
        Self::Machine(Defect::PausesLate),
        Self::JournalLies(Role::Source, Decision::Open),
        Self::JournalLies(Role::Source, Decision::Refused),
        Self::JournalLies(Role::Destination, Decision::Open),
        Self::JournalLies(Role::Destination, Decision::Refused),
        Self::JournalLies(Role::Destination, Decision::Committed),
        Self::NoReadyTimer,
        Self::RunsWhileUndecided,
        Self::RefusedForUnknown,
        Self::RunsWhenReady,
        Self::DropsWhenHolding,
        Self::AsksOnce,
        Self::CommittedForUnknown,
        Self::NeverAnswers,
        Self::IgnoresTimers,
        Self::LosesFrames,
        Self::LosesPages,
        Self::TearsPages,
        Self::SwapsPages,
    ];

    pub fn damages_pages(self) -> bool {
        matches!(self, Self::LosesPages | Self::TearsPages | Self::SwapsPages)
    }

    pub fn defect(self) -> Option<Defect> {
        match self {
            Self::Machine(defect) => Some(defect),
            _ => None,
        }
    }

    pub fn lie(self) -> Option<(Role, Decision)> {
        match self {
            Self::JournalLies(role, decision) => Some((role, decision)),
            _ => None,
        }
    }
}
