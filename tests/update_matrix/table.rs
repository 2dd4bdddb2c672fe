//! What is to become of the guest: for each step of an update, and each thing that can go wrong at it.

use crate::courier::Mail;
use std::fmt;
use wire::Kind;

/// Where an update is when something goes wrong: what was sent last, and not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The new process runs and knows nothing; what machine it is to build is on the way.
    Started,
    /// The new process has the guest's RAM; its word for that is on the way.
    Welcomed,
    /// It has built the machine; its word for that is on the way.
    Built,
    /// Nobody serves the console and the control sockets; their descriptors are on the way.
    Ahead,
    /// The new process has all of them; its word for that is on the way.
    Prepared,
    /// The guest is stopped; its state is on the way.
    State,
    /// The new process is complete; its word for that is on the way.
    Ready,
    /// The old process has given the guest away; its word for that is on the way.
    Commit,
    /// The new process runs the guest; its word for that is on the way.
    Running,
    /// How it went is on the way.
    Report,
}

/// What goes wrong. What a process has sent arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`
    OldKilled,
    NewKilled,
    /// SIGSTOP, and SIGCONT when the other has lost patience, or would have.
    OldFrozen,
    NewFrozen,
    /// `migrate_cancel`
    Cancelled,
    /// SIGTERM
    OldEnded,
}

/// What becomes of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It dies with the process that has it.
    Lost,
    /// It goes on in the old process.
    Old,
    /// It goes on in the new process.
    New,
}

use Outcome::*;

/// The table: a row for each step, a column for each of [`Fault::ALL`]. `docs/failures.md` has the same
/// one.
#[rustfmt::skip]
pub const TABLE: [(Step, [Outcome; 6]); 10] = [
    //                old     new    old     new              old
    //                killed  killed frozen  frozen cancelled  told to end
    (Step::Started,  [Lost,   Old,   New,    New,   Old, Lost]),
    (Step::Welcomed, [Lost,   Old,   New,    Old,   Old, Lost]),
    (Step::Built,    [Lost,   Old,   Old,    Old,   Old, Lost]),
    (Step::Ahead,    [Lost,   Old,   Old,    Old,   New, Lost]),
    (Step::Prepared, [Lost,   Old,   Old,    Old,   New, Lost]),
    (Step::State,    [New,    Old,   New,    Old,   New, Lost]),
    (Step::Ready,    [New,    Old,   New,    Old,   New, Lost]),
    (Step::Commit,   [New,    Old,   New,    Old,   New, New]),
    (Step::Running,  [New,    Lost,  New,    New,   New, New]),
    (Step::Report,   [New,    Lost,  New,    New,   New, New]),
];

impl Step {
    /// The message that is on the way.
    pub fn holds(self) -> Mail {
        match self {
            Self::Started => Mail::Letter(1),
            Self::Welcomed => Mail::Letter(2),
            Self::Built => Mail::Frame(Kind::Accepted),
            Self::Ahead => Mail::Letter(4),
            Self::Prepared => Mail::Letter(5),
            Self::State => Mail::Frame(Kind::State),
            Self::Ready => Mail::Frame(Kind::Ready),
            Self::Commit => Mail::Frame(Kind::Commit),
            Self::Running => Mail::Frame(Kind::Running),
            Self::Report => Mail::Letter(6),
        }
    }

    /// Whether the old process still reads what its clients send.
    pub fn is_served(self) -> bool {
        matches!(self, Self::Started | Self::Welcomed | Self::Built)
    }
}

impl Fault {
    pub const ALL: [Self; 6] = [
        Self::OldKilled,
        Self::NewKilled,
        Self::OldFrozen,
        Self::NewFrozen,
        Self::Cancelled,
        Self::OldEnded,
    ];

    /// Whether it is by silence that anybody notices.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::OldFrozen | Self::NewFrozen)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Started => "started",
            Self::Welcomed => "RAM given",
            Self::Built => "built",
            Self::Ahead => "descriptors",
            Self::Prepared => "prepared",
            Self::State => "state",
            Self::Ready => "READY",
            Self::Commit => "COMMIT",
            Self::Running => "RUNNING",
            Self::Report => "report",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OldKilled => "old process killed",
            Self::NewKilled => "new process killed",
            Self::OldFrozen => "old process frozen",
            Self::NewFrozen => "new process frozen",
            Self::Cancelled => "update cancelled",
            Self::OldEnded => "old process told to end",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Old => "old",
            Self::New => "new",
        })
    }
}

/// The table as it stands in a document, row by row.
pub fn as_written() -> Vec<String> {
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |", cells.join(" | "));
    let mut rows = vec![row("", Fault::ALL.iter().map(ToString::to_string).collect())];
    for (step, outcomes) in TABLE {
        rows.push(row(&step.to_string(), outcomes.iter().map(ToString::to_string).collect()));
    }
    rows
}
