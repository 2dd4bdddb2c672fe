//! Where the guest is, and what is done with it next.

use super::checks;
use super::disk::{Hands, SharedDisk};
use super::restore::RestoreSide;
use super::save::SaveSide;
use crate::book::Book;
use crate::disk::{Disk, ProcessJournal};
use crate::env::{MICROSECOND, MILLISECOND, SECOND};
use crate::guest::{self, Guest, Habits, SharedGuest};
use crate::life::{Life, Pid};
use crate::machine::{Nature, SimMachine};
use crate::mutants::Mutant;
use crate::rng::Rng;
use crate::tally::Tally;
use memory::{GuestRam, MemoryFile};
use motion::restore::Terms;
use snapshot::watched_by;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// Names the machine whose guest it is.
pub const MACHINE: Uuid = Uuid::from_u128(7);

/// A process, and what it does with files.
pub struct Process {
    pub life: Arc<Life>,
    pub hands: Rc<Hands>,
    pub machine: Option<Arc<SimMachine>>,
    pub save: Option<SaveSide>,
    pub restore: Option<Rc<RestoreSide>>,
}

/// A file that was begun.
pub struct Note {
    pub path: PathBuf,
    /// Names what is in it, or was to be.
    pub snapshot: Uuid,
    /// The guest goes on from it, once; else it is a copy.
    pub is_save: bool,
    /// The guest that is in it, once its state was saved.
    pub guest: Option<Guest>,
    /// It was said to be complete.
    pub is_complete: bool,
    /// RAM is not in it, but in its memory file.
    pub is_apart: bool,
}

pub struct Keep {
    pub rng: Rng,
    pub now: u64,
    pub book: Book,
    pub mutant: Option<Mutant>,
    pub disk: Rc<SharedDisk>,
    journals: [Disk; 2],
    pub guest: SharedGuest,
    pub nature: Nature,
    next_pid: Pid,
    pub processes: BTreeMap<Pid, Process>,
    pub files: Vec<Note>,
    pub tally: Tally,
    /// The process that had the guest died, and no file has it.
    pub is_lost: bool,
    /// So many others have tried to take the guest from the same file.
    pub rivals: u32,
    /// Who had it, or may have had it, after the last step.
    pub last_owner: Option<Pid>,
    /// It shut down by itself.
    pub guest_gone: bool,
    /// Something was done to the file under way after which its folder need not be tidy.
    pub is_untidy: bool,
}

impl Keep {
    pub fn new(mut rng: Rng, mutant: Option<Mutant>, book: &Book) -> Self {
        let habits = Habits {
            touched: rng.magnitude(1, 200),
            hot: rng.magnitude(1, 100),
            every: rng.magnitude(10 * MICROSECOND, 100 * MILLISECOND),
            burst: rng.magnitude(1, 64),
        };
        let nature = Nature {
            pause: rng.below(MILLISECOND),
            save: rng.below(MILLISECOND),
            defect: mutant.and_then(Mutant::defect),
            ..Nature::default()
        };
        book.set_time(0);
        let guest = Arc::new(Mutex::new(Guest::new(habits, rng.fork(), 1)));
        let disk = SharedDisk::new(mutant.and_then(Mutant::disk)).expect("there is a folder");
        Self {
            rng,
            now: 0,
            book: book.clone(),
            mutant,
            disk,
            journals: [Disk::default(), Disk::default()],
            guest,
            nature,
            next_pid: 0,
            processes: BTreeMap::new(),
            files: Vec::new(),
            tally: Tally::default(),
            is_lost: false,
            rivals: 0,
            last_owner: None,
            guest_gone: false,
            is_untidy: false,
        }
    }

