//! What is to become of the guest: for each step of an update in exec mode, and each process.

use crate::courier::Leg;
use crate::table::Step;
use std::fmt;

/// What goes wrong. What a process has sent arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`
    ProcessKilled,
    GuardianKilled,
    /// SIGSTOP, and SIGCONT when the other has lost patience, or would have.
    ProcessFrozen,
    GuardianFrozen,
}

/// What becomes of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It dies with the process that has it.
    Lost,
    /// It goes on in the process, which runs the program that it ran before.
    Old,
    /// It goes on in the process, which runs the new program.
    New,
    /// It goes on in the guardian, and the process is gone.
    Guardian,
}

use Outcome::*;

/// The table: a row for each step on each way, a column for each of [`Fault::ALL`]. `docs/failures.md` has
/// the same one.
#[rustfmt::skip]
pub const TABLE: [(Leg, Step, [Outcome; 4]); 20] = [
    //                             process   guardian process   guardian
    //                             killed    killed   frozen    frozen
    (Leg::Over, Step::Started,  [Lost,     Old,     New,      New]),
    (Leg::Over, Step::Welcomed, [Lost,     Old,     New,      Old]),
    (Leg::Over, Step::Built,    [Lost,     Old,     Old,      Old]),
    (Leg::Over, Step::Ahead,    [Lost,     Old,     Old,      Old]),
    (Leg::Over, Step::Prepared, [Lost,     Old,     Old,      Old]),
    (Leg::Over, Step::State,    [Guardian, Old,     New,      Old]),
    (Leg::Over, Step::Ready,    [Guardian, Old,     New,      Old]),
    (Leg::Over, Step::Commit,   [Guardian, Old,     New,      Old]),
    (Leg::Over, Step::Running,  [Guardian, Lost,    New,      New]),
    (Leg::Over, Step::Report,   [Guardian, Lost,    New,      New]),
    (Leg::Back, Step::Started,  [Guardian, Lost,    Guardian, New]),
    (Leg::Back, Step::Welcomed, [Guardian, Lost,    Guardian, New]),
    (Leg::Back, Step::Built,    [Guardian, Lost,    Guardian, Old]),
    (Leg::Back, Step::Ahead,    [Guardian, Lost,    Guardian, Old]),
    (Leg::Back, Step::Prepared, [Guardian, Lost,    Guardian, Old]),
    (Leg::Back, Step::State,    [Guardian, New,     Guardian, New]),
    (Leg::Back, Step::Ready,    [Guardian, New,     Guardian, New]),
    (Leg::Back, Step::Commit,   [Guardian, New,     Guardian, New]),
    (Leg::Back, Step::Running,  [Lost,     New,     New,      New]),
    (Leg::Back, Step::Report,   [Lost,     New,     New,      New]),
];

impl Fault {
    pub const ALL: [Self; 4] =
        [Self::ProcessKilled, Self::GuardianKilled, Self::ProcessFrozen, Self::GuardianFrozen];

    /// Whether it is by silence that anybody notices.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::ProcessFrozen | Self::GuardianFrozen)
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Over => "over",
            Self::Back => "back",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProcessKilled => "process killed",
            Self::GuardianKilled => "guardian killed",
            Self::ProcessFrozen => "process frozen",
            Self::GuardianFrozen => "guardian frozen",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Old => "old",
            Self::New => "new",
            Self::Guardian => "guardian",
        })
    }
}

/// The table as it stands in a document, row by row.
pub fn as_written() -> Vec<String> {
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |", cells.join(" | "));
    let mut rows = vec![row("", Fault::ALL.iter().map(ToString::to_string).collect())];
    for (leg, step, outcomes) in TABLE {
        let outcomes = outcomes.iter().map(ToString::to_string).collect();
        rows.push(row(&format!("{leg}: {step}"), outcomes));
    }
    rows
}
