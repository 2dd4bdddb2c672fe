//! What is done in a world: motion after motion, what goes wrong in them, and who puts it right.

use crate::checks;
use crate::env::{MILLISECOND, MINUTE, SECOND};
use crate::life::Pid;
use crate::net::Port;
use crate::scenario::{Round, Scenario, Spot};
use crate::source::SourceSide;
use crate::witness::WitnessSide;
use crate::world::World;
use motion::Status;
use motion::destination::Phase as AtDestination;
use motion::handover::{Fate, Outcome, Token};
use motion::source::{Command, Phase as AtSource};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Something that is to happen at some time.
#[derive(Debug, Clone, Copy)]
pub enum Plan {
    /// The destination of the next motion waits.
    Begin,
    /// The motion begins.
    Start(Port),
    /// The destination's process is started again.
    Restart(Port),
    /// Somebody speaks for the dead sources of this host.
    SpeakUp(usize),
    /// The user's word to go on.
    Proceed,
    /// A disk works again.
    Mend,
    /// Nothing goes wrong any more, in the motion that began then.
    Calm(u64),
    /// Somebody looks at what is not decided, in the motion that began then.
    Operate(u64),
    /// Whatever was to come has come.
    GiveUp,
}

/// Where the story is.
pub struct Story {
    pub scenario: Scenario,
    pub round: usize,
    pub motion: Option<Motion>,
    /// Who has the only complete copy of a guest whose holder is dead.
    pub heir: Option<Pid>,
    /// Somebody decided against the only copy, and may have.
    pub forgone: bool,
    /// Nothing was done so far that a motion could fail from.
    pub undisturbed: bool,
    pub guest_gone: bool,
    pub next_port: Port,
    /// Where each handover's destination is to be asked.
    pub addresses: BTreeMap<Token, Port>,
    pub hosts: BTreeMap<Port, usize>,
    /// What decides the updates, by where their destination waits.
    pub fates: BTreeMap<Port, Arc<Fate>>,
    /// Since when there are no more motions.
    pub closing: Option<u64>,
    /// Records may have been looked for in vain.
    pub overlooked: bool,
    /// Processes that did not end by themselves.
    pub killed: BTreeSet<Pid>,
}

/// The motion under way.
pub struct Motion {
    pub plan: Round,
    pub token: Token,
    pub source: Pid,
    pub destination: Pid,
    pub port: Port,
    pub begun: u64,
    pub ran_before: bool,
    pub fired: Vec<bool>,
    reached: Vec<u64>,
    pub at_source: AtSource,
    pub at_destination: AtDestination,
    unresolved: bool,
    pub calm: bool,
    /// Both are alive, and nothing has been in their way for long enough to have decided.
    pub overdue: bool,
    pub promise_changed: bool,
    /// Somebody stopped or resumed the guest after the motion had ended.
    pub meddled: bool,
    waits_since: Option<u64>,
    pub waited: u64,
    /// For how long the source's process stood still.
    pub frozen: u64,
    pub over: bool,
}

impl Story {
    pub fn new(scenario: Scenario) -> Self {
        Self {
            undisturbed: !scenario.conditions.lossy,
            scenario,
            round: 0,
            motion: None,
            heir: None,
            forgone: false,
            guest_gone: false,
            next_port: 0,
            addresses: BTreeMap::new(),
            hosts: BTreeMap::new(),
            fates: BTreeMap::new(),
            closing: None,
            overlooked: false,
            killed: BTreeSet::new(),
        }
    }

    /// What was decided about the motion under way, or else about the next one.
    pub fn plan(&self) -> &Round {
        self.motion.as_ref().map_or(&self.scenario.rounds[self.round], |motion| &motion.plan)
    }
}

impl Motion {
    pub fn new(
        plan: Round,
        token: Token,
        source: Pid,
        destination: Pid,
        port: Port,
        begun: u64,
        ran_before: bool,
    ) -> Self {
        Self {
            fired: vec![false; plan.faults.len()],
            reached: vec![0; plan.faults.len()],
            plan,
            token,
            source,
            destination,
            port,
            begun,
            ran_before,
            at_source: AtSource::Connecting,
            at_destination: AtDestination::Waiting,
            unresolved: false,
            calm: false,
            overdue: false,
            promise_changed: false,
            meddled: false,
            waits_since: None,
            waited: 0,
            frozen: 0,
            over: false,
        }
    }
}