    pub fn live(&mut self) {
        let pid = self.spawn(0);
        let lasts = self.rng.chance(25);
        let process = self.processes.get_mut(&pid).expect("it was just made");
        let (guest, life) = (self.guest.clone(), process.life.clone());
        let machine = match lasts {
            false => SimMachine::empty(life, guest, self.book.clone(), self.nature),
            true => {
                let (path, cellar) = (self.disk.cellar.path(), self.disk.cellar.clone());
                let (of, named) = (*MACHINE.as_bytes(), [1; 16]);
                let file = MemoryFile::create(path, guest::RAM, of, named, false, true);
                let ram = GuestRam::named(Arc::new(file.expect("there is room")));
                let ram = ram.expect("16 MiB can be mapped");
                SimMachine::named(ram, cellar, life, guest, self.book.clone(), self.nature)
            }
        };
        process.machine = Some(machine.clone());
        machine.boot(self.rng.chance(90));
        // It goes with its process.
        drop(machine);
        self.book.note(|| format!("a guest of files: {:?}", guest::lock(&self.guest).habits()));
        for _ in 0..self.rng.between(1, 5) {
            if self.book.is_wrong() || self.guest_gone {
                return;
            }
            match (self.owner(), self.unclaimed()) {
                (Some(owner), _) => self.write(owner),
                (None, Some(file)) => self.restore(file),
                (None, None) => break,
            }
            self.passes(SECOND);
            if self.rng.chance(if self.owner().is_some() { 5 } else { 30 }) {
                let host = self.rng.index(2);
                self.power_fails(host);
            }
        }
        if !self.book.is_wrong() && !self.guest_gone {
            self.disk.heal();
            checks::at_the_end(self);
        }
    }

    pub fn spawn(&mut self, host: usize) -> Pid {
        self.next_pid += 1;
        let life = Arc::new(Life::new(self.next_pid, host));
        let hands = Hands::new(&self.disk, &life);
        let process = Process { life, hands, machine: None, save: None, restore: None };
        self.processes.insert(self.next_pid, process);
        self.next_pid
    }

    pub fn journal(&self, life: &Arc<Life>) -> ProcessJournal {
        ProcessJournal {
            disk: self.journals[life.host].clone(),
            life: life.clone(),
            book: self.book.clone(),
            lies: self.mutant.and_then(Mutant::lie),
        }
    }

    pub fn journal_of(&self, host: usize) -> &Disk {
        &self.journals[host]
    }

    /// Time passes, for guests, too.
    pub fn passes(&mut self, time: u64) {
        self.now += time;
        self.book.set_time(self.now);
        for process in self.processes.values() {
            if let Some(machine) = process.machine.as_ref().filter(|m| m.has_permit()) {
                machine.runs_for(time);
            }
        }
    }

    /// Who has the guest.
    pub fn owner(&self) -> Option<Pid> {
        self.owners().next()
    }

    /// Everybody who may run it, or could take it back by itself.
    pub fn owners(&self) -> impl Iterator<Item = Pid> {
        let has = |process: &Process| {
            let own = process.machine.as_ref().is_some_and(|machine| machine.has_permit());
            let offers = process.save.as_ref().is_some_and(SaveSide::offers);
            // A copy of it is another guest.
            let is_copy = process.restore.as_ref().is_some_and(|r| r.terms == Terms::Clone);
            (own || offers) && !is_copy
        };
        self.processes.iter().filter(move |(_, process)| has(process)).map(|(pid, _)| *pid)
    }

    /// The file that the guest is in, complete and not claimed.
    pub fn unclaimed(&self) -> Option<usize> {
        checks::unclaimed(self).into_iter().next()
    }

    /// A process dies: of what it had in memory nothing is left.
    pub fn bury(&mut self, pid: Pid, powerless: bool) {
        let Some(process) = self.processes.remove(&pid) else { return };
        let host = process.life.host;
        self.book
            .note(|| format!("p{pid} is dead{}", if powerless { ", its host, too" } else { "" }));
        let in_doubt = process.save.as_ref().is_some_and(SaveSide::is_in_doubt);
        let had = process.machine.as_ref().is_some_and(|machine| machine.has_permit())
            || process.save.as_ref().is_some_and(SaveSide::offers)
            || in_doubt
            || self.last_owner == Some(pid);
        let is_copy = process.restore.as_ref().is_some_and(|r| r.terms == Terms::Clone);
        self.journals[host].died(pid);
        // What it would do to its files at its end it does no more.
        watched_by(process.hands.clone(), || drop(process));
        // What it was about to give away it may have given; else nobody has it any more.
        self.is_lost |= had && !is_copy;
        if powerless {
            self.power_fails(host);
        }
        checks::after_each_step(self);
    }

    /// A host loses its power, at any time.
    pub fn power_fails(&mut self, host: usize) {
        let own = |(pid, p): (&Pid, &Process)| (p.life.host == host).then_some(*pid);
        let own: Vec<Pid> = self.processes.iter().filter_map(own).collect();
        self.book.note(|| format!("host {host} loses its power"));
        own.iter().for_each(|pid| self.processes[pid].life.kill());
        own.into_iter().for_each(|pid| self.bury(pid, false));
        self.journals[host].lose();
        self.disk.lose_power(host, &mut self.rng).expect("files can be written");
        checks::after_each_step(self);
    }
}
