//! Misfortunes that chance alone would seldom bring together: each has been, or would be, the end of
//! a guest if the engine lacked one thing. Where a bug was found, its plot stays, so that whatever
//! a seed comes to mean, it is looked for again.

use crate::env::{MILLISECOND, MINUTE, SECOND};
use crate::guest::Habits;
use crate::net::Use;
use crate::rng::Rng;
use crate::scenario::{Ailment, Fault, Kind, Round, Spot};
use motion::destination::Phase as AtDestination;
use motion::source::Phase as AtSource;
use motion::{Blackout, RamWay, TimeoutAction};
use std::time::Duration;

/// A misfortune with a name.
#[derive(Debug)]
pub struct Plot {
    /// What happens.
    pub name: &'static str,
    /// Arranges it for one motion.
    arrange: fn(&mut Setting<'_>),
}

/// What a plot is made of.
struct Setting<'a> {
    round: &'a mut Round,
    habits: &'a mut Habits,
    rng: &'a mut Rng,
}

/// All of them.
pub const PLOTS: [Plot; 24] = [
    Plot {
        name: "it ran the guest and died, with that not on record and not heard",
        arrange: |s| {
            let away = s.away();
            s.then(READY, 0, Kind::DiskFails(false, Ailment::ReadOnly, 1));
            s.then(OWNER, 0, Kind::Partition(away));
            let later = 1 + s.few();
            s.then(OWNER, later, Kind::KillDestination);
        },
    },
    Plot {
        name: "a refusal is not heard",
        arrange: |s| {
            let answers = 1 + s.rng.pick(&[0, 1, 3, 9]);
            s.then(AWAITING_RUNNING, 0, Kind::Cut(None));
            s.then(UNDECIDED, 0, Kind::LoseAnswers(answers));
            s.round.destination.keep_waiting = s.rng.chance(50);
        },
    },
    Plot {
        name: "an operator gives the guest to a destination that has refused it",
        arrange: |s| {
            s.then(AWAITING_RUNNING, 0, Kind::Cut(None));
            s.then(UNDECIDED, 0, Kind::LoseAnswers(2));
            let later = 5 + s.rng.below(30);
            s.then(UNDECIDED, later, Kind::Resolve);
        },
    },
    Plot {
        name: "an operator gives the guest to a destination that cannot be reached",
        arrange: |s| {
            let (away, soon) = (s.away(), s.rng.below(6));
            s.then(AWAITING_RUNNING, 0, Kind::RefuseConnections(away));
            s.then(AWAITING_RUNNING, 0, Kind::Cut(None));
            s.then(UNDECIDED, soon, Kind::Resolve);
        },
    },
    Plot {
        name: "an operator decides before there is anything to decide, and the motion fails",
        arrange: |s| {
            let phases = [AtSource::Connecting, AtSource::Checking, AtSource::Joining];
            let (phase, later) = (s.rng.pick(&phases), s.few());
            s.round.options.frozen = s.rng.chance(50);
            s.then(Spot::Source(phase), 0, Kind::Resolve);
            if s.rng.chance(70) {
                s.then(Spot::Source(AtSource::Passing), later, Kind::Cut(None));
            }
        },
    },
    Plot {
        name: "the guest was kept, the destination has not heard it, and nobody is left to say it",
        arrange: |s| {
            let (away, few, later) = (s.away(), s.few(), s.few());
            s.then(AWAITING_READY, few, Kind::Partition(away));
            s.then(Spot::Source(AtSource::Settling), later, Kind::KillSource);
        },
    },
    Plot {
        name: "COMMIT is on record and never arrives",
        arrange: |s| {
            let (away, few, things) = (s.away(), s.few(), 1 + s.rng.below(3));
            s.then(READY, 0, Kind::Partition(away));
            s.then(AWAITING_READY, few, Kind::SourceDies(things));
        },
    },
    Plot {
        name: "COMMIT comes when the guest has been refused",
        arrange: |s| {
            s.round.destination.stall_limit = s.round.options.stall_limit * 4;
            let late = s.rng.between(SECOND, 12 * SECOND);
            s.then(AWAITING_RUNNING, 0, Kind::Stall(Use::Control, late));
        },
    },
    Plot {
        name: "both die, one after the other",
        arrange: |s| {
            let (few, later) = (s.few(), s.rng.below(20));
            s.then(AWAITING_RUNNING, few, Kind::KillDestination);
            s.then(UNDECIDED, later, Kind::KillSource);
        },
    },
    Plot {
        name: "the destination dies with its verdict on record and not heard",
        arrange: |s| {
            let things = s.rng.below(6);
            s.then(AWAITING_RUNNING, 0, Kind::Cut(None));
            s.then(UNDECIDED, 0, Kind::LoseAnswers(2));
            s.then(UNDECIDED, 6, Kind::DestinationDies(things));
        },
    },
    // Found: whoever waited first had the record, and whoever was asked knew nothing.
    Plot {
        name: "another process takes over the record of the destination that died",
        arrange: |s| {
            let things = s.rng.below(6);
            s.then(AWAITING_RUNNING, 0, Kind::Cut(None));
            s.then(UNDECIDED, 0, Kind::LoseAnswers(2));
            s.then(UNDECIDED, 6, Kind::DestinationDies(things));
            s.then(UNDECIDED, 6, Kind::Bystander);
            s.then(UNDECIDED, 12, Kind::Bystander);
            s.round.restarts_after = 8 * SECOND;
        },
    },
    // Found: the first ABORT went over the control connection, and so did all the others.
    Plot {
        name: "the guest is kept, over a connection that is dead with nobody the wiser",
        arrange: |s| {
            let few = s.few();
            s.then(READY, 0, Kind::CutSilently(Some(Use::Control)));
            s.then(AWAITING_READY, few, Kind::Cancel);
        },
    },
    // Found: within two seconds the destination had left, and nobody could say that it had refused.
    Plot {
        name: "a destination holds for as long as it may, and drops the guest unheard",
        arrange: |s| {
            s.round.destination.hold =
                Some(Duration::from_nanos(s.rng.between(SECOND, 8 * SECOND)));
            s.round.destination.keep_waiting = s.rng.chance(50);
            s.round.patience = 16 * SECOND;
            s.then(AWAITING_RUNNING, 0, Kind::Partition(20 * SECOND));
            s.then(AWAITING_RUNNING, 0, Kind::Cut(None));
        },
    },
    // Found: after a minute it had left, and the source asked for ever.
    Plot {
        name: "a destination drops the guest, and for minutes nobody gets through to hear of it",
        arrange: |s| {
            s.round.destination.hold =
                Some(Duration::from_nanos(s.rng.between(SECOND, 8 * SECOND)));
            s.round.destination.keep_waiting = s.rng.chance(50);
            let away = s.away_for_minutes();
            s.then(AWAITING_RUNNING, 0, Kind::Partition(away));
            s.then(AWAITING_RUNNING, 0, Kind::Cut(None));
        },
    },
    // Found: after a minute the source said it no more, and the destination held the guest for good.
    Plot {
        name: "the guest is kept, and for minutes nobody gets through to say so",
        arrange: |s| {
            s.round.destination.hold = None;
            let away = s.away_for_minutes();
            s.then(READY, 0, Kind::Partition(away));
        },
    },
    // Found: a data connection on its way was said to break the protocol.
    Plot {
        name: "the destination's side fails while data connections are being made",
        arrange: |s| {
            let few = s.rng.below(8);
            s.round.options.connections = 5;
            s.then(Spot::Source(AtSource::Joining), few, Kind::CancelDestination);
        },
    },
    // Found: `quit` was refused only where the source was known to be lost.
    Plot {
        name: "somebody ends the destination when its source has just died",
        arrange: |s| {
            let (few, things) = (s.few(), s.rng.below(3));
            s.then(AWAITING_READY, few, Kind::SourceDies(things));
            s.then(READY, few, Kind::KillSource);
            s.then(READY, few, Kind::Quit(false));
        },
    },
    // Found: saving the state took longer than the destination may be silent.
    Plot {
        name: "the state is saved for long, after a pause before switchover",
        arrange: |s| {
            s.round.options.pause_before_switchover = true;
            s.round.options.frozen = false;
            s.round.stopped = false;
            s.round.keep_the_peace(s.rng);
            s.round.destination.stall_limit = s.round.options.stall_limit * 8;
            s.round.nature.save = nanos(s.round.options.stall_limit) + SECOND / 2;
        },
    },
    Plot {
        name: "the link takes nothing more once the guest has stopped",
        arrange: |s| {
            s.habits.hot = s.habits.hot.max(120);
            s.habits.every = s.habits.every.min(100_000);
            s.habits.burst = s.habits.burst.max(60);
            let options = &mut s.round.options;
            options.frozen = false;
            options.pause_before_switchover = false;
            options.max_bandwidth = None;
            options.timeout_action = TimeoutAction::Cancel;
            options.stall_limit = Duration::from_secs(5);
            options.blackout = Blackout::Limit(Duration::from_millis(s.rng.between(100, 600)));
            s.round.stopped = false;
            let (few, away) = (s.rng.below(40), s.rng.between(SECOND, 4 * SECOND));
            s.then(Spot::Source(AtSource::Draining), few, Kind::StallThere(away));
        },
    },
    Plot {
        name: "in an update the old process stands still until the new one has gone on without it",
        arrange: |s| {
            s.update();
            let (few, long) = (s.few(), s.rng.magnitude(SECOND, 16 * SECOND));
            s.then(AWAITING_READY, few, Kind::Freeze(true, long));
        },
    },
    Plot {
        name: "in an update the new process stands still when it has been told to go on",
        arrange: |s| {
            s.update();
            let limit = Duration::from_nanos(s.rng.between(200 * MILLISECOND, SECOND));
            s.round.options.blackout = Blackout::Limit(limit);
            let (few, long) = (s.few(), s.rng.magnitude(SECOND, 16 * SECOND));
            s.then(AWAITING_RUNNING, few, Kind::Freeze(false, long));
        },
    },
    Plot {
        name: "in an update both stand still, one after the other",
        arrange: |s| {
            s.update();
            let mut long = || s.rng.magnitude(SECOND / 4, 16 * SECOND);
            let (first, second) = (long(), long());
            let (few, later) = (s.few(), s.few());
            let of_source = s.rng.chance(50);
            s.then(AWAITING_READY, few, Kind::Freeze(of_source, first));
            s.then(READY, later, Kind::Freeze(!of_source, second));
        },
    },
    Plot {
        name: "in an update the old process dies when the new one is about to be ready",
        arrange: |s| {
            s.update();
            let (few, things) = (s.few(), s.rng.below(8));
            s.then(AWAITING_READY, few, Kind::SourceDies(things));
        },
    },
    Plot {
        name: "in an update the new process dies while it goes on with the guest",
        arrange: |s| {
            s.update();
            let (few, things) = (s.few(), s.rng.below(12));
            s.then(READY, few, Kind::DestinationDies(things));
        },
    },
];

