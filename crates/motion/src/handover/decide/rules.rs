//! The rules of the handover, each by name.

use std::fmt::Debug;
use std::hash::Hash;

/// A rule of the handover. None can be left out: a test takes out one at a time, and a promise breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    // The source.
    /// After COMMIT, `migrate_cancel` is too late.
    CancelEndsWithCommit,
    /// After COMMIT, `cont` is refused.
    ContNeedsPermission,
    /// After COMMIT, the READY timer means nothing.
    ReadyTimerEndsWithCommit,
    /// After COMMIT, silence decides nothing.
    SilenceDecidesNothing,
    /// `unknown` is not `refused`.
    UnknownDecidesNothing,
    /// Who still has its permit does not say COMMIT, even when asked.
    AskedBeforeCommitKnowsNothing,
    /// That the guest is being given away is on record before COMMIT goes out.
    CommitIsRecorded,
    /// That the guest was kept is on record before ABORT goes out.
    AbortIsRecorded,
    /// ABORT is said until the destination has heard it.
    AbortIsRepeated,
    /// An undecided source asks until it gets an answer.
    UndecidedAsksAgain,
    /// A source whose operator gave the guest away says so until the destination has heard it.
    ReleaseIsRepeated,
    /// A guest that an operator gave away comes back when the peer turns out to have refused it.
    RefusedReturnsAlways,
    /// The record stays until the destination is known to own the guest.
    SourceRecordStaysUntilConfirmed,

    // The destination.
    /// READY is no permission to run.
    ReadyDoesNotRun,
    /// READY is on record before it is said.
    ReadyIsRecorded,
    /// A READY destination that lost its source keeps its copy.
    ReadyHolds,
    /// Being asked before COMMIT decides the handover.
    QuestionDecides,
    /// A refusal is on record before it is the answer to a question.
    RefusalIsRecorded,
    /// After a refusal, COMMIT is ignored.
    RefusalIsFinal,
    /// After COMMIT, the answer is `committed`.
    CommittedIsFinal,
    /// Owning the guest is on record before it is said.
    CommittedIsRecorded,
    /// That record stays until the source says that it has heard.
    CommittedStaysUntilHeard,
    /// ABORT ends it.
    AbortIsObeyed,

    // Whoever finds a record.
    /// READY without a decision is `unknown` to all but the process that said it.
    LostReadyIsUnknown,
    /// No record is `unknown`.
    NoRecordIsUnknown,
    /// The word that is on record is passed on.
    RecordedWordIsPassedOn,

    // Everybody.
    /// An operator who decides must say that the other side is fenced.
    ResolveNeedsFence,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::CancelEndsWithCommit,
        Self::ContNeedsPermission,
        Self::ReadyTimerEndsWithCommit,
        Self::SilenceDecidesNothing,
        Self::UnknownDecidesNothing,
        Self::AskedBeforeCommitKnowsNothing,
        Self::CommitIsRecorded,
        Self::AbortIsRecorded,
        Self::AbortIsRepeated,
        Self::UndecidedAsksAgain,
        Self::ReleaseIsRepeated,
        Self::RefusedReturnsAlways,
        Self::SourceRecordStaysUntilConfirmed,
        Self::ReadyDoesNotRun,
        Self::ReadyIsRecorded,
        Self::ReadyHolds,
        Self::QuestionDecides,
        Self::RefusalIsRecorded,
        Self::RefusalIsFinal,
        Self::CommittedIsFinal,
        Self::CommittedIsRecorded,
        Self::CommittedStaysUntilHeard,
        Self::AbortIsObeyed,
        Self::LostReadyIsUnknown,
        Self::NoRecordIsUnknown,
        Self::RecordedWordIsPassedOn,
        Self::ResolveNeedsFence,
    ];
}

/// Which rules are kept. Production has [`AllRules`], which is no choice at run time.
pub trait Rules: Copy + Eq + Hash + Debug + Send + Sync + 'static {
    /// Whether this one is.
    fn keep(rule: Rule) -> bool;
}

/// The handover as it is: no rule is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllRules;

impl Rules for AllRules {
    fn keep(_: Rule) -> bool {
        true
    }
}
