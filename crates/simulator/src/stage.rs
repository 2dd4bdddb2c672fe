//! Who comes on when: processes that wait, motions that begin, and whoever speaks for the dead.

use crate::builder::Builder;
use crate::call::Caller;
use crate::destination::DestinationSide;
use crate::env::{MILLISECOND, SECOND};
use crate::life::{Life, Pid};
use crate::mutants::Mutant;
use crate::net::Port;
use crate::process::Process;
use crate::source::SourceSide;
use crate::story::{Motion, Plan};
use crate::watcher::Watcher;
use crate::witness::WitnessSide;
use crate::world::World;
use motion::clock::nanos;
use motion::destination::{Destination, Phase as AtDestination};
use motion::handover::{Fate, Journal, MemoryJournal, Particulars, Role, Token, Witness};
use motion::source::Source;
use motion::{DestinationOptions, Machine as _, RamWay};
use std::sync::{Arc, Mutex, Weak};
use uuid::Uuid;

impl World {
    /// A process on the other host begins to wait, unless one waits already.
    pub fn wait_for_guest(&mut self) {
        let Some(owner) = self.owner() else { return self.wind_up() };
        if self.story.scenario.rounds[self.story.round].back {
            self.exec(owner);
        }
        let round = &self.story.scenario.rounds[self.story.round];
        if round.is_update() {
            self.story.next_port += 1;
            let port = self.story.next_port;
            self.story.hosts.insert(port, self.processes[&owner].life.host);
            let (fate, _) = Fate::new().expect("a page can be had");
            self.story.fates.insert(port, Arc::new(fate));
            self.listen(port);
            self.plan(MILLISECOND, Plan::Start(port));
            return;
        }
        let host = 1 - self.processes[&owner].life.host;
        let waits = |pid: &Pid| {
            self.processes.get(pid).is_some_and(|process| {
                let destination = process.destination.as_ref();
                process.life.host == host
                    && destination.is_some_and(|d| d.destination.phase() == AtDestination::Waiting)
            })
        };
        let moves = |port: &Port| !self.story.fates.contains_key(port);
        let mut ports = self.ports.iter().filter(|(port, _)| moves(port));
        let port = ports.find(|(_, pid)| waits(pid)).map(|(port, _)| *port);
        let port = port.unwrap_or_else(|| {
            self.story.next_port += 1;
            self.story.hosts.insert(self.story.next_port, host);
            self.listen(self.story.next_port);
            self.story.next_port
        });
        self.plan(MILLISECOND, Plan::Start(port));
    }

    /// The process that the guest has left becomes another program: of what it was nothing is left.
    fn exec(&mut self, owner: Pid) {
        let Some(left) = self.story.motion.as_ref().map(|motion| motion.source) else { return };
        let is_over =
            |process: &Process| process.source().is_some_and(|side| side.source.is_over());
        if left != owner && self.processes.get(&left).is_some_and(is_over) {
            self.env.book.note(|| format!("p{left} becomes another program"));
            self.tally.count("there in exec");
            self.exit(left);
        }
    }

    /// Somebody else begins to wait where this port is, and finds what the dead have left there.
    pub fn bystander(&mut self, port: Port) {
        let host = self.story.hosts[&port];
        self.story.next_port += 1;
        self.story.hosts.insert(self.story.next_port, host);
        self.listen(self.story.next_port);
    }

    /// Starts a process that waits on this port.
    fn listen(&mut self, port: Port) {
        let fate = self.story.fates.get(&port).cloned();
        let shared = fate.as_ref().and_then(|_| {
            let owner = self.processes.get(&self.owner()?)?.machine()?;
            Some(owner.shared_ram())
        });
        let pid = self.spawn(self.story.hosts[&port]);
        let round = &self.story.scenario.rounds[self.story.round];
        let mut nature = round.nature;
        nature.defect = self.env.mutant.and_then(Mutant::defect);
        let life = self.processes[&pid].life.clone();
        let builder = Arc::new(Builder {
            life: life.clone(),
            guest: self.env.guest.clone(),
            book: self.env.book.clone(),
            nature,
            refuses: round.refuses,
            shared,
            built: Mutex::new(Weak::new()),
        });
        // What is started again for an earlier motion waits for what that was.
        let ram = if fate.is_some() { RamWay::Shared } else { RamWay::Passes };
        let options = DestinationOptions { ram, ..round.destination.clone() };
        let gives_up = options.hold.is_some();
        let journal = self.journal_for(&life, Role::Destination, fate.is_some());
        let watcher = Arc::new(Watcher::new(self.env.book.clone(), "destination", false));
        let destination = Destination::new(builder.clone(), options, journal, watcher, || 0);
        let side = DestinationSide::new(destination, builder, life, port, gives_up, fate);
        if let Some(process) = self.processes.get_mut(&pid) {
            process.destination = Some(side);
        }
        self.ports.insert(port, pid);
        self.env.book.note(|| format!("p{pid} waits on port {port}"));
    }