const READY: Spot = Spot::Destination(AtDestination::Ready);
const OWNER: Spot = Spot::Destination(AtDestination::Owner);
const AWAITING_READY: Spot = Spot::Source(AtSource::AwaitingReady);
const AWAITING_RUNNING: Spot = Spot::Source(AtSource::AwaitingRunning);
const UNDECIDED: Spot = Spot::Source(AtSource::Undecided);

fn nanos(duration: Duration) -> u64 {
    motion::clock::nanos(duration)
}

impl Setting<'_> {
    /// Makes an update of it, in which the blackout is nobody's concern.
    fn update(&mut self) {
        self.round.make_update(self.rng);
        self.round.options.blackout = Blackout::Unlimited;
    }

    fn then(&mut self, spot: Spot, skip: u64, kind: Kind) {
        self.round.faults.push(Fault { spot, skip, kind });
    }

    /// For how long somebody cannot be reached, in nanoseconds.
    fn away(&mut self) -> u64 {
        self.rng.magnitude(2 * SECOND, 16 * SECOND)
    }

    /// For how long nobody can be reached, while everybody else lets them be.
    fn away_for_minutes(&mut self) -> u64 {
        let away = self.rng.between(2 * MINUTE, 5 * MINUTE);
        self.round.patience = away + MINUTE;
        away
    }

    fn few(&mut self) -> u64 {
        self.rng.below(4)
    }
}

impl Plot {
    /// Has it happen in this round, if that gets so far.
    pub fn arrange(&self, round: &mut Round, habits: &mut Habits, rng: &mut Rng) {
        round.faults.clear();
        round.options.ram = RamWay::Passes;
        round.destination.ram = RamWay::Passes;
        round.absent = false;
        round.refuses = false;
        round.options.check_only = false;
        round.clock_ahead = 0;
        round.nature.fails = None;
        if rng.chance(50) {
            round.restarts_after = MILLISECOND;
        }
        (self.arrange)(&mut Setting { round, habits, rng });
    }
}
