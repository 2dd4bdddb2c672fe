//! Two hosts and what lives on them, driven on one clock.

use crate::book::Book;
use crate::checks;
use crate::disk::{Disk, ProcessJournal};
use crate::env::{Env, SECOND};
use crate::guest::{self, Guest};
use crate::keep;
use crate::life::{Life, Pid};
use crate::machine::SimMachine;
use crate::mutants::Mutant;
use crate::net::{Net, Piece, Port};
use crate::plots::Plot;
use crate::process::Process;
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::story::{Plan, Story};
use crate::tally::Tally;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

/// More steps than any run needs: what takes more goes round in circles.
const MOST_STEPS: u64 = 40_000;

pub struct World {
    pub env: Env,
    pub processes: BTreeMap<Pid, Process>,
    /// Who listens where.
    pub ports: BTreeMap<Port, Pid>,
    next_pid: Pid,
    /// What is to happen, by time and order.
    agenda: BTreeMap<(u64, u64), Plan>,
    planned: u64,
    pub story: Story,
    pub tally: Tally,
    pub over: bool,
}

/// What a seed is run with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Case {
    /// What is wrong on purpose.
    pub mutant: Option<Mutant>,
    /// What happens in the first motion.
    pub plot: Option<&'static Plot>,
}

/// How a run went.
pub struct Run {
    pub tally: Tally,
    pub wrong: Option<String>,
    pub trace: String,
}

/// Runs the world of a seed to its end. An engine that panics is wrong, too.
pub fn run(seed: u64, case: Case, tracing: bool) -> Run {
    let book = Book::new(tracing);
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let mut tally = live(seed, case, &book);
        if !book.is_wrong() && case.plot.is_none() {
            tally.add(keep::live(seed, case.mutant, &book));
        }
        tally
    }));
    let tally = lived.unwrap_or_else(|_| {
        book.wrong("something panicked");
        Tally::default()
    });
    Run { tally, wrong: book.verdict(), trace: book.trace() }
}

fn live(seed: u64, Case { mutant, plot }: Case, book: &Book) -> Tally {
    Mutant::infect(mutant);
    let mut rng = Rng::new(seed);
    let scenario = Scenario::of(&mut rng.fork(), plot);
    book.note(|| format!("{scenario:#?}"));
    let guest = Guest::new(scenario.habits, rng.fork(), 1);
    let env = Env {
        now: 0,
        rng,
        net: Net::new(scenario.conditions),
        book: book.clone(),
        disks: [Disk::default(), Disk::default()],
        guest: Arc::new(Mutex::new(guest)),
        mutant,
    };
    let mut world = World {
        env,
        processes: BTreeMap::new(),
        ports: BTreeMap::new(),
        next_pid: 0,
        agenda: BTreeMap::new(),
        planned: 0,
        story: Story::new(scenario),
        tally: Tally::default(),
        over: false,
    };
    world.begin();
    let mut steps = 0;
    while !world.over && !book.is_wrong() {
        steps += 1;
        book.check(steps < MOST_STEPS, || "it goes round in circles".into());
        world.step();
    }
    world.tally.steps(steps);
    world.tally
}

impl World {
    pub fn spawn(&mut self, host: usize) -> Pid {
        self.next_pid += 1;
        let life = Arc::new(Life::new(self.next_pid, host));
        self.processes.insert(self.next_pid, Process::new(life));
        self.next_pid
    }

    pub fn journal(&self, life: &Arc<Life>) -> ProcessJournal {
        ProcessJournal {
            disk: self.env.disks[life.host].clone(),
            life: life.clone(),
            book: self.env.book.clone(),
            lies: self.env.mutant.and_then(Mutant::lie),
        }
    }

    pub fn plan(&mut self, after: u64, plan: Plan) {
        self.planned += 1;
        self.agenda.insert((self.env.now + after, self.planned), plan);
    }

