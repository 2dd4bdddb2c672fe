//! What goes wrong, as it goes wrong; and what somebody does about it.

use crate::env::{MINUTE, SECOND};
use crate::life::Pid;
use crate::machine::SimMachine;
use crate::process::Process;
use crate::scenario::{Ailment, Fault, Kind};
use crate::story::Plan;
use crate::world::World;
use motion::destination::Command as ToDestination;
use motion::handover::{Decision, Outcome, Role, Side};
use motion::source::{Command, Phase as AtSource};
use motion::{Blackout, Machine as _, MotionError};
use state::Code;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

impl World {
    pub fn strike(&mut self, fault: Fault) {
        let Some(motion) = &self.story.motion else { return };
        let (source, destination) = (motion.source, motion.destination);
        let update = if motion.plan.is_update() { "update " } else { "" };
        let (name, spot) = (fault.kind.name(), format!("{update}{}", fault.spot.name()));
        self.env.book.note(|| format!("*** {:?} in {spot}", fault.kind));
        self.tally.count(format!("{name} in {spot}"));
        self.story.undisturbed = false;
        let now = self.env.now;
        match fault.kind {
            Kind::KillSource => self.kill(source),
            Kind::KillDestination => self.kill(destination),
            Kind::SourceDies(after) => self.dies_after(source, after),
            Kind::DestinationDies(after) => self.dies_after(destination, after),
            Kind::SourceHostDies => self.kill_host(source),
            Kind::DestinationHostDies => self.kill_host(destination),
            Kind::Freeze(of_source, time) => self.freeze(of_source, time),
            Kind::Ask => drop(self.command(source, Command::Ask)),
            Kind::Cut(purpose) => {
                self.env.net.cut_some(&mut self.env.rng, purpose, false, now, &self.env.book);
            }
            Kind::CutSilently(purpose) => {
                self.env.net.cut_some(&mut self.env.rng, purpose, true, now, &self.env.book);
            }
            Kind::Stall(purpose, time) => {
                self.env.net.stall(&mut self.env.rng, purpose, now + time, &self.env.book);
            }
            Kind::StallThere(time) => self.env.net.stall_there(now + time, &self.env.book),
            Kind::Partition(time) => self.env.net.partition(now + time),
            Kind::LoseAnswers(answers) => self.env.net.lose_answers(answers),
            Kind::RefuseConnections(time) => self.env.net.refuse_all(now + time),
            Kind::DiskFails(of_source, ailment, times) => {
                let host = self.story.hosts.get(&motion.port).map_or(0, |host| 1 - host);
                self.env.disks[if of_source { host } else { 1 - host }].fail(ailment, times);
                self.story.overlooked |= matches!(ailment, Ailment::Torn | Ailment::Unlisted);
                self.plan(5 * SECOND, Plan::Mend);
            }
            Kind::Cancel => self.cancel(source),
            Kind::CancelDestination => {
                // Where it is too late it says so.
                let _ = self.command_destination(destination, ToDestination::Cancel);
            }
            Kind::SetBlackout(limit) => {
                if let Some(motion) = &mut self.story.motion {
                    motion.promise_changed = true;
                }
                let limit = Blackout::Limit(Duration::from_nanos(limit));
                let _ = self.command(source, Command::SetBlackout(limit));
            }
            Kind::SetBandwidth(rate) => {
                let _ = self.command(source, Command::SetBandwidth(NonZeroU64::new(rate)));
            }
            Kind::SetStall(of_source, limit) => {
                let limit = Duration::from_nanos(limit);
                // Where there is nobody whose limit it is, or whose motion has ended, it changes nothing.
                if of_source {
                    let _ = self.command(source, Command::SetStall(limit));
                } else {
                    let _ = self.command_destination(destination, ToDestination::SetStall(limit));
                }
            }
            Kind::GuestGone => self.guest_goes(source),
            Kind::Quit(true) => self.quit(source),
            Kind::Quit(false) => self.quit(destination),
            Kind::Bystander => self.bystander(motion.port),
            Kind::StopGuest => self.stop_guest(source),
            Kind::ContGuest => self.cont_guest(source),
            Kind::Resolve => self.operate(),
        }
    }

