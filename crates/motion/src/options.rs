//! What is asked of a motion.

use crate::MotionError;
use crate::handover::Fate;
use state::Code;
use std::num::NonZeroU64;
use std::time::Duration;

/// The longest blackout that is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blackout {
    /// The guest is never stopped for longer than this: kept, or given up.
    Limit(Duration),
    /// However long it takes.
    Unlimited,
}

impl Blackout {
    /// In nanoseconds; `None` is unlimited.
    #[must_use]
    pub fn limit_ns(self) -> Option<u64> {
        match self {
            Self::Limit(limit) => Some(crate::clock::nanos(limit)),
            Self::Unlimited => None,
        }
    }
}

/// What to do when a motion has not converged in the time it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutAction {
    /// Give up; the guest goes on at the source.
    Cancel,
    /// Switch over, whatever the blackout.
    Switch,
}

/// Whose the guest is when a motion has ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// The other end's: it goes there, and never runs here again.
    #[default]
    Move,
    /// This end's. What goes is a copy, and the guest runs on as soon as that is taken.
    Copy,
    /// This end's. What goes is a copy of the moment when the motion began, and the guest runs on while
    /// it is taken: its memory is copied before it is overwritten. For files.
    CopyAtStart,
    /// This end's, where it stays stopped until somebody lets it run.
    CopyAndStop,
}

impl Purpose {
    /// Whether the guest stays here.
    #[must_use]
    pub fn is_copy(self) -> bool {
        matches!(self, Self::Copy | Self::CopyAtStart | Self::CopyAndStop)
    }
}

/// How RAM gets to the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RamWay {
    /// In passes, over data connections or into a file.
    #[default]
    Passes,
    /// Not at all: the other end has the same memory file, or, where that end is a file, RAM stays in
    /// a memory file that outlives the process.
    Shared,
}

impl RamWay {
    /// Refuses to share RAM where no word says whose the guest is: both would have it.
    pub(crate) fn decided_by(self, fate: Option<&Fate>) -> Result<(), MotionError> {
        if self == Self::Shared && fate.is_none() {
            let why = "RAM is to be shared, and nothing decides who goes on with the guest";
            return Err(MotionError::new(Code::Internal, why));
        }
        Ok(())
    }
}

/// What is asked of a motion at its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOptions {
    /// Whose the guest is in the end.
    pub purpose: Purpose,
    /// How RAM gets there.
    pub ram: RamWay,
    /// How many data connections, 1 to [`Self::MOST_CONNECTIONS`].
    pub connections: u16,
    /// The promise.
    pub blackout: Blackout,
    /// The most that is sent, in bytes per second; `None` is unlimited.
    pub max_bandwidth: Option<NonZeroU64>,
    /// What predictions take as the rate of the last pages, in bytes per second; `None` is what was
    /// measured.
    pub switchover_bandwidth: Option<NonZeroU64>,
    /// How long to go on when it does not converge.
    pub timeout: Option<Duration>,
    /// And then?
    pub timeout_action: TimeoutAction,
    /// Stop the guest first, and promise that it will not run here again before the motion ends.
    pub frozen: bool,
    /// Ask the destination whether it could, and leave it waiting.
    pub check_only: bool,
    /// Wait for [`crate::source::SourceJob::proceed`] before the guest is stopped.
    pub pause_before_switchover: bool,
    /// How long a peer may be silent, or take nothing, before the link counts as lost. Of a file: how long
    /// the guest may wait for it, where a copy is of the beginning.
    pub stall_limit: Duration,
}

impl SourceOptions {
    /// More connections than this gain nothing and cost a thread each.
    pub const MOST_CONNECTIONS: u16 = 64;
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            purpose: Purpose::default(),
            ram: RamWay::default(),
            connections: 2,
            blackout: Blackout::Limit(Duration::from_millis(300)),
            max_bandwidth: None,
            switchover_bandwidth: None,
            timeout: None,
            timeout_action: TimeoutAction::Cancel,
            frozen: false,
            check_only: false,
            pause_before_switchover: false,
            stall_limit: Duration::from_secs(5),
        }
    }
}

/// What is asked of a motion at its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationOptions {
    /// The machine's name on this side, for the record of its handover.
    pub name: String,
    /// How long a peer may be silent before the link counts as lost.
    pub stall_limit: Duration,
    /// How long a complete guest is held when its source was lost after READY, before it is
    /// discarded. `None`: until somebody decides.
    pub hold: Option<Duration>,
    /// Wait for another guest when a motion failed before READY.
    pub keep_waiting: bool,
    /// How RAM gets here.
    pub ram: RamWay,
}

impl Default for DestinationOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            stall_limit: Duration::from_secs(5),
            hold: None,
            keep_waiting: false,
            ram: RamWay::default(),
        }
    }
}
