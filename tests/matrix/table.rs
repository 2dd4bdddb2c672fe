//! What is to become of the guest: for each phase of a move, and each thing that can go wrong in it.

use std::fmt;
use wire::Kind;

/// Where a move is when something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The destination was greeted; its answer is on the way.
    Greeting,
    /// The destination has built the machine; its word for that is on the way.
    Description,
    /// Pages are sent, slowly, while the guest runs.
    Passes,
    /// The guest is stopped, and waits for `migrate-continue`.
    PreSwitchover,
    /// The last pages have gone; the state is on the way.
    State,
    /// READY is on the way.
    Ready,
    /// COMMIT is on the way.
    Commit,
    /// RUNNING is on the way.
    Running,
}

/// What goes wrong. What is on the way is lost with the process that dies or the link that is cut;
/// it arrives where a process is only frozen, and where a link is only stalled, in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`
    SourceKilled,
    DestinationKilled,
    /// SIGSTOP, and SIGCONT when the other side has lost patience, or would have.
    SourceFrozen,
    DestinationFrozen,
    /// All connections end, and none can be made. Healed when both sides have noticed.
    LinkCut,
    /// Nothing is carried, but no connection ends. Healed when both sides have noticed.
    LinkStalled,
    /// `migrate_cancel`
    Cancelled,
}

/// What becomes of the guest. *While* the fault lasts, where that differs from what comes *then*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It dies with its source: there was no other complete copy.
    Lost,
    /// It runs at the source.
    Source,
    /// It runs at the destination.
    Destination,
    /// The destination holds it for good: somebody has to resolve.
    Held,
    /// The source does not know, for good: somebody has to resolve.
    Undecided,
    /// The destination holds it while the fault lasts; then it is at the source.
    HeldThenSource,
    /// The source does not know while the fault lasts; then the guest is there.
    UndecidedThenSource,
    /// The source does not know while the fault lasts; then the guest is at the destination.
    UndecidedThenDestination,
    /// It is too late for that; the guest comes to run at the destination.
    TooLate,
}

use Outcome::*;

/// The table: a row for each phase, a column for each of [`Fault::ALL`]. `docs/failures.md` has the
/// same one, with what to do.
#[rustfmt::skip]
pub const TABLE: [(Phase, [Outcome; 7]); 8] = [
    //                    source     destination  source          destination               link                      link                      cancelled
    //                    killed     killed       frozen          frozen                    cut                       stalled
    (Phase::Greeting,      [Lost,        Source,    Source,         Destination,              Source,                   Source,                   Source]),
    (Phase::Description,   [Lost,        Source,    Source,         Source,                   Source,                   Source,                   Source]),
    (Phase::Passes,        [Lost,        Source,    Source,         Source,                   Source,                   Source,                   Source]),
    (Phase::PreSwitchover, [Lost,        Source,    Source,         Source,                   Source,                   Source,                   Source]),
    (Phase::State,         [Lost,        Source,    HeldThenSource, Source,                   Source,                   Source,                   Source]),
    (Phase::Ready,         [Held,        Source,    HeldThenSource, UndecidedThenDestination, HeldThenSource,           HeldThenSource,           Source]),
    (Phase::Commit,        [Held,        Undecided, Destination,    UndecidedThenDestination, UndecidedThenSource,      UndecidedThenSource,      TooLate]),
    (Phase::Running,       [Destination, Undecided, Destination,    Destination,              UndecidedThenDestination, UndecidedThenDestination, TooLate]),
];

impl Phase {
    /// The message that is on the way.
    pub fn holds(self) -> Option<Kind> {
        match self {
            Self::Greeting => Some(Kind::Welcome),
            Self::Description => Some(Kind::Accepted),
            Self::Passes | Self::PreSwitchover => None,
            Self::State => Some(Kind::State),
            Self::Ready => Some(Kind::Ready),
            Self::Commit => Some(Kind::Commit),
            Self::Running => Some(Kind::Running),
        }
    }
}

impl Fault {
    pub const ALL: [Self; 7] = [
        Self::SourceKilled,
        Self::DestinationKilled,
        Self::SourceFrozen,
        Self::DestinationFrozen,
        Self::LinkCut,
        Self::LinkStalled,
        Self::Cancelled,
    ];

    /// Whether it is by silence that anybody notices.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::SourceFrozen | Self::DestinationFrozen | Self::LinkStalled)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "greeting",
            Self::Description => "description",
            Self::Passes => "passes",
            Self::PreSwitchover => "pre-switchover",
            Self::State => "state",
            Self::Ready => "READY",
            Self::Commit => "COMMIT",
            Self::Running => "RUNNING",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SourceKilled => "source killed",
            Self::DestinationKilled => "destination killed",
            Self::SourceFrozen => "source frozen",
            Self::DestinationFrozen => "destination frozen",
            Self::LinkCut => "link cut",
            Self::LinkStalled => "link stalled",
            Self::Cancelled => "cancelled",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Held => "**held**",
            Self::Undecided => "**undecided**",
            Self::HeldThenSource => "held, then source",
            Self::UndecidedThenSource => "undecided, then source",
            Self::UndecidedThenDestination => "undecided, then destination",
            Self::TooLate => "too late: destination",
        })
    }
}

/// The table as it stands in a document, row by row.
pub fn as_written() -> Vec<String> {
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |", cells.join(" | "));
    let mut rows = vec![row("", Fault::ALL.iter().map(ToString::to_string).collect())];
    for (phase, outcomes) in TABLE {
        rows.push(row(&phase.to_string(), outcomes.iter().map(ToString::to_string).collect()));
    }
    rows
}