impl World {
    pub fn carry_out(&mut self, plan: Plan) {
        match plan {
            Plan::Begin => self.wait_for_guest(),
            Plan::Start(port) => self.start_motion(port),
            Plan::Restart(port) => self.restart(port),
            Plan::SpeakUp(host) => self.speak_up(host),
            Plan::Proceed => self.proceed(),
            Plan::Mend => self.env.disks.iter().for_each(|disk| disk.heal()),
            Plan::Calm(begun) => {
                if self.story.motion.as_ref().is_some_and(|m| m.begun == begun && !m.calm) {
                    self.calm();
                }
            }
            Plan::Operate(begun) => self.look_after(begun),
            Plan::GiveUp => self.env.book.wrong("after an hour it has not ended"),
        }
    }

    fn proceed(&mut self) {
        if let Some(source) = self.story.motion.as_ref().map(|motion| motion.source) {
            // It may have been cancelled.
            let _ = self.command(source, Command::Proceed);
        }
    }

    /// Nothing goes wrong any more, and whoever died is back.
    fn calm(&mut self) {
        let now = self.env.now;
        self.env.book.note(|| "all is calm".into());
        self.env.net.heal(now);
        self.carry_out(Plan::Mend);
        let Some(motion) = &mut self.story.motion else { return };
        motion.calm = true;
        let (port, source, begun) = (motion.port, motion.source, motion.begun);
        self.restart(port);
        if !self.processes.contains_key(&source) {
            self.speak_up(1 - self.story.hosts[&port]);
        }
        self.plan(MINUTE, Plan::Operate(begun));
    }

    /// After each step: what is new, and what follows from it.
    pub fn follow(&mut self) {
        self.retire();
        self.see_phases();
        self.inject();
        self.bury_the_dead();
        self.see_phases();
        checks::motion(self);
        self.move_on();
    }

    /// Processes that have nothing left to do end.
    fn retire(&mut self) {
        let idle = |pid: &&Pid| {
            let process = &self.processes[pid];
            let destination = process.destination.as_ref();
            let witnesses = &process.witnesses;
            let done = process.booted.is_none()
                && process.sources.is_empty()
                && process.machine().is_none_or(|machine| !machine.has_permit())
                && destination.is_none_or(|side| side.destination.is_over())
                && witnesses.iter().all(WitnessSide::is_done);
            done && (destination.is_some() || !witnesses.is_empty())
        };
        let over: Vec<Pid> = self.processes.keys().filter(idle).copied().collect();
        over.into_iter().for_each(|pid| self.exit(pid));
    }

    fn see_phases(&mut self) {
        let now = self.env.now;
        let Some(motion) = &mut self.story.motion else { return };
        let source = self.processes.get(&motion.source).and_then(|p| p.source());
        if let Some(phase) = source.map(|side| side.source.phase())
            && phase != motion.at_source
        {
            let before = motion.at_source;
            self.env.book.note(|| format!("p{} source: {before:?} → {phase:?}", motion.source));
            motion.at_source = phase;
            if let Some(since) = motion.waits_since.take() {
                motion.waited = now - since;
            }
            self.tally.count(format!("reached in source {phase:?}"));
            if phase == AtSource::PreSwitchover {
                motion.waits_since = Some(now);
                let after = motion.plan.proceeds_after;
                self.plan(after, Plan::Proceed);
            }
        }
        let Some(motion) = &mut self.story.motion else { return };
        let destination =
            self.processes.get(&motion.destination).and_then(|p| p.destination.as_ref());
        if let Some(phase) = destination.map(|side| side.destination.phase())
            && phase != motion.at_destination
        {
            let (pid, before) = (motion.destination, motion.at_destination);
            self.env.book.note(|| format!("p{pid} destination: {before:?} → {phase:?}"));
            motion.at_destination = phase;
            self.tally.count(format!("reached in destination {phase:?}"));
        }
    }

    /// What was to go wrong here goes wrong.
    fn inject(&mut self) {
        let Some(motion) = &mut self.story.motion else { return };
        if motion.calm {
            return;
        }
        let alive = |pid| self.processes.contains_key(&pid);
        let due = motion.plan.faults.iter().enumerate().find(|(n, fault)| {
            let there = match fault.spot {
                Spot::Source(phase) => alive(motion.source) && phase == motion.at_source,
                Spot::Destination(phase) => {
                    alive(motion.destination) && phase == motion.at_destination
                }
                Spot::Any => true,
            };
            motion.reached[*n] += u64::from(there);
            there && !motion.fired[*n] && motion.reached[*n] > fault.skip
        });
        if let Some((n, fault)) = due {
            let fault = *fault;
            motion.fired[n] = true;
            self.strike(fault);
        }
    }

