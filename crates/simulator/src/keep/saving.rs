//! A guest that is written to a file, and what comes between.

use super::checks;
use super::disk::Ailment;
use super::save::SaveSide;
use super::world::{Keep, MACHINE, Note};
use crate::env::{MILLISECOND, SECOND};
use crate::life::Pid;
use crate::scenario::Ailment as JournalAilment;
use crate::watcher::Watcher;
use motion::handover::{Particulars, Side, Token};
use motion::source::{Command, FileDesk, FilePlace, Phase, Source};
use motion::{Blackout, Machine as _, Purpose, RamWay, SourceOptions, Status, TimeoutAction};
use snapshot::Target;
use std::sync::Arc;
use std::time::Duration;

/// More steps than a motion needs.
const MOST_STEPS: u32 = 5_000;
/// After this long the disk is well again, and whoever has to say something says it.
const CALM: u64 = 300 * SECOND;
/// After this long what is not over will never be.
const NEVER: u64 = 3_000 * SECOND;

/// What goes wrong, or what somebody does.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// The process dies after so many more things that it does.
    Dies(u64),
    /// Its host loses its power then.
    PowerFails(u64),
    DiskFails(Ailment),
    /// What is done next takes this long, in nanoseconds.
    Hangs(u64),
    Cancel,
    Proceed,
    GuestGone,
    Ask,
    /// Somebody says that the guest is here, or in the file, without having made sure.
    Resolve(Side),
    JournalFails,
    /// Write protection fails after so many parts of RAM.
    ProtectFails(u64),
}

impl Trouble {
    fn name(self) -> &'static str {
        match self {
            Self::Dies(_) => "kill",
            Self::PowerFails(_) => "power cut",
            Self::DiskFails(_) => "disk fails",
            Self::Hangs(_) => "disk hangs",
            Self::Cancel => "cancel",
            Self::Proceed => "proceed",
            Self::GuestGone => "guest gone",
            Self::Ask => "ask",
            Self::Resolve(_) => "resolve",
            Self::JournalFails => "journal fails",
            Self::ProtectFails(_) => "protecting fails",
        }
    }
}

/// Where it comes.
struct Fault {
    phase: Option<Phase>,
    skip: u64,
    trouble: Trouble,
}

/// The phases that a motion to a file has.
pub const PHASES: [Phase; 11] = [
    Phase::Connecting,
    Phase::Checking,
    Phase::Joining,
    Phase::Passing,
    Phase::PreSwitchover,
    Phase::LastPass,
    Phase::AwaitingReady,
    Phase::AwaitingRunning,
    Phase::Undecided,
    Phase::Finishing,
    Phase::Completing,
];

impl Keep {
    /// The process that has the guest writes it to a file.
    pub fn write(&mut self, pid: Pid) {
        let purposes = [
            Purpose::Move,
            Purpose::Move,
            Purpose::Move,
            Purpose::Copy,
            Purpose::CopyAtStart,
            Purpose::CopyAtStart,
            Purpose::CopyAndStop,
        ];
        let purpose = self.rng.pick(&purposes);
        let lasts = self.processes[&pid].machine.as_ref().is_some_and(|machine| machine.lasts());
        let (purpose, ram) = match (lasts, purpose) {
            (true, Purpose::Move) if self.rng.chance(80) => (purpose, RamWay::Shared),
            // What lies in a memory file is not write-protected.
            (true, Purpose::CopyAtStart) => (Purpose::Move, RamWay::Shared),
            (_, purpose) => (purpose, RamWay::Passes),
        };
        let faults = self.faults();
        self.is_untidy = false;
        let file = self.begin(pid, purpose, ram);
        let old = checks::earlier(self, file);
        let before = self.processes[&pid].machine.as_ref().is_some_and(|m| m.is_running());
        self.carry_on(pid, file, faults);
        self.book.note(|| format!("p{pid} is done writing file {file}"));
        checks::after_writing(self, pid, file, before);
        checks::old_or_new(self, file, old);
        self.disk.heal();
        self.journal_of(0).heal();
        self.journal_of(1).heal();
    }

