//! What a seed decides: how the world is, what is asked of each motion, and what goes wrong when.

use crate::env::{MICROSECOND, MILLISECOND, MINUTE, SECOND};
use crate::guest::Habits;
use crate::machine::{Nature, Operation};
use crate::net::{Conditions, Use};
use crate::plots::{PLOTS, Plot};
use crate::rng::Rng;
use motion::destination::Phase as AtDestination;
use motion::source::Phase as AtSource;
use motion::{Blackout, DestinationOptions, RamWay, SourceOptions, TimeoutAction};
use std::num::NonZeroU64;
use std::time::Duration;

/// A whole world's.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub conditions: Conditions,
    pub habits: Habits,
    pub rounds: Vec<Round>,
}

/// One motion's.
#[derive(Debug, Clone)]
pub struct Round {
    pub options: SourceOptions,
    pub destination: DestinationOptions,
    pub nature: Nature,
    /// The destination refuses the machine.
    pub refuses: bool,
    /// Nobody listens.
    pub absent: bool,
    /// The guest is stopped before the motion begins.
    pub stopped: bool,
    /// How far the destination's clock is ahead, in nanoseconds.
    pub clock_ahead: i64,
    /// How long the user waits with the word to go on, in nanoseconds.
    pub proceeds_after: u64,
    /// A process that died is back after this long, in nanoseconds.
    pub restarts_after: u64,
    /// How long nobody does anything about a handover that is not decided, in nanoseconds.
    pub patience: u64,
    /// So many of the first records of an update could not be written, by its source and its destination:
    /// none is needed.
    pub journals_fail: [u32; 2],
    /// The guest is to come back from the process that it went to just before, while the one that it left
    /// becomes another program.
    pub back: bool,
    pub faults: Vec<Fault>,
}

/// Something that goes wrong, or that somebody does.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub spot: Spot,
    /// So many steps after the spot was reached.
    pub skip: u64,
    pub kind: Kind,
}

/// Where the motion is then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spot {
    Source(AtSource),
    Destination(AtDestination),
    /// Wherever it is.
    Any,
}

impl Spot {
    pub fn name(self) -> String {
        match self {
            Self::Source(phase) => format!("source {phase:?}"),
            Self::Destination(phase) => format!("destination {phase:?}"),
            Self::Any => "any step".into(),
        }
    }
}

/// What it is. Times are in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    KillSource,
    KillDestination,
    /// After so many more things that the process does.
    SourceDies(u64),
    DestinationDies(u64),
    /// The whole host, with its journal.
    SourceHostDies,
    DestinationHostDies,
    /// The source's process stands still for so long, or the destination's.
    Freeze(bool, u64),
    Cut(Option<Use>),
    /// Nobody is told.
    CutSilently(Option<Use>),
    Stall(Use, u64),
    /// What the source says, and not what it hears.
    StallThere(u64),
    Partition(u64),
    RefuseConnections(u64),
    /// The next so many answers to questions.
    LoseAnswers(u32),
    /// Of the source's host, or of the destination's; so many times.
    DiskFails(bool, Ailment, u32),
    Cancel,
    CancelDestination,
    SetBlackout(u64),
    SetBandwidth(u64),
    /// Of the source, or of the destination: how long the other side may be silent.
    SetStall(bool, u64),
    GuestGone,
    /// An undecided source is to ask now.
    Ask,
    /// Somebody ends the source's machine, or the destination's, where that is allowed.
    Quit(bool),
    /// Another process begins to wait on the destination's host.
    Bystander,
    /// `stop` and `cont`, where the source may.
    StopGuest,
    ContGuest,
    /// An operator decides, and makes sure of what it says.
    Resolve,
}

