//! What is wrong on purpose: whatever a simulator does not find, it does not prove.

use crate::keep::Lie;
use crate::machine::Defect;
use motion::handover::{Decision, Role};
use std::fmt;

/// Rules of the handover that the engine never comes to need: it has no `cont` of its own, its timer
/// for READY ends as a failure does, and nobody can ask a source that has not said COMMIT. The model
/// (`motion/tests/handover_model`) breaks them.
#[cfg(feature = "mutate")]
const NOT_USED: [motion::handover::decision::Rule; 3] = {
    use motion::handover::decision::Rule;
    [Rule::ContNeedsPermission, Rule::ReadyTimerEndsWithCommit, Rule::AskedBeforeCommitKnowsNothing]
};

/// A rule of the engine that nobody has seen it need here: what gives a copy up is heard before its pass
/// could be said to have ended.
#[cfg(feature = "mutate")]
const NOT_NEEDED: motion::Rule = motion::Rule::GivenUpIsNoCopy;

/// Rules of a guest from a file that its restore can come to need: it never says anything to a
/// handover that has ended, is decided, or did not ask. The tests beside them break all of them.
#[cfg(feature = "mutate")]
const FILE_RULES: [motion::handover::decision::FileRule; 2] = {
    use motion::handover::decision::FileRule;
    [FileRule::ClaimedFirst, FileRule::ClaimWaitsForCont]
};

/// Rules of a handover between two who share RAM that the engine can come to need: it never says to a
/// destination that is not ready that its link was lost, and no honest source says COMMIT to it. The
/// tests beside them break all of them.
#[cfg(feature = "mutate")]
const SHARED_RULES: [motion::handover::decision::SharedRule; 4] = {
    use motion::handover::decision::SharedRule;
    [
        SharedRule::KeptFirst,
        SharedRule::EnteredFirst,
        SharedRule::HeirTakesOver,
        SharedRule::SilenceIsAnswered,
    ]
};

/// A mistake, in the engine, or in what it relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The engine breaks one of its rules, or one of the handover's.
    #[cfg(feature = "mutate")]
    Engine(motion::Broken),
    /// The machine does something wrong.
    Machine(Defect),
    /// The journal says that it has written this, and has not.
    JournalLies(Role, Decision),
    /// Frames are lost on the way to RAM.
    LosesFrames,
    /// A page is lost on the way to RAM.
    LosesPages,
    /// Half of a page is lost.
    TearsPages,
    /// Two pages change places.
    SwapsPages,
    /// The disk of saved guests lies.
    DiskLies(Lie),
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "mutate")]
            Self::Engine(motion::Broken::Engine(rule)) => write!(f, "engine without {rule:?}"),
            #[cfg(feature = "mutate")]
            Self::Engine(motion::Broken::Handover(rule)) => write!(f, "handover without {rule:?}"),
            #[cfg(feature = "mutate")]
            Self::Engine(motion::Broken::File(rule)) => write!(f, "continuation without {rule:?}"),
            #[cfg(feature = "mutate")]
            Self::Engine(motion::Broken::Shared(rule)) => write!(f, "sharing without {rule:?}"),
            Self::Machine(defect) => write!(f, "machine that {defect:?}"),
            Self::JournalLies(role, decision) => {
                write!(f, "journal that lies about {} {}", role.name(), decision.name())
            }
            Self::DiskLies(lie) => write!(f, "disk that lies about {lie:?}"),
            other => write!(f, "link that {other:?}"),
        }
    }
}

impl Mutant {
    const AROUND_THE_ENGINE: [Self; 16] = [
        Self::Machine(Defect::ForgetsABit),
        Self::Machine(Defect::RearmsLate),
        Self::Machine(Defect::KeepsLogging),
        Self::Machine(Defect::StaysStopped),
        Self::Machine(Defect::PausesLate),
        Self::Machine(Defect::WritesEarly),
        Self::Machine(Defect::RunsUnentered),
        Self::JournalLies(Role::Source, Decision::Open),
        Self::JournalLies(Role::Source, Decision::Refused),
        Self::JournalLies(Role::Destination, Decision::Open),
        Self::JournalLies(Role::Destination, Decision::Refused),
        Self::JournalLies(Role::Destination, Decision::Committed),
        Self::LosesFrames,
        Self::LosesPages,
        Self::TearsPages,
        Self::SwapsPages,
    ];

    /// All that there are: those of the engine only where it can be broken.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let all = Self::AROUND_THE_ENGINE.into_iter();
        let all = all.chain(Lie::ALL.map(Self::DiskLies));
        #[cfg(feature = "mutate")]
        let all = {
            use motion::Broken;
            use motion::handover::decision::Rule;
            let engine = motion::Rule::ALL.into_iter().filter(|rule| *rule != NOT_NEEDED);
            let engine = engine.map(Broken::Engine);
            let handover = Rule::ALL.into_iter().filter(|rule| !NOT_USED.contains(rule));
            let file = FILE_RULES.map(Broken::File);
            let shared = SHARED_RULES.map(Broken::Shared);
            let rules = engine.chain(handover.map(Broken::Handover)).chain(file).chain(shared);
            all.chain(rules.map(Self::Engine))
        };
        all.collect()
    }

    /// Has the engine be as this mutant wants it, on this thread.
    pub(crate) fn infect(mutant: Option<Self>) {
        #[cfg(feature = "mutate")]
        motion::break_rule(match mutant {
            Some(Self::Engine(broken)) => Some(broken),
            _ => None,
        });
        let _ = mutant;
    }

    pub(crate) fn damages_pages(self) -> bool {
        matches!(self, Self::LosesPages | Self::TearsPages | Self::SwapsPages)
    }

    pub(crate) fn defect(self) -> Option<Defect> {
        match self {
            Self::Machine(defect) => Some(defect),
            _ => None,
        }
    }

    pub(crate) fn disk(self) -> Option<Lie> {
        match self {
            Self::DiskLies(lie) => Some(lie),
            _ => None,
        }
    }

    pub(crate) fn lie(self) -> Option<(Role, Decision)> {
        match self {
            Self::JournalLies(role, decision) => Some((role, decision)),
            _ => None,
        }
    }
}