    /// `quit`, which is refused where the only copy may be here.
    fn quit(&mut self, pid: Pid) {
        let Some(process) = self.processes.get(&pid) else { return };
        let source = process.source().is_some_and(|side| side.source.progress().in_doubt.is_some());
        let side = process.destination.as_ref();
        let destination = side.is_some_and(|side| side.destination.progress().in_doubt.is_some());
        if source || destination {
            self.tally.count("refused: quit");
            return;
        }
        let only = self.story.heir == Some(pid) && side.is_some_and(|side| side.holds());
        self.env.book.check(!only, || format!("p{pid} may quit with the only copy of its guest"));
        self.env.book.note(|| format!("p{pid} quits"));
        self.kill(pid);
    }

    /// `stop`: there while a motion is under way nobody may.
    fn stop_guest(&mut self, pid: Pid) {
        let Some(machine) = self.free_machine(pid) else { return };
        if machine.is_running() && machine.pause().is_ok() {
            self.meddle();
        }
    }

    /// `cont`: where the permit is, and nowhere else.
    fn cont_guest(&mut self, pid: Pid) {
        let Some(machine) = self.free_machine(pid) else { return };
        if !machine.is_running() && !self.story.guest_gone {
            let permit = machine.surrender().expect("a free machine has its permit");
            // Where it fails it has said so.
            let _ = machine.run(permit);
            self.meddle();
        }
    }

    fn meddle(&mut self) {
        if let Some(motion) = &mut self.story.motion {
            motion.meddled = true;
        }
    }

    /// The machine of a source, unless its motion is in the way. Then it has no permit either, once
    /// the guest has stopped for the handover.
    fn free_machine(&mut self, pid: Pid) -> Option<Arc<SimMachine>> {
        let process = self.processes.get(&pid)?;
        let (side, machine) = (process.source()?, process.machine()?);
        if side.source.has_ended() && machine.has_permit() {
            return Some(machine);
        }
        self.tally.count("refused: stop or cont");
        None
    }

    pub fn command(&mut self, source: Pid, command: Command) -> Option<Result<(), MotionError>> {
        let process = self.processes.get_mut(&source)?;
        process.wait_until_free(self.env.now);
        let result = process.source_mut()?.command(&mut self.env, command);
        process.settle(self.env.now);
        Some(result)
    }

    pub fn command_destination(
        &mut self,
        destination: Pid,
        command: ToDestination,
    ) -> Option<Result<(), MotionError>> {
        let process = self.processes.get_mut(&destination)?;
        process.wait_until_free(self.env.now);
        let result = process.destination.as_mut()?.command(&mut self.env, command);
        process.settle(self.env.now);
        Some(result)
    }

    fn cancel(&mut self, source: Pid) {
        let Some(phase) = self.story.motion.as_ref().map(|motion| motion.at_source) else { return };
        let Some(result) = self.command(source, Command::Cancel) else { return };
        let given_away = matches!(phase, AtSource::AwaitingRunning | AtSource::Undecided);
        if given_away {
            let code = result.as_ref().err().map(|error| error.code);
            let refused = code == Some(Code::TooLate);
            self.env.book.check(refused, || format!("cancel after COMMIT: {result:?}"));
        }
    }

    /// The guest shuts down, if it runs.
    fn guest_goes(&mut self, source: Pid) {
        let machine = self.processes.get(&source).and_then(|process| process.machine());
        if let Some(machine) = machine.filter(|machine| machine.is_running()) {
            machine.shut_down();
            self.story.guest_gone = true;
            let _ = self.command(source, Command::GuestGone);
        }
    }

    /// `kill -9`.
    fn kill(&mut self, pid: Pid) {
        if let Some(process) = self.processes.get(&pid) {
            process.life.kill();
            self.bury(pid);
        }
    }