/// What is the matter with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ailment {
    /// Nothing can be written; there is no room.
    Full,
    /// Nor removed.
    ReadOnly,
    /// What a dead process left cannot be read.
    Torn,
    /// Nobody can say what is there.
    Unlisted,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::KillSource => "kill source",
            Self::KillDestination => "kill destination",
            Self::SourceDies(_) => "source dies within a step",
            Self::DestinationDies(_) => "destination dies within a step",
            Self::SourceHostDies => "source's host dies",
            Self::DestinationHostDies => "destination's host dies",
            Self::Freeze(true, _) => "freeze source",
            Self::Freeze(false, _) => "freeze destination",
            Self::Cut(_) => "cut",
            Self::CutSilently(_) => "cut silently",
            Self::Stall(..) | Self::StallThere(_) | Self::Partition(_) => "stall",
            Self::LoseAnswers(_) => "lose answers",
            Self::RefuseConnections(_) => "refuse connections",
            Self::DiskFails(_, Ailment::Full | Ailment::ReadOnly, _) => "disk fails",
            Self::DiskFails(_, Ailment::Torn | Ailment::Unlisted, _) => "disk cannot be read",
            Self::Cancel => "cancel",
            Self::CancelDestination => "cancel at destination",
            Self::SetBlackout(_) => "set blackout",
            Self::SetBandwidth(_) => "set bandwidth",
            Self::SetStall(true, _) => "set stall limit of source",
            Self::SetStall(false, _) => "set stall limit of destination",
            Self::GuestGone => "guest gone",
            Self::Ask => "ask",
            Self::Quit(_) => "quit",
            Self::Bystander => "bystander",
            Self::StopGuest => "stop",
            Self::ContGuest => "cont",
            Self::Resolve => "resolve",
        }
    }
}

/// Every phase in which an update can be interrupted.
pub const SPOTS_OF_UPDATES: [Spot; 11] = [
    Spot::Source(AtSource::Connecting),
    Spot::Source(AtSource::Checking),
    Spot::Source(AtSource::PreSwitchover),
    Spot::Source(AtSource::AwaitingReady),
    Spot::Source(AtSource::AwaitingRunning),
    Spot::Destination(AtDestination::Waiting),
    Spot::Destination(AtDestination::Greeted),
    Spot::Destination(AtDestination::Receiving),
    Spot::Destination(AtDestination::Ready),
    Spot::Destination(AtDestination::Owner),
    Spot::Destination(AtDestination::Failed),
];

/// Every phase in which a motion can be interrupted.
pub const SPOTS: [Spot; 19] = [
    Spot::Source(AtSource::Connecting),
    Spot::Source(AtSource::Checking),
    Spot::Source(AtSource::Joining),
    Spot::Source(AtSource::Passing),
    Spot::Source(AtSource::Draining),
    Spot::Source(AtSource::Resting),
    Spot::Source(AtSource::PreSwitchover),
    Spot::Source(AtSource::LastPass),
    Spot::Source(AtSource::AwaitingReady),
    Spot::Source(AtSource::AwaitingRunning),
    Spot::Source(AtSource::Undecided),
    Spot::Source(AtSource::Settling),
    Spot::Destination(AtDestination::Waiting),
    Spot::Destination(AtDestination::Greeted),
    Spot::Destination(AtDestination::Receiving),
    Spot::Destination(AtDestination::Ready),
    Spot::Destination(AtDestination::Holding),
    Spot::Destination(AtDestination::Owner),
    Spot::Destination(AtDestination::Failed),
];

impl Round {
    /// The next process is on the same host and has the same RAM, and nothing of it is sent.
    pub fn is_update(&self) -> bool {
        self.options.ram == RamWay::Shared
    }