    /// Where a process keeps its records: in an update they need not outlive it.
    fn journal_for(
        &self,
        life: &Arc<Life>,
        role: Role,
        is_update: bool,
    ) -> Box<dyn Journal + Send> {
        if !is_update {
            return Box::new(self.journal(life));
        }
        let [source, destination] = self.story.scenario.rounds[self.story.round].journals_fail;
        let mut journal = MemoryJournal::default();
        journal.failures = if role == Role::Source { source } else { destination };
        Box::new(journal)
    }

    pub fn restart(&mut self, port: Port) {
        // Whoever replaces a process starts the next one, and does so for each attempt.
        if self.story.fates.contains_key(&port) {
            return;
        }
        if self.ports.get(&port).is_some_and(|pid| self.story.killed.contains(pid)) {
            self.listen(port);
        }
    }

    pub fn start_motion(&mut self, port: Port) {
        let machine = |owner| self.processes.get(&owner).and_then(|process| process.machine());
        let Some((owner, machine)) = self.owner().and_then(|pid| Some((pid, machine(pid)?))) else {
            return self.wind_up();
        };
        let round = self.story.scenario.rounds[self.story.round].clone();
        let number = u128::try_from(self.story.round).expect("there are six at most") + 1;
        let token = Token(number.to_be_bytes());
        let target = if round.absent { port + 1000 } else { port };
        let destination = self.ports[&port];
        let particulars =
            Particulars::new(token, Uuid::from_u128(7), "guest", "the destination", 0)
                .expect("they are short");
        let session = (number << 64).to_be_bytes();
        let caller = Caller {
            pid: owner,
            hello: wire::Hello::new(
                session,
                *Uuid::from_u128(7).as_bytes(),
                wire::Role::Control,
                0,
            ),
            port: target,
            stall: nanos(round.options.stall_limit),
            clock_ahead: round.clock_ahead,
        };
        let life = self.processes[&owner].life.clone();
        let fate = self.story.fates.get(&port).cloned();
        let journal = self.journal_for(&life, Role::Source, fate.is_some());
        let (options, limit) = (round.options.clone(), round.options.max_bandwidth);
        let ran_before = machine.is_running();
        let watcher = Arc::new(Watcher::new(self.env.book.clone(), "source", ran_before));
        let source =
            Source::new(machine.clone(), particulars, options, session, journal, watcher.clone());
        let mut side = SourceSide::new(source, machine, watcher, caller, limit, fate);
        self.env.book.note(|| format!("p{owner} begins motion {number} to port {target}"));
        self.story.addresses.insert(token, target);
        let begun = self.env.now;
        self.story.motion =
            Some(Motion::new(round, token, owner, destination, port, begun, ran_before));
        side.begin(&mut self.env);
        if let Some(process) = self.processes.get_mut(&owner) {
            process.sources.push(side);
        }
    }

    /// Somebody adopts the records of dead sources, and passes on what they say.
    pub fn speak_up(&mut self, host: usize) {
        let keys = self.env.disks[host].orphans(Role::Source);
        if keys.is_empty() {
            return;
        }
        let pid = self.spawn(host);
        let life = self.processes[&pid].life.clone();
        for key in keys {
            let mut journal = self.journal(&life);
            let Ok(Some(record)) = journal.adopt(key) else {
                self.env.book.note(|| format!("p{pid} cannot read the record of a dead source"));
                continue;
            };
            let caller = Caller {
                pid,
                hello: wire::Hello::new([9; 16], [7; 16], wire::Role::Question, 0),
                port: self.story.addresses[&key.token],
                stall: 2 * SECOND,
                clock_ahead: 0,
            };
            self.env.book.note(|| format!("p{pid} speaks for a dead source: {record:?}"));
            let mut side = WitnessSide::new(Witness::new(record), journal, caller);
            side.wake_up(&mut self.env);
            if let Some(process) = self.processes.get_mut(&pid) {
                process.witnesses.push(side);
            }
        }
    }
}