    /// The next thing that happens, whatever it is.
    fn step(&mut self) {
        let processes = &self.processes;
        let busy = |pid| processes.get(&pid).map_or(0, |process| process.busy_until);
        let net = self.env.net.next(busy);
        let process = processes.iter().filter_map(|(pid, p)| Some((p.deadline()?, *pid))).min();
        let plan = self.agenda.keys().next().copied();
        let first = [net.map(|n| n.0), process.map(|p| p.0), plan.map(|p| p.0)];
        let Some(at) = first.into_iter().flatten().min() else {
            self.env.book.wrong("nothing is left to happen, and it has not ended");
            return;
        };
        self.advance(at);
        if let Some(key) = plan.filter(|key| key.0 <= at) {
            let plan = self.agenda.remove(&key).expect("it was just there");
            self.carry_out(plan);
        } else if let Some((_, pid)) = process.filter(|(due, _)| *due <= at) {
            let process = self.processes.get_mut(&pid).expect("it was just there");
            process.wake(&mut self.env);
        } else if let Some((_, conn, end)) = net {
            let pid = self.env.net.get(conn).and_then(|conn| conn.pids[end as usize]);
            let Some(piece) = self.env.net.take(conn, end) else { return };
            if matches!(piece, Piece::Open) {
                self.open(conn);
            } else if let Some(process) = pid.and_then(|pid| self.processes.get_mut(&pid)) {
                process.deliver(&mut self.env, conn, &piece);
            }
        }
        self.settle();
    }

    fn advance(&mut self, at: u64) {
        let passed = at.saturating_sub(self.env.now);
        if passed > 0 {
            self.env.now = at;
            self.env.book.set_time(at);
            let awake = |process: &&Process| process.frozen_until < at;
            let machines = self.processes.values().filter(awake).filter_map(Process::machine);
            machines.for_each(|machine| machine.runs_for(passed));
        }
    }

    /// Somebody dials.
    fn open(&mut self, conn: u32) {
        let now = self.env.now;
        let Some(port) = self.env.net.get(conn).map(|conn| conn.port) else { return };
        let listener = self.ports.get(&port).copied().filter(|_| !self.env.net.is_refusing(now));
        let process = listener.and_then(|pid| self.processes.get_mut(&pid));
        match process.filter(|p| p.destination.as_ref().is_some_and(|d| d.listens())) {
            Some(process) => {
                self.env.net.accept(conn, process.life.pid);
                process.deliver(&mut self.env, conn, &Piece::Open);
            }
            None => self.env.net.refuse(&mut self.env.rng, conn, now),
        }
    }

    /// After each step: the dead are buried, and the world is looked at.
    fn settle(&mut self) {
        let now = self.env.now;
        self.processes.values_mut().for_each(|process| process.settle(now));
        self.bury_the_dead();
        checks::one_guest(self);
        checks::copy_is_kept(self);
        self.follow();
    }

    pub fn bury_the_dead(&mut self) {
        let dead = |(pid, process): (&Pid, &Process)| process.life.is_dead().then_some(*pid);
        let dead: Vec<Pid> = self.processes.iter().filter_map(dead).collect();
        dead.into_iter().for_each(|pid| self.bury(pid));
    }

    /// A process has died: its connections close, its memory is gone, its records stay.
    pub fn bury(&mut self, pid: Pid) {
        let now = self.env.now;
        self.env.book.note(|| format!("p{pid} is dead"));
        self.dies(pid);
        self.env.net.drop_process(&mut self.env.rng, pid, now);
        let Some(process) = self.processes.remove(&pid) else { return };
        self.env.disks[process.life.host].died(pid);
    }

    /// A process has nothing left to do and ends.
    pub fn exit(&mut self, pid: Pid) {
        let now = self.env.now;
        self.env.book.note(|| format!("p{pid} exits"));
        self.env.net.drop_process(&mut self.env.rng, pid, now);
        if let Some(process) = self.processes.remove(&pid) {
            self.env.disks[process.life.host].died(pid);
        }
    }

    /// Every machine there is, with its process.
    pub fn machines(&self) -> impl Iterator<Item = (Pid, Arc<SimMachine>)> {
        self.processes.iter().filter_map(|(pid, process)| Some((*pid, process.machine()?)))
    }

    /// Who has the guest.
    pub fn owner(&self) -> Option<Pid> {
        self.machines().find(|(_, machine)| machine.has_permit()).map(|(pid, _)| pid)
    }

    fn begin(&mut self) {
        let pid = self.spawn(0);
        let round = &self.story.scenario.rounds[0];
        let (mut nature, stopped) = (round.nature, round.stopped);
        nature.defect = self.env.mutant.and_then(Mutant::defect);
        let life = self.processes[&pid].life.clone();
        let (guest, book) = (self.env.guest.clone(), self.env.book.clone());
        let machine = SimMachine::empty(life, guest, book, nature);
        machine.boot(!stopped);
        guest::lock(&self.env.guest).holder = pid;
        if let Some(process) = self.processes.get_mut(&pid) {
            process.booted = Some(machine);
        }
        self.plan(0, Plan::Begin);
        self.plan(3600 * SECOND, Plan::GiveUp);
    }
}