    /// One between two hosts, of which nothing is known that goes wrong.
    fn plain(rng: &mut Rng) -> Self {
        let stall = Duration::from_millis(rng.pick(&[500, 1000, 2000, 5000]));
        let limit = Duration::from_nanos(rng.magnitude(5 * MILLISECOND, SECOND));
        let restore = rng.magnitude(20 * MICROSECOND, 5 * MILLISECOND);
        let slow = rng.chance(15);
        let step = if rng.chance(5) { 3 * SECOND } else { MILLISECOND };
        let timeout = Duration::from_nanos(rng.magnitude(100 * MILLISECOND, 8 * SECOND));
        Self {
            options: SourceOptions {
                purpose: motion::Purpose::Move,
                ram: RamWay::Passes,
                connections: rng.pick(&[1, 2, 3, 5]),
                blackout: if rng.chance(25) { Blackout::Unlimited } else { Blackout::Limit(limit) },
                max_bandwidth: None,
                switchover_bandwidth: None,
                timeout: Some(timeout + Duration::from_secs(1)),
                timeout_action: rng.pick(&[TimeoutAction::Cancel, TimeoutAction::Switch]),
                frozen: rng.chance(10),
                check_only: rng.chance(3),
                pause_before_switchover: rng.chance(15),
                stall_limit: stall,
            },
            destination: DestinationOptions {
                name: "guest".into(),
                stall_limit: stall * rng.pick(&[1, 1, 1, 4]),
                hold: rng
                    .chance(15)
                    .then(|| Duration::from_nanos(rng.magnitude(SECOND, 20 * SECOND))),
                keep_waiting: rng.chance(30),
                ram: RamWay::Passes,
            },
            nature: Nature {
                pause: rng.below(step),
                save: rng.below(step),
                restore: if slow { rng.magnitude(restore, 3 * SECOND) } else { restore },
                rehearsed: restore,
                build: rng.magnitude(MILLISECOND, if slow { 8 * SECOND } else { SECOND }),
                fails: rng.chance(8).then(|| rng.pick(&Operation::ALL)),
                defect: None,
            },
            refuses: rng.chance(3),
            absent: rng.chance(3),
            stopped: rng.chance(10),
            clock_ahead: if rng.chance(2) { 5_000_000_000 } else { 1_000 },
            proceeds_after: rng.magnitude(MILLISECOND, 2 * SECOND),
            restarts_after: rng.magnitude(10 * MILLISECOND, 30 * SECOND),
            patience: rng.magnitude(SECOND, 16 * SECOND),
            journals_fail: [0, 0],
            back: false,
            faults: Vec::new(),
        }
    }

    /// Makes an update of it: there is no network between, but for a pair of sockets.
    pub fn make_update(&mut self, rng: &mut Rng) {
        let limit = Duration::from_nanos(rng.magnitude(50 * MILLISECOND, 4 * SECOND));
        self.options.ram = RamWay::Shared;
        self.options.blackout =
            if rng.chance(40) { Blackout::Unlimited } else { Blackout::Limit(limit) };
        self.options.max_bandwidth = None;
        self.options.frozen = false;
        self.destination.ram = RamWay::Shared;
        self.destination.hold = None;
        self.destination.keep_waiting = false;
        self.absent = false;
        self.clock_ahead = 1_000;
        self.journals_fail = [(); 2].map(|()| if rng.chance(10) { rng.pick(&[1, 100]) } else { 0 });
    }

    /// What goes wrong in an update.
    fn trouble_update(&mut self, rng: &mut Rng) {
        for _ in 0..rng.pick(&[0, 1, 1, 1, 2, 2, 3]) {
            let anywhere = rng.chance(30);
            let spot = if anywhere { Spot::Any } else { rng.pick(&SPOTS_OF_UPDATES) };
            let skip = if anywhere { rng.magnitude(1, 64) } else { rng.pick(&[0, 0, 1, 2, 4]) };
            match spot {
                Spot::Source(AtSource::PreSwitchover) => {
                    self.options.pause_before_switchover = true;
                }
                Spot::Destination(AtDestination::Failed) => {
                    let kind = rng.pick(&[Kind::CancelDestination, Kind::Cancel]);
                    let spot = Spot::Destination(AtDestination::Receiving);
                    self.faults.push(Fault { spot, skip: 0, kind });
                }
                _ => {}
            }
            self.faults.push(Fault { spot, skip, kind: kind_in_update(rng) });
        }
    }

    /// Nothing goes wrong, though some things may take long: this motion must complete.
    pub fn keep_the_peace(&mut self, rng: &mut Rng) {
        self.faults.clear();
        self.absent = false;
        self.refuses = false;
        self.clock_ahead = 0;
        self.options.check_only = false;
        self.options.blackout = Blackout::Unlimited;
        self.options.timeout_action = TimeoutAction::Switch;
        self.nature.fails = None;
        if rng.chance(30) {
            self.destination.stall_limit = self.options.stall_limit * 8;
            self.nature.save = rng.magnitude(SECOND, 4 * SECOND);
        }
    }
}

