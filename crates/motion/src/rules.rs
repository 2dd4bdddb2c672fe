//! The rules that the engine keeps around a handover, each by name. Those of the handover itself are
//! [`crate::handover::decision::Rule`].

/// A rule of the engine. None can be left out: with the feature `mutate` a test has the engine break
/// one at a time, and a promise breaks. Without it nobody can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    // Preflight, at the source.
    /// A guest goes to no host whose clock is certainly another.
    ClocksAgree,

    // RAM, at the source.
    /// A motion begins with all of RAM unsent, whatever an earlier one has sent.
    DirtyIsPutBack,
    /// Writes are logged from before the first page is read.
    WritesAreLogged,
    /// A page is rearmed before it is read.
    RearmComesFirst,
    /// A page that became zero after it was sent is said to be zero.
    NewZeroesAreSent,
    /// No pass begins before the destination has the one before in RAM.
    PassesAreAwaited,
    /// Every chunk of a pass is given out to be sent.
    EveryChunkIsSent,
    /// The guest does not run when its last pages are read.
    GuestStopsFirst,
    /// What was written since the last pass is sent while the guest is stopped.
    LastPagesAreSent,

    // The handover, at the source.
    /// READY has to come in time.
    ReadyIsTimed,
    /// The promise holds for sending, too: no link that takes nothing may wait longer.
    SendingIsTimed,
    /// COMMIT goes out only after READY.
    CommitWaitsForReady,
    /// What has to be said again goes over a new connection.
    AbortGoesAnotherWay,
    /// Who has the guest is said until the destination has heard it, however long that takes.
    TellingGoesOn,

    // The end, at the source.
    /// A destination that says nothing is taken for lost.
    SilenceIsNoticed,
    /// No time of one's own counts as the destination's silence.
    BusyIsNoSilence,
    /// A motion that does not converge ends in time.
    TimeIsUp,
    /// A guest that is kept runs again.
    GuestResumes,
    /// A guest that was stopped before the motion stays stopped.
    StoppedStaysStopped,
    /// A failed motion ends its logging.
    LoggingEnds,
    /// A motion that has ended has no workers.
    WorkersEnd,
    /// What a pass that was cut short has sent counts.
    CutPassesCount,

    // The destination.
    /// READY needs every page that the source sent.
    RamIsComplete,
    /// A pass has ended when it has on every connection.
    PassesEndEverywhere,
    /// A source that says nothing is taken for lost.
    SourceSilenceIsNoticed,
    /// Questions are answered.
    QuestionsAreAnswered,
    /// Whoever is asked says what the dead have left on record.
    DeadAreSpokenFor,
    /// What another process has on record is said where it is asked for.
    OthersAreSpokenFor,
    /// A refusal is answered for until the source has heard it.
    RefusalsAreAnswered,
    /// A copy that may be the only one is known as such from READY on.
    DoubtIsKnown,
    /// A source that comes too late is not told that it broke the protocol.
    LateIsNotWrong,

    // A process that shares RAM as the other end.
    /// The promise holds until the destination has entered.
    EnteringIsTimed,

    // A file as the other end.
    /// A mark of completeness that may be there is not said to be missing.
    DoubtIsNoRefusal,
    /// What is complete is not said to have been given up.
    CompleteIsComplete,
    /// A disk that does not answer is noticed.
    HangsAreNoticed,

    // RAM that comes while its guest runs.
    /// What cannot be had is an outage, and never a page.
    NothingIsMadeUp,
    /// What could not be had is asked for again.
    WhatFailedIsAskedAgain,
    /// A source that does not answer is an outage.
    SilenceIsAnOutage,
    /// The kernel is not left to provide pages before all have come.
    AllComes,
    /// A guest whose pages cannot be had is not claimed.
    OutageIsNoClaim,

    // RAM that is kept as it was while its guest writes on.
    /// All that was ever touched is protected.
    AllIsProtected,
    /// A page is copied before whoever wants to write it goes on.
    CopyComesFirst,
    /// Nobody waits for a disk for longer than they are to.
    WritersGoOn,
    /// A copy that was given up is none.
    GivenUpIsNoCopy,

    // RAM that stays where it is while its host starts anew.
    /// RAM is durable before the state that belongs to it can be complete.
    RamIsDurable,
    /// RAM that ran on is not taken for what a state was saved with.
    RanOnIsRefused,
}

#[cfg(feature = "mutate")]
impl Rule {
    /// All of them.
    pub const ALL: [Self; 46] = [
        Self::ClocksAgree,
        Self::DirtyIsPutBack,
        Self::WritesAreLogged,
        Self::RearmComesFirst,
        Self::NewZeroesAreSent,
        Self::PassesAreAwaited,
        Self::EveryChunkIsSent,
        Self::GuestStopsFirst,
        Self::LastPagesAreSent,
        Self::ReadyIsTimed,
        Self::SendingIsTimed,
        Self::CommitWaitsForReady,
        Self::AbortGoesAnotherWay,
        Self::TellingGoesOn,
        Self::SilenceIsNoticed,
        Self::BusyIsNoSilence,
        Self::TimeIsUp,
        Self::GuestResumes,
        Self::StoppedStaysStopped,
        Self::LoggingEnds,
        Self::WorkersEnd,
        Self::CutPassesCount,
        Self::RamIsComplete,
        Self::PassesEndEverywhere,
        Self::SourceSilenceIsNoticed,
        Self::QuestionsAreAnswered,
        Self::DeadAreSpokenFor,
        Self::OthersAreSpokenFor,
        Self::RefusalsAreAnswered,
        Self::DoubtIsKnown,
        Self::LateIsNotWrong,
        Self::EnteringIsTimed,
        Self::DoubtIsNoRefusal,
        Self::CompleteIsComplete,
        Self::HangsAreNoticed,
        Self::NothingIsMadeUp,
        Self::WhatFailedIsAskedAgain,
        Self::SilenceIsAnOutage,
        Self::AllComes,
        Self::OutageIsNoClaim,
        Self::AllIsProtected,
        Self::CopyComesFirst,
        Self::WritersGoOn,
        Self::GivenUpIsNoCopy,
        Self::RamIsDurable,
        Self::RanOnIsRefused,
    ];
}

/// Whether the engine keeps this rule.
#[cfg(not(feature = "mutate"))]
pub(crate) const fn keeps(_: Rule) -> bool {
    true
}
#[cfg(feature = "mutate")]
pub(crate) use crate::mutate::keeps;