    fn begin(&mut self, pid: Pid, purpose: Purpose, ram: RamWay) -> usize {
        // Now and then in place of an earlier file.
        let replaced = (!self.files.is_empty() && self.rng.chance(30))
            .then(|| self.rng.index(self.files.len()));
        let path = match replaced {
            Some(earlier) => self.files[earlier].path.clone(),
            None => self.disk.folder.join(format!("file-{}", self.files.len())),
        };
        let rng = &mut self.rng;
        let options = SourceOptions {
            purpose,
            ram,
            connections: rng.pick(&[1, 2, 3]),
            blackout: match rng.chance(40) {
                true => Blackout::Limit(Duration::from_nanos(rng.magnitude(MILLISECOND, SECOND))),
                false => Blackout::Unlimited,
            },
            timeout: (purpose != Purpose::Move || rng.chance(30)).then_some(Duration::from_secs(2)),
            timeout_action: rng.pick(&[TimeoutAction::Cancel, TimeoutAction::Switch]),
            frozen: purpose == Purpose::Move,
            pause_before_switchover: rng.chance(20),
            stall_limit: Duration::from_secs(1 << 32),
            ..SourceOptions::default()
        };
        let force = self.rng.chance(80);
        let mut token = [0; 16];
        token.chunks_mut(8).for_each(|part| part.copy_from_slice(&self.rng.next().to_le_bytes()));
        let machine_id = MACHINE;
        let particulars = Particulars::new(Token(token), machine_id, "guest", "file:it", 0)
            .expect("the names are short");
        let process = &self.processes[&pid];
        let machine = process.machine.clone().expect("it has the guest");
        let place = FilePlace {
            target: Target::Path { path: path.clone(), offset: 0, force },
            direct: false,
            builder: "simulator".into(),
        };
        let desk = FileDesk::new(&*machine, &particulars, &options, place);
        let snapshot = desk.snapshot();
        let watcher = Watcher::new(self.book.clone(), "save", machine.is_running());
        let watcher = Arc::new(watcher);
        let journal = Box::new(self.journal(&process.life));
        let shown = format!("{:?} ({ram:?}) to {:?}", options.purpose, path.file_name());
        let source =
            Source::new(machine.clone(), particulars, options, token, journal, watcher.clone());
        let hands = process.hands.clone();
        let rng = self.rng.fork();
        let keeps = purpose == Purpose::CopyAtStart;
        let mut side = SaveSide::new(source, machine, watcher, desk, hands, (rng, self.now), keeps);
        self.book.note(|| format!("p{pid} writes {shown}, in place of {replaced:?}"));
        side.begin();
        self.processes.get_mut(&pid).expect("it is alive").save = Some(side);
        let is_save = purpose == Purpose::Move;
        let is_apart = ram == RamWay::Shared;
        self.files.push(Note {
            path,
            snapshot,
            is_save,
            guest: None,
            is_complete: false,
            is_apart,
        });
        self.files.len() - 1
    }

    /// Step by step, until it is over or the process is.
    fn carry_on(&mut self, pid: Pid, file: usize, mut faults: Vec<Fault>) {
        let begun = self.now;
        let mut seen = None;
        let mut proceeds_at = None;
        let mut powerless = false;
        for step in 0.. {
            let Some(side) = self.processes.get_mut(&pid).and_then(|p| p.save.as_mut()) else {
                return;
            };
            let phase = side.source.phase();
            if seen.replace(phase) != Some(phase) {
                self.book.note(|| format!("p{pid} is {phase:?}"));
                self.tally.count(format!("reached in save {phase:?}"));
                proceeds_at = (phase == Phase::PreSwitchover)
                    .then(|| self.now + self.rng.magnitude(MILLISECOND, SECOND));
            }
            let is_idle = side.is_idle();
            let next = side.deadline();
            let due = faults.iter_mut().position(|fault| {
                let there = fault.phase.is_none_or(|wanted| wanted == phase);
                let now = there && fault.skip == 0;
                fault.skip -= u64::from(there && !now);
                now
            });
            if is_idle {
                return;
            }
            if let Some(due) = due {
                let Fault { trouble, .. } = faults.swap_remove(due);
                self.tally.count(format!("{} in save {phase:?}", trouble.name()));
                if self.processes[&pid].save.as_ref().is_some_and(|save| save.office.keeps()) {
                    self.tally.count(format!("{} in at start", trouble.name()));
                }
                self.book.note(|| format!("{trouble:?}"));
                powerless |= matches!(trouble, Trouble::PowerFails(_));
                self.strike(pid, trouble);
            } else {
                if let Some(at) = proceeds_at.filter(|at| next.is_none_or(|next| *at <= next)) {
                    self.passes(at.saturating_sub(self.now));
                    proceeds_at = None;
                    self.strike(pid, Trouble::Proceed);
                    continue;
                }
                let Some(at) = next else {
                    self.book.wrong("nothing is left to happen, and it is not over");
                    return;
                };
                checks::hangs_are_noticed(self, pid, at);
                checks::writers_go_on(self, pid, at);
                self.passes(at.saturating_sub(self.now));
                let now = self.now;
                let Some(side) = self.processes.get_mut(&pid).and_then(|p| p.save.as_mut()) else {
                    return;
                };
                side.wake(now);
            }
            self.note_state(pid, file);
            let ahead = self.processes[&pid].life.caught_up();
            self.passes(ahead);
            if self.processes[&pid].life.is_dead() {
                self.bury(pid, powerless);
                return;
            }
            checks::after_each_step(self);
            checks::completed(self, pid, file);
            if self.now > begun + CALM && self.now < begun + NEVER {
                self.disk.heal();
                let now = self.now;
                if let Some(side) = self.processes.get_mut(&pid).and_then(|p| p.save.as_mut()) {
                    side.disk_is_back(now);
                }
            }
            let endless = step > MOST_STEPS || self.now > begun + NEVER;
            self.book.check(!endless, || "a save never ends".into());
            if self.book.is_wrong() {
                return;
            }
        }
    }