impl Scenario {
    /// What a seed decides; with a plot, that is its first motion.
    pub fn of(rng: &mut Rng, plot: Option<&Plot>) -> Self {
        let latency = rng.magnitude(20 * MICROSECOND, 10 * MILLISECOND);
        let conditions = Conditions {
            latency,
            jitter: rng.below(latency + 1),
            page_time: rng.magnitude(2 * MICROSECOND, 500 * MICROSECOND),
            lossy: rng.chance(20),
        };
        let habits = Habits {
            touched: rng.magnitude(1, 300),
            hot: rng.magnitude(1, 200),
            every: rng.magnitude(10 * MICROSECOND, 100 * MILLISECOND),
            burst: rng.magnitude(1, 64),
        };
        let rounds = rng.pick(&[1, 1, 2, 3]);
        let mut scenario = Self { conditions, habits, rounds: Vec::new() };
        let peaceful = rng.chance(10);
        for _ in 0..rounds {
            let mut round = scenario.round(rng);
            if peaceful {
                round.keep_the_peace(rng);
            }
            let execs = round.is_update() && rng.chance(40);
            scenario.rounds.push(round);
            if execs {
                let mut back = Round::plain(rng);
                back.make_update(rng);
                back.trouble_update(rng);
                back.back = true;
                if peaceful {
                    back.keep_the_peace(rng);
                }
                scenario.rounds.push(back);
            }
        }
        scenario.conditions.lossy &= !peaceful;
        if let Some(plot) = plot {
            plot.arrange(&mut scenario.rounds[0], &mut scenario.habits, rng);
        }
        scenario
    }

    fn round(&mut self, rng: &mut Rng) -> Round {
        let mut round = Round::plain(rng);
        if rng.chance(30) {
            round.make_update(rng);
            round.trouble_update(rng);
            return round;
        }
        if rng.chance(20) {
            round.options.max_bandwidth = NonZeroU64::new(rng.magnitude(1 << 20, 1 << 28));
        }
        if rng.chance(25) {
            let plot = &PLOTS[rng.index(PLOTS.len())];
            plot.arrange(&mut round, &mut self.habits, rng);
            return round;
        }
        for _ in 0..rng.pick(&[0, 1, 1, 1, 2, 2, 3]) {
            if rng.chance(15) {
                let (spot, skip) = (Spot::Any, rng.magnitude(1, 1024));
                round.faults.push(Fault { spot, skip, kind: kind(rng, spot) });
                continue;
            }
            let spot = rng.pick(&SPOTS);
            self.lead_to(spot, &mut round, rng);
            round.faults.push(Fault {
                spot,
                skip: rng.pick(&[0, 0, 1, 2, 4, 8]),
                kind: kind(rng, spot),
            });
        }
        // What may still decide itself is left alone for as long as that takes.
        let away = round.faults.iter().filter_map(|fault| match fault.kind {
            Kind::Partition(time) if time >= MINUTE => Some(time),
            _ => None,
        });
        if let Some(longest) = away.max() {
            round.patience = longest + MINUTE;
        }
        round
    }

    /// Makes it likely that a motion gets there.
    fn lead_to(&mut self, spot: Spot, round: &mut Round, rng: &mut Rng) {
        if spot != Spot::Source(AtSource::Connecting)
            && spot != Spot::Destination(AtDestination::Waiting)
        {
            round.absent = false;
            round.refuses = false;
            round.options.check_only = false;
            round.clock_ahead = 0;
            if rng.chance(80) {
                round.nature.fails = None;
            }
        }
        let skip = rng.below(3);
        let mut before = |spot, kind| round.faults.push(Fault { spot, skip, kind });
        match spot {
            Spot::Source(AtSource::PreSwitchover) => {
                round.options.pause_before_switchover = true;
                round.options.frozen = false;
                round.stopped = false;
            }
            Spot::Source(AtSource::Resting) => {
                round.options.blackout = Blackout::Limit(Duration::from_millis(5));
                round.options.max_bandwidth = NonZeroU64::new(2 << 20);
                round.options.frozen = false;
                round.stopped = false;
                let Habits { hot, every, burst, .. } = &mut self.habits;
                (*hot, *every, *burst) =
                    ((*hot).max(60), MILLISECOND.min(*every), (*burst).max(60));
            }
            Spot::Source(AtSource::LastPass) => {
                round.options.blackout = Blackout::Unlimited;
                round.options.frozen = false;
                round.stopped = false;
                self.habits = Habits { touched: 300, hot: 900, every: MICROSECOND, burst: 700 };
            }
            Spot::Source(AtSource::Undecided) => {
                let spot = Spot::Source(AtSource::AwaitingRunning);
                let kinds = [Kind::Cut(None), Kind::Partition(8 * SECOND), Kind::KillDestination];
                before(spot, rng.pick(&kinds));
            }
            Spot::Source(AtSource::Settling) => {
                before(Spot::Source(AtSource::AwaitingReady), Kind::Cut(None));
            }
            Spot::Destination(AtDestination::Holding) => {
                let kinds = [Kind::Cut(None), Kind::KillSource, Kind::Partition(8 * SECOND)];
                before(Spot::Destination(AtDestination::Ready), rng.pick(&kinds));
            }
            Spot::Destination(AtDestination::Failed) => {
                let kinds = [Kind::Cut(Some(Use::Data)), Kind::CancelDestination, Kind::Cancel];
                before(Spot::Destination(AtDestination::Receiving), rng.pick(&kinds));
            }
            _ => {}
        }
    }
}