    /// `kill -STOP`, and `-CONT` later.
    fn freeze(&mut self, of_source: bool, time: u64) {
        let Some(motion) = &mut self.story.motion else { return };
        let pid = if of_source { motion.source } else { motion.destination };
        if of_source {
            motion.frozen += time;
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            process.busy_until = process.busy_until.max(self.env.now + time);
            process.frozen_until = process.busy_until;
        }
    }

    /// Everything on the host of this process is gone.
    fn kill_host(&mut self, pid: Pid) {
        let Some(host) = self.processes.get(&pid).map(|process| process.life.host) else { return };
        let on_it = |(pid, process): (&Pid, &Process)| (process.life.host == host).then_some(*pid);
        let pids: Vec<Pid> = self.processes.iter().filter_map(on_it).collect();
        pids.into_iter().for_each(|pid| self.kill(pid));
        self.env.disks[host].lose();
    }

    fn dies_after(&mut self, pid: Pid, things: u64) {
        if let Some(process) = self.processes.get(&pid) {
            process.life.dies_after(things);
        }
    }

    /// Before it is buried: who has what it takes to go on, and who comes after it.
    pub fn dies(&mut self, pid: Pid) {
        self.story.undisturbed = false;
        self.story.killed.insert(pid);
        let held = crate::guest::lock(&self.env.guest).holder == pid;
        let plan = self.story.plan().restarts_after;
        let process = &self.processes[&pid];
        let host = process.life.host;
        let port = process.destination.as_ref().map(|side| side.port);
        let was_source = !process.sources.is_empty();
        if held {
            let surrendered = process.machine().is_some_and(|machine| machine.is_surrendered());
            // It had stopped the guest and not run it again: what the destination holds is the guest.
            let kept = self.outcome() == Some(Outcome::Kept);
            self.story.heir =
                self.holder_of_motion().filter(|heir| surrendered && !kept && *heir != pid);
            self.story.forgone = false;
            let heir = self.story.heir;
            self.env.book.note(|| format!("with it dies the guest; heir {heir:?}"));
        } else if self.story.heir == Some(pid) {
            self.story.heir = None;
        }
        if let Some(port) = port {
            self.plan(plan, Plan::Restart(port));
        }
        if was_source {
            self.plan(plan, Plan::SpeakUp(host));
        }
    }

    /// Long after all is calm: what is not decided by itself is decided by a person.
    pub fn look_after(&mut self, begun: u64) {
        let motion = self.story.motion.as_ref().filter(|motion| motion.begun == begun);
        let Some(motion) = motion else { return };
        let undecided = self.is_undecided();
        if !undecided && self.holder().is_none() {
            return;
        }
        let both =
            [motion.source, motion.destination].iter().all(|p| !self.story.killed.contains(p));
        if both || motion.overdue {
            let who = if undecided { "the source is undecided" } else { "the destination holds" };
            let since = if both { "nobody was killed" } else { "an operator has decided" };
            self.env.book.wrong(format!("{who}, and {since}"));
            return;
        }
        self.unspoken();
        self.tally.count("operator called");
        self.operate();
        if let Some(motion) = &mut self.story.motion {
            motion.overdue = true;
        }
        self.plan(MINUTE, Plan::Operate(begun));
    }

    /// Nobody is asked for what is on record, where that can be read.
    fn unspoken(&self) {
        let Some(motion) = &self.story.motion else { return };
        if self.story.overlooked {
            return;
        }
        let (there, token) = (self.story.hosts[&motion.port], motion.token);
        let theirs = self.env.disks[there].decision(token, Role::Destination);
        let decided = theirs.is_some_and(|decision| decision != Decision::Open);
        self.env.book.check(!(self.is_undecided() && decided), || {
            format!("the source is undecided, and its destination left {theirs:?} on record")
        });
        let ours = self.env.disks[1 - there].decision(token, Role::Source);
        self.env.book.check(self.holder().is_none() || ours.is_none(), || {
            format!("the destination holds, and its source left {ours:?} on record")
        });
    }

