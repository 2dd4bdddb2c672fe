//! The rules of the handover, each by name.

use std::fmt::Debug;
use std::hash::Hash;

/// The rules of the handover. Production has [`AllRules`], which is no choice at run time; a test
/// takes out one, to show that the model then finds what goes wrong.
pub trait Rules: Copy + Eq + Hash + Debug + Send + Sync + 'static {
    // The source.
    /// After COMMIT, `migrate_cancel` is too late.
    const CANCEL_ENDS_WITH_COMMIT: bool = true;
    /// After COMMIT, `cont` is refused.
    const CONT_NEEDS_PERMISSION: bool = true;
    /// After COMMIT, the READY timer means nothing.
    const READY_TIMER_ENDS_WITH_COMMIT: bool = true;
    /// After COMMIT, silence decides nothing.
    const SILENCE_DECIDES_NOTHING: bool = true;
    /// `unknown` is not `refused`.
    const UNKNOWN_DECIDES_NOTHING: bool = true;
    /// Who still has its permit does not say COMMIT, even when asked.
    const ASKED_BEFORE_COMMIT_KNOWS_NOTHING: bool = true;
    /// That the guest is being given away is on record before COMMIT goes out.
    const COMMIT_IS_RECORDED: bool = true;
    /// That the guest was kept is on record before ABORT goes out.
    const ABORT_IS_RECORDED: bool = true;
    /// ABORT is said until the destination has heard it.
    const ABORT_IS_REPEATED: bool = true;
    /// An undecided source asks until it gets an answer.
    const UNDECIDED_ASKS_AGAIN: bool = true;
    /// A source whose operator gave the guest away says so until the destination has heard it.
    const RELEASE_IS_REPEATED: bool = true;
    /// A guest that an operator gave away comes back when the peer turns out to have refused it.
    const REFUSED_RETURNS_ALWAYS: bool = true;
    /// The record stays until the destination is known to own the guest.
    const SOURCE_RECORD_STAYS_UNTIL_CONFIRMED: bool = true;

    // The destination.
    /// READY is no permission to run.
    const READY_DOES_NOT_RUN: bool = true;
    /// READY is on record before it is said.
    const READY_IS_RECORDED: bool = true;
    /// A READY destination that lost its source keeps its copy.
    const READY_HOLDS: bool = true;
    /// Being asked before COMMIT decides the handover.
    const QUESTION_DECIDES: bool = true;
    /// A refusal is on record before it is the answer to a question.
    const REFUSAL_IS_RECORDED: bool = true;
    /// After a refusal, COMMIT is ignored.
    const REFUSAL_IS_FINAL: bool = true;
    /// After COMMIT, the answer is `committed`.
    const COMMITTED_IS_FINAL: bool = true;
    /// Owning the guest is on record before it is said.
    const COMMITTED_IS_RECORDED: bool = true;
    /// That record stays until the source says that it has heard.
    const COMMITTED_STAYS_UNTIL_HEARD: bool = true;
    /// ABORT ends it.
    const ABORT_IS_OBEYED: bool = true;

    // Whoever finds a record.
    /// READY without a decision is `unknown` to all but the process that said it.
    const LOST_READY_IS_UNKNOWN: bool = true;
    /// No record is `unknown`.
    const NO_RECORD_IS_UNKNOWN: bool = true;
    /// The word that is on record is passed on.
    const RECORDED_WORD_IS_PASSED_ON: bool = true;

    // Everybody.
    /// An operator who decides must say that the other side is fenced.
    const RESOLVE_NEEDS_FENCE: bool = true;
}

/// The handover as it is: no rule is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllRules;

impl Rules for AllRules {}
