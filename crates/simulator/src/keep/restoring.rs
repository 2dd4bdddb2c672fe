//! A guest that is taken from a file, perhaps by two at once.

use super::checks;
use super::disk::Ailment;
use super::restore::RestoreSide;
use super::world::Keep;
use crate::guest::SharedGuest;
use crate::life::Pid;
use motion::Machine as _;
use motion::restore::{Phase, Terms};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// More than what a restore does to its file.
const ACTS: u64 = 48;

impl Keep {
    /// Somebody restores the guest that is in this file, with whatever comes between.
    pub fn restore(&mut self, file: usize) {
        let (host, paused) = (self.rng.index(2), self.rng.chance(25));
        let guest = self.guest.clone();
        let lazily = self.rng.chance(50);
        let (pid, side) =
            self.begin_restore(host, file, Terms::AsSaved, paused, guest.clone(), lazily);
        let after = match lazily {
            true => self.rng.magnitude(1, ACTS) - 1,
            false => self.rng.below(ACTS),
        };
        let mut powerless = false;
        let mut rival = None;
        self.rivals = 0;
        let what = match self.rng.below(10) {
            0 => {
                self.processes[&pid].life.dies_after(after);
                "kill"
            }
            1 => {
                self.processes[&pid].life.dies_after(after);
                powerless = true;
                "power cut"
            }
            2 | 3 => {
                let times = self.rng.pick(&[1, 2, 1000]);
                let is_full = self.rng.chance(20);
                let part = self.rng.chance(20).then(|| self.rng.pick(&[1, 512, 4096]));
                self.disk.fail(host, Ailment { after, times, is_full, part });
                "disk fails"
            }
            4 => {
                let (own, run) = (side.clone(), self.rng.chance(40));
                side.hands.interrupt(after, move || own.told(run));
                if run { "cont" } else { "cancel" }
            }
            5..=7 => {
                let other = self.rng.index(2);
                let (rival_pid, other) = self.prepare(other, file, Terms::AsSaved, false, guest);
                rival = Some((rival_pid, other.clone()));
                self.rivals = 1;
                if self.rng.chance(20) {
                    let after = self.rng.below(ACTS);
                    self.processes[&rival_pid].life.dies_after(after);
                }
                side.hands.interrupt(after, move || other.run());
                "rival"
            }
            _ => "nothing",
        };
        self.tally.count(format!("{what} in restore"));
        self.book
            .note(|| format!("p{pid} restores file {file} on host {host}: {what} after {after}"));
        side.run();
        side.hands.undisturbed();
        let runs = paused && what != "cont" && side.phase() == Some(Phase::Owner);
        self.book.check(!runs, || "a guest that was to be held is not".into());
        self.end(pid, &side, file, powerless);
        if let Some((pid, side)) = rival {
            // The first may have been through before the other came to it.
            if side.phase().is_none() && side.code().is_none() {
                side.run();
            }
            self.end(pid, &side, file, false);
        }
        checks::after_each_step(self);
        let is_to_blame = what == "disk fails";
        if self.rng.chance(50) {
            self.come(pid, &side, file, is_to_blame);
            self.disk.mend();
        }
        self.carry_on_held(pid, &side, file);
        self.come(pid, &side, file, is_to_blame);
        self.disk.heal();
        self.disk.mend();
        // Whoever holds a guest without running it has its memory file, and nobody else can.
        if self.files[file].is_apart && side.phase() == Some(Phase::Held) {
            self.processes.get(&pid).into_iter().for_each(|process| process.life.kill());
            self.bury(pid, false);
        }
        checks::after_each_step(self);
    }

    /// What is held is told to run, or its process ends.
    fn carry_on_held(&mut self, pid: Pid, side: &Rc<RestoreSide>, file: usize) {
        if !self.processes.contains_key(&pid) || side.phase() != Some(Phase::Held) {
            return;
        }
        let is_free = checks::unclaimed(self).contains(&file) || self.rivals > 0;
        self.book.check(is_free, || "a guest that is held was claimed already".into());
        if self.rng.chance(30) {
            self.processes[&pid].life.kill();
            return self.bury(pid, false);
        }
        if self.rng.chance(30) {
            let after = self.rng.below(8);
            self.processes[&pid].life.dies_after(after);
        }
        let result = side.cont();
        self.book.note(|| format!("p{pid} is told to run it: {:?}", result.map_err(|e| e.code)));
        self.end(pid, side, file, false);
    }

    /// A process that is to restore a file, all of it before the guest runs.
    pub fn prepare(
        &mut self,
        host: usize,
        file: usize,
        terms: Terms,
        paused: bool,
        guest: SharedGuest,
    ) -> (Pid, Rc<RestoreSide>) {
        self.begin_restore(host, file, terms, paused, guest, false)
    }

    fn begin_restore(
        &mut self,
        host: usize,
        file: usize,
        terms: Terms,
        paused: bool,
        guest: SharedGuest,
        lazily: bool,
    ) -> (Pid, Rc<RestoreSide>) {
        let pid = self.spawn(host);
        let process = self.processes.get_mut(&pid).expect("it was just made");
        let path = self.files[file].path.clone();
        let hands = process.hands.clone();
        let what = (guest, self.book.clone(), self.nature);
        let lazily = lazily.then(|| (self.rng.fork(), self.now));
        let side = RestoreSide::new(path, terms, paused, hands, what, lazily);
        process.restore = Some(side.clone());
        (pid, side)
    }

    /// What came of it.
    pub fn end(&mut self, pid: Pid, side: &Rc<RestoreSide>, file: usize, powerless: bool) {
        let (phase, code) = (side.phase(), side.code());
        self.book.note(|| format!("p{pid} has restored file {file}: {phase:?}, {code:?}"));
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.machine = side.machine();
        if process.life.is_dead() {
            return self.bury(pid, powerless);
        }
        let owns = process.machine.as_ref().is_some_and(|machine| machine.has_permit());
        let early = side.crew.as_ref().is_some_and(|crew| crew.failed_early());
        if early {
            self.tally.count("early outage in filling");
        }
        self.book.check(!early || !owns && phase != Some(Phase::Held), || {
            "a guest whose pages cannot be had is taken from its file".into()
        });
        self.book.check(owns == (phase == Some(Phase::Owner)), || {
            format!("a restore is {phase:?}, and the guest is there: {owns}")
        });
        self.book.check(owns || phase == Some(Phase::Held) || code.is_some(), || {
            "a restore brought no guest, and does not say why".into()
        });
        if owns {
            let runs = process.machine.as_ref().is_some_and(|machine| machine.is_running());
            let may_stand = side.outage().is_some() || side.paused && side.terms == Terms::Clone;
            let has_failed = process.machine.as_ref().is_some_and(|machine| machine.has_failed());
            let may_stand = may_stand || has_failed;
            self.book.check(runs || may_stand, || "a guest that is owned does not run".into());
            checks::claimed(self, side, file);
            self.is_lost &= side.terms == Terms::Clone;
            self.tally.count("restored in restore");
        } else if phase != Some(Phase::Held) {
            // It has nothing to do any more.
            let _ = self.processes.remove(&pid);
        }
    }

    /// A copy of what is in a file: the guest as it was then.
    pub fn copy_of(&self, file: usize) -> Option<SharedGuest> {
        self.files[file].guest.clone().map(|guest| Arc::new(Mutex::new(guest)))
    }
}