    pub fn is_undecided(&self) -> bool {
        let source = self.story.motion.as_ref().and_then(|m| self.processes.get(&m.source));
        source.and_then(|p| p.source()).is_some_and(|side| side.is_undecided())
    }

    /// Decides where somebody waits, and makes sure that what is said is true: the side that is not
    /// to own the guest cannot run it.
    fn operate(&mut self) {
        let Some(motion) = &self.story.motion else { return };
        let (source, destination) = (motion.source, motion.destination);
        // What an earlier motion left, an operator sees to be old.
        let holder = self.holder_of_motion();
        let guest_holder = crate::guest::lock(&self.env.guest).holder;
        if self.is_undecided() {
            let alive = self.processes.contains_key(&destination);
            if guest_holder != source {
                // It has run over there.
                self.resolve_source(source, Side::Peer);
            } else if !alive {
                self.resolve_source(source, Side::Here);
            } else if self.env.rng.chance(40) {
                self.resolve_source(source, Side::Peer);
            } else if let Some(holder) = holder.filter(|_| self.env.rng.chance(50)) {
                self.kill(source);
                self.resolve_destination(holder, Side::Here);
            } else {
                self.kill(destination);
                self.resolve_source(source, Side::Here);
            }
        } else if let Some(holder) = holder {
            let heir = self.story.heir == Some(holder);
            if self.processes.contains_key(&source) && guest_holder == source {
                // The source is sound, and will say so.
                return;
            }
            self.resolve_destination(holder, if heir { Side::Here } else { Side::Peer });
        } else {
            self.meddle_with_handover(source, destination);
        }
    }

    /// An operator decides where nobody waits, perhaps before there is a handover: it is refused, and
    /// changes nothing.
    fn meddle_with_handover(&mut self, source: Pid, destination: Pid) {
        let Some(token) = self.story.motion.as_ref().map(|motion| motion.token) else { return };
        for owner in [Side::Here, Side::Peer] {
            if let Some(result) = self.command(source, Command::Resolve { owner, fenced: false }) {
                self.tally.count("refused: resolve in source");
                self.check_unfenced(Some(result));
            }
            let command = ToDestination::Resolve { token, owner, fenced: false };
            if let Some(result) = self.command_destination(destination, command) {
                self.tally.count("refused: resolve in destination");
                self.check_unfenced(Some(result));
            }
        }
    }

    fn resolve_source(&mut self, pid: Pid, owner: Side) {
        self.env.book.note(|| format!("p{pid} source is resolved: {owner:?}"));
        self.tally.count(format!("resolved: {owner} in source"));
        self.story.forgone |= owner == Side::Peer;
        let unfenced = self.command(pid, Command::Resolve { owner, fenced: false });
        self.check_unfenced(unfenced);
        // A disk that fails is tried again.
        let _ = self.command(pid, Command::Resolve { owner, fenced: true });
    }

    fn resolve_destination(&mut self, pid: Pid, owner: Side) {
        self.env.book.note(|| format!("p{pid} destination is resolved: {owner:?}"));
        self.tally.count(format!("resolved: {owner} in destination"));
        let Some(token) = self.story.motion.as_ref().map(|motion| motion.token) else { return };
        self.story.forgone |= owner == Side::Peer;
        for fenced in [false, true] {
            let command = ToDestination::Resolve { token, owner, fenced };
            let result = self.command_destination(pid, command);
            if !fenced {
                self.check_unfenced(result);
            }
        }
    }

    fn check_unfenced(&self, result: Option<Result<(), MotionError>>) {
        let code = result.and_then(Result::err).map(|error| error.code);
        let refused =
            matches!(code, Some(Code::NotFenced | Code::InvalidState | Code::NoSuchToken));
        self.env.book.check(refused, || format!("an operator who fenced nobody: {code:?}"));
    }
}