    /// What the file holds if it is ever complete.
    fn note_state(&mut self, pid: Pid, file: usize) {
        let machine = self.processes[&pid].machine.as_ref();
        if let Some(saved) = machine.and_then(|machine| machine.take_saved()) {
            self.files[file].guest = Some(saved);
        }
    }

    fn strike(&mut self, pid: Pid, trouble: Trouble) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let Some(side) = &mut process.save else { return };
        side.office.now = self.now;
        self.is_untidy |= matches!(trouble, Trouble::DiskFails(_));
        match trouble {
            Trouble::Dies(after) | Trouble::PowerFails(after) => process.life.dies_after(after),
            Trouble::DiskFails(ailment) => self.disk.fail(process.life.host, ailment),
            Trouble::Hangs(time) => side.office.hangs = Some(time),
            Trouble::JournalFails => {
                let host = process.life.host;
                self.journal_of(host).fail(JournalAilment::Full, 1);
            }
            Trouble::ProtectFails(after) => side.machine.gate.protect_fails_after(after),
            Trouble::GuestGone => {
                let copied = matches!(side.source.phase(), Phase::Finishing | Phase::Completing);
                if side.machine.has_permit() && !copied && !side.source.is_over() {
                    side.machine.shut_down();
                    self.guest_gone = true;
                    let _ = side.command(Command::GuestGone);
                }
            }
            Trouble::Cancel => {
                let was = side.source.phase();
                let result = side.command(Command::Cancel);
                let too_late =
                    matches!(was, Phase::Completing | Phase::AwaitingRunning | Phase::Undecided);
                let (book, is_ok) = (&self.book, result.is_ok());
                book.check(!(too_late && is_ok), || format!("a cancel is obeyed in {was:?}"));
            }
            // It may not wait for it.
            Trouble::Proceed => drop(side.command(Command::Proceed)),
            Trouble::Ask => drop(side.command(Command::Ask)),
            Trouble::Resolve(owner) => {
                let was = side.source.phase();
                let result = side.command(Command::Resolve { owner, fenced: false });
                self.book.check(result.is_err(), || {
                    format!("an operator resolves in {was:?} without `fenced`")
                });
            }
        }
    }

    fn faults(&mut self) -> Vec<Fault> {
        let rng = &mut self.rng;
        let count = rng.pick(&[0, 1, 1, 1, 2, 3]);
        let mut faults = Vec::new();
        for _ in 0..count {
            let phase = (!rng.chance(20)).then(|| rng.pick(&PHASES));
            let skip = match phase {
                Some(_) => rng.pick(&[0, 0, 1, 2, 5]),
                None => rng.magnitude(1, 64),
            };
            let after = rng.magnitude(1, 32) - 1;
            let ailment = Ailment {
                after: rng.magnitude(1, 32) - 1,
                times: rng.pick(&[1, 1, 2, 3, 1000]),
                is_full: rng.chance(30),
                part: rng.chance(20).then(|| rng.pick(&[1, 4096, 12288])),
            };
            let trouble = match rng.below(21) {
                20 => Trouble::ProtectFails(rng.below(4)),
                0 | 1 => Trouble::Dies(after),
                2 | 3 => Trouble::PowerFails(after),
                4..=8 => Trouble::DiskFails(ailment),
                9..=11 => Trouble::Hangs(rng.magnitude(SECOND, 600 * SECOND)),
                12..=14 => Trouble::Cancel,
                15 => Trouble::GuestGone,
                16 => Trouble::Ask,
                17 => Trouble::Resolve(rng.pick(&[Side::Here, Side::Peer])),
                18 => Trouble::JournalFails,
                _ => Trouble::Proceed,
            };
            faults.push(Fault { phase, skip, trouble });
        }
        // What chance would seldom bring: a mark that cannot be written, nor taken back, and one that
        // takes so long that nobody waits for it.
        let completing = rng.pick(&[Phase::AwaitingRunning, Phase::Completing]);
        if rng.chance(20) {
            let (after, times) = (rng.below(7), rng.pick(&[1, 2, 3, 1000]));
            let trouble = Trouble::DiskFails(Ailment { after, times, is_full: false, part: None });
            faults.push(Fault { phase: Some(completing), skip: 0, trouble });
        } else if rng.chance(15) {
            let phase = rng.pick(&[Phase::AwaitingReady, Phase::Finishing]);
            let trouble = Trouble::Hangs(rng.magnitude(32 * SECOND, 600 * SECOND));
            faults.push(Fault { phase: Some(phase), skip: 0, trouble });
            let trouble = rng.pick(&[Trouble::Cancel, Trouble::Ask, Trouble::Dies(0)]);
            faults.push(Fault { phase: Some(Phase::Undecided), skip: rng.below(16), trouble });
        }
        faults
    }
}

/// Whether the motion says that it succeeded.
pub fn is_completed(side: &SaveSide) -> bool {
    side.source.has_ended() && side.source.report().status.0 == Status::Completed
}