    /// The next motion, or the end.
    fn move_on(&mut self) {
        let held = self.holder().is_some();
        let became = self.outcome();
        let Some(motion) = &mut self.story.motion else { return };
        let source = self.processes.get(&motion.source).and_then(|process| process.source());
        let ended = source.is_none_or(|side| side.source.has_ended());
        let undecided = source.is_some_and(SourceSide::is_undecided);
        if motion.over {
            if self.story.closing.is_some() {
                self.close();
            }
            return;
        }
        if ended && !held {
            motion.over = true;
            let back = motion.plan.back;
            let status = source.map_or("source dead", |side| side.status().as_str());
            let code = source.and_then(|side| side.source.report().error.as_ref());
            let code = code.map_or("", |error| error.code.as_str());
            self.tally.count(format!("ended: {status} {code}"));
            if let Some(outcome) = became {
                self.tally.count(format!("{outcome:?}, {status} in updates"));
                if back {
                    self.tally.count(format!("{outcome:?}, {status} in exec"));
                }
            }
            let last = self.story.round + 1 >= self.story.scenario.rounds.len();
            let movable = self.owner().is_some() && !self.story.guest_gone;
            if last || !movable {
                self.wind_up();
            } else {
                self.story.round += 1;
                // Whoever has become another program wants its guest back at once.
                let back = self.story.scenario.rounds[self.story.round].back;
                let pause = self.env.rng.below(if back { 4 * MILLISECOND } else { 4 * SECOND });
                self.plan(pause, Plan::Begin);
            }
            return;
        }
        let begun = motion.begun;
        if (undecided || held) && !std::mem::replace(&mut motion.unresolved, true) {
            let patience = self.story.plan().patience;
            self.plan(patience, Plan::Calm(begun));
        }
    }

    /// Who holds a complete guest that nobody has given it yet.
    pub fn holder(&self) -> Option<Pid> {
        let holds = |p: &crate::process::Process| p.destination.as_ref().is_some_and(|d| d.holds());
        self.processes.iter().find(|(_, process)| holds(process)).map(|(pid, _)| *pid)
    }

    /// The same, of the motion under way: an earlier one's may not have heard yet.
    pub fn holder_of_motion(&self) -> Option<Pid> {
        let destination = self.story.motion.as_ref()?.destination;
        let side = self.processes.get(&destination)?.destination.as_ref()?;
        side.holds().then_some(destination)
    }

    /// No more motions.
    pub fn wind_up(&mut self) {
        self.story.closing.get_or_insert(self.env.now);
        self.calm();
    }

    /// The end, once everything has ended.
    fn close(&mut self) {
        let busy = |process: &crate::process::Process| {
            process.sources.iter().any(|side| !side.source.is_over() && !self.tells_nobody(side))
                || process.destination.as_ref().is_some_and(|side| {
                    match side.destination.phase() {
                        AtDestination::Waiting | AtDestination::Owner | AtDestination::Ended => {
                            false
                        }
                        // It stays to be asked, and everybody who could ask is dead.
                        AtDestination::Failed => side.destination.deadline().is_some(),
                        _ => true,
                    }
                })
        };
        let inbox = |process: &crate::process::Process| {
            process.deadline().is_some_and(|at| at <= self.env.now + MILLISECOND)
        };
        let settled = self.env.net.is_quiet() && !self.processes.values().any(inbox);
        if settled && !self.processes.values().any(busy) {
            checks::at_the_end(self);
            self.over = true;
        }
    }

    /// Whether it tells a destination who has the guest, which has died, and will tell so for ever: nothing
    /// has been in its way for long.
    pub fn tells_nobody(&self, side: &SourceSide) -> bool {
        let calm = self.story.closing.is_some_and(|since| self.env.now - since > 3 * MINUTE);
        calm && side.source.phase() == AtSource::Settling
    }

    /// What became of the guest of an update, if one is under way.
    pub fn outcome(&self) -> Option<Outcome> {
        let fate = self.story.fates.get(&self.story.motion.as_ref()?.port)?;
        Some(fate.outcome())
    }

    /// How the motion under way stands at its source.
    pub fn status(&self) -> Option<Status> {
        let motion = self.story.motion.as_ref()?;
        Some(self.processes.get(&motion.source)?.source()?.status())
    }
}