fn kind(rng: &mut Rng, spot: Spot) -> Kind {
    let long = rng.magnitude(MILLISECOND, 16 * SECOND);
    let purpose = rng.pick(&[Use::Control, Use::Control, Use::Data, Use::Question]);
    let after_ready = matches!(
        spot,
        Spot::Source(AtSource::AwaitingRunning | AtSource::Undecided)
            | Spot::Destination(AtDestination::Ready | AtDestination::Holding)
            | Spot::Any
    );
    match rng.below(if after_ready { 30 } else { 25 }) {
        0 | 1 if rng.chance(15) => Kind::SourceHostDies,
        2 | 3 if rng.chance(15) => Kind::DestinationHostDies,
        6..=8 if rng.chance(25) => Kind::CutSilently(rng.chance(60).then_some(purpose)),
        0 | 1 => Kind::KillSource,
        2 | 3 => Kind::KillDestination,
        4 => Kind::SourceDies(rng.below(8)),
        5 => Kind::DestinationDies(rng.below(8)),
        6 | 7 => Kind::Cut(Some(purpose)),
        8 => Kind::Cut(None),
        9 | 10 => Kind::Stall(purpose, long),
        11 | 12 if rng.chance(10) => Kind::Partition(rng.between(MINUTE, 5 * MINUTE)),
        11 | 12 => Kind::Partition(long),
        13 => Kind::RefuseConnections(long),
        14 => {
            let ailments = [Ailment::Full, Ailment::ReadOnly, Ailment::Torn, Ailment::Unlisted];
            let times = rng.pick(&[1, 1, 2, 100]);
            Kind::DiskFails(rng.chance(50), rng.pick(&ailments), times)
        }
        15 | 16 => Kind::Cancel,
        17 => Kind::CancelDestination,
        18 => match rng.below(3) {
            0 => Kind::SetBlackout(rng.magnitude(MILLISECOND, 16 * SECOND)),
            1 => Kind::SetStall(rng.chance(50), rng.magnitude(10 * MILLISECOND, MINUTE)),
            _ => Kind::SetBandwidth(rng.magnitude(1 << 20, 1 << 30)),
        },
        19 => Kind::GuestGone,
        20 | 21 => Kind::Freeze(rng.chance(50), long),
        22 => Kind::Quit(rng.chance(50)),
        23 => Kind::StopGuest,
        24 => Kind::ContGuest,
        25 | 26 => Kind::LoseAnswers(rng.pick(&[1, 1, 3, 10])),
        27 => Kind::Ask,
        _ => Kind::Resolve,
    }
}

fn kind_in_update(rng: &mut Rng) -> Kind {
    let long = rng.magnitude(MILLISECOND, 16 * SECOND);
    match rng.below(17) {
        0 | 1 => Kind::KillSource,
        2 | 3 => Kind::KillDestination,
        4 | 5 => Kind::SourceDies(rng.below(12)),
        6 | 7 => Kind::DestinationDies(rng.below(12)),
        8 | 9 => Kind::Freeze(true, long),
        10 | 11 => Kind::Freeze(false, long),
        12 => Kind::Cut(Some(Use::Control)),
        13 => Kind::Cancel,
        14 => Kind::CancelDestination,
        15 => Kind::SetBlackout(rng.magnitude(MILLISECOND, 16 * SECOND)),
        _ => match rng.below(4) {
            0 => Kind::GuestGone,
            1 => Kind::StopGuest,
            2 => Kind::ContGuest,
            _ => Kind::Quit(rng.chance(50)),
        },
    }
}
