//! A guest whose RAM comes out of its file while it runs, and what comes between.

use super::checks;
use super::crew::{Crew, STALL};
use super::disk::Ailment;
use super::restore::RestoreSide;
use super::world::Keep;
use crate::env::{MICROSECOND, MILLISECOND, SECOND};
use crate::life::Pid;
use crate::machine::SimMachine;
use motion::Machine as _;
use motion::fill::FillDesk;
use motion::restore::Phase;
use snapshot::watched_by;
use std::rc::Rc;
use std::sync::Arc;

/// More steps than it takes, and those after which nothing goes wrong any more.
const MOST_STEPS: u32 = 20_000;
const CALM: u32 = 400;

/// What goes wrong, or what somebody does.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Dies(u64),
    PowerFails(u64),
    DiskFails(Ailment),
    /// A byte of a page is another one, until somebody mends it.
    Rots,
    /// The file is shorter, until it is put back.
    IsCut,
    /// What is asked next takes this long, in nanoseconds.
    Hangs(u64),
    /// Whoever was given up cannot be replaced, so many times.
    NobodyLeft(u32),
    Mends,
    Retry,
    Quit,
}

impl Trouble {
    fn name(self) -> &'static str {
        match self {
            Self::Dies(_) => "kill",
            Self::PowerFails(_) => "power cut",
            Self::DiskFails(_) => "disk fails",
            Self::Rots => "page rots",
            Self::IsCut => "file is cut",
            Self::Hangs(_) => "disk hangs",
            Self::NobodyLeft(_) => "nobody left",
            Self::Mends => "mend",
            Self::Retry => "retry",
            Self::Quit => "quit",
        }
    }
}

/// What is needed of a guest whose RAM comes.
struct Coming {
    crew: Arc<Crew>,
    desk: Arc<FillDesk>,
    machine: Arc<SimMachine>,
    /// Something was done that may keep pages from coming.
    is_to_blame: bool,
    /// The operator asks again then.
    retries_at: Option<u64>,
    powerless: bool,
}

impl Keep {
    /// All of its RAM comes, unless its process dies.
    pub fn come(&mut self, pid: Pid, side: &Rc<RestoreSide>, file: usize, blamed: bool) {
        let Some(crew) = side.crew.clone() else { return };
        let (Some(desk), Some(machine)) = (crew.desk(), side.machine()) else { return };
        if !self.processes.contains_key(&pid) {
            return;
        }
        let is_to_blame = blamed;
        let mut coming =
            Coming { crew, desk, machine, is_to_blame, retries_at: None, powerless: false };
        self.tally.count("begun in filling");
        let mut troubles = self.troubles();
        for step in 0.. {
            if coming.desk.is_done() {
                break;
            }
            if step == CALM {
                self.disk.heal();
                self.disk.mend();
                coming.crew.disk_is_back();
            }
            let due = troubles.iter().position(|(after, _)| *after <= step && step < CALM);
            if let Some(due) = due {
                let (_, trouble) = troubles.swap_remove(due);
                self.tally.count(format!("{} in filling", trouble.name()));
                self.book.note(|| format!("{trouble:?}"));
                if self.strike_coming(pid, side, file, trouble, &mut coming) {
                    return;
                }
            }
            self.step_coming(side, &mut coming);
            let ahead = self.processes[&pid].life.caught_up();
            self.passes(ahead);
            if self.processes[&pid].life.is_dead() {
                self.bury(pid, coming.powerless);
                return;
            }
            checks::after_each_step(self);
            self.check_coming(&coming);
            self.book.check(step < MOST_STEPS, || "a guest's RAM never comes".into());
            if self.book.is_wrong() {
                return;
            }
        }
        self.tally.count("all is in in filling");
        self.all_is_in(side, &coming);
    }

    fn step_coming(&mut self, side: &Rc<RestoreSide>, coming: &mut Coming) {
        let Coming { crew, desk, machine, is_to_blame, retries_at, .. } = coming;
        if desk.is_filling() {
            crew.hears(machine);
        }
        let at = crew.deadline().min(retries_at.unwrap_or(u64::MAX));
        self.passes(at.saturating_sub(self.now));
        let now = self.now;
        if retries_at.is_some_and(|at| at <= now) {
            *retries_at = None;
            self.tally.count("retried in filling");
            let result = side.retry();
            self.book.note(|| format!("asked again: {:?}", result.map_err(|e| e.code)));
            if desk.outage().is_none() && machine.go_on_after_io_error() {
                self.book.note(|| "the guest goes on".into());
            }
        } else {
            watched_by(side.hands.clone(), || crew.work(now, machine));
        }
        // Whoever has the machine is told, and stops it.
        if let Some(outage) = desk.outage() {
            if machine.is_running() {
                machine.stop_on_io_error();
            }
            if retries_at.is_none() {
                self.tally.count("outage in filling");
                let is_to_blame = *is_to_blame || side.hands.life.is_dead();
                self.book.check(is_to_blame, || {
                    format!("nothing is in its way, and pages cannot be had: {}", outage.why)
                });
                *retries_at = Some(now + self.rng.magnitude(MICROSECOND, 20 * SECOND));
            }
        }
        machine.interlude();
        if self.rng.chance(30) {
            let page = self.rng.below(machine.ram().pages());
            machine.look(page);
        }
        if self.rng.chance(10) {
            let from = self.rng.below(machine.ram().pages());
            let page = crate::guest::lock(&self.guest).page_in_use(from);
            page.into_iter().for_each(|page| machine.discard(page));
        }
    }

    /// Says whether there is nothing left to do.
    fn strike_coming(
        &mut self,
        pid: Pid,
        side: &Rc<RestoreSide>,
        file: usize,
        trouble: Trouble,
        coming: &mut Coming,
    ) -> bool {
        let process = &self.processes[&pid];
        let path = self.files[file].path.clone();
        coming.is_to_blame |= !matches!(trouble, Trouble::Mends | Trouble::Retry);
        match trouble {
            Trouble::Dies(after) => process.life.dies_after(after),
            Trouble::PowerFails(after) => {
                process.life.dies_after(after);
                coming.powerless = true;
            }
            Trouble::DiskFails(ailment) => self.disk.fail(process.life.host, ailment),
            Trouble::Rots => {
                let from = self.rng.next();
                let page = crate::guest::lock(&self.guest).page_in_use(from);
                let place = page.zip(checks::place(&path));
                if let Some((page, pages_at)) = place {
                    let within = self.rng.below(memory::PAGE_SIZE);
                    self.disk.rot(&path, pages_at + page * memory::PAGE_SIZE + within);
                }
            }
            Trouble::IsCut => self.disk.cut(&path, self.rng.next()),
            Trouble::Hangs(time) => coming.crew.hangs(time),
            Trouble::NobodyLeft(times) => coming.crew.refuses(times),
            Trouble::Mends => {
                self.disk.heal();
                self.disk.mend();
            }
            Trouble::Retry => coming.retries_at = Some(self.now),
            Trouble::Quit => {
                if side.phase() != Some(Phase::Owner) {
                    return false;
                }
                // The guest runs no more, and nobody is held up by what it waited for.
                coming.machine.shut_down();
                coming.machine.ram().let_go();
                let waits = coming.machine.gate.waits_since().is_some();
                self.book
                    .check(!waits, || "the machine ends, and somebody waits for a page".into());
                let now = self.now;
                for _ in 0..8 {
                    watched_by(side.hands.clone(), || {
                        coming.crew.work(now + SECOND, &coming.machine);
                    });
                }
                let trouble = coming.machine.ram().filling().and_then(|f| f.trouble());
                self.book.check(trouble.is_some(), || {
                    "RAM that never came is taken for what it is".into()
                });
                self.processes[&pid].life.kill();
                self.bury(pid, false);
                return true;
            }
        }
        false
    }

    fn check_coming(&self, coming: &Coming) {
        let Coming { crew, desk, machine, .. } = coming;
        let outage = desk.outage();
        self.book.check(outage.is_none() || !machine.is_running(), || {
            "pages cannot be had, and the guest runs".into()
        });
        let hangs = crew.hangs_since().is_some_and(|since| self.now > since + STALL + SECOND);
        self.book.check(!hangs || outage.is_some(), || {
            "a page does not come, and nobody says so".into()
        });
    }

    /// Nothing is yet to come: the file is needed no longer.
    fn all_is_in(&self, side: &Rc<RestoreSide>, coming: &Coming) {
        let Coming { desk, machine, .. } = coming;
        let book = &self.book;
        book.check(!machine.ram().may_wait() && machine.gate.missing().is_none(), || {
            "all has come, and somebody may still wait for a page".into()
        });
        if machine.go_on_after_io_error() {
            self.book.note(|| "the guest goes on".into());
        }
        // Another one may have taken the guest from under one that is held.
        if (machine.has_permit() || self.rivals == 0)
            && let Some(difference) = crate::guest::lock(&self.guest).differs(machine.ram())
        {
            book.wrong(format!("RAM has come, and is not the guest's: {difference}"));
        }
        let report = desk.report();
        book.check(report.fetched.sum() == report.pages, || {
            format!("{} pages were to come, and {} did", report.pages, report.fetched.sum())
        });
        let (outages, filled) = side.watcher.filling();
        book.check(filled == 1 && outages == report.outages, || {
            format!(
                "told of {outages} outages of {}, and {filled} times of the end",
                report.outages
            )
        });
        book.check(side.outage().is_none(), || "an outage of what is complete".into());
    }

    fn troubles(&mut self) -> Vec<(u32, Trouble)> {
        let rng = &mut self.rng;
        let count = rng.pick(&[0, 1, 2, 2, 3, 4]);
        let mut troubles = Vec::new();
        for _ in 0..count {
            let at = u32::try_from(rng.magnitude(1, 128)).expect("it is below 128") - 1;
            let after = rng.magnitude(1, 32) - 1;
            let ailment = Ailment {
                after: rng.below(4),
                times: rng.pick(&[1, 1, 2, 1000]),
                is_full: false,
                part: rng.chance(20).then(|| rng.pick(&[1, 512, 4096])),
            };
            let long = rng.magnitude(100 * MILLISECOND, 600 * SECOND);
            troubles.push((
                at,
                match rng.below(20) {
                    0 => Trouble::Dies(after),
                    1 => Trouble::PowerFails(after),
                    2..=5 => Trouble::DiskFails(ailment),
                    6..=8 => Trouble::Rots,
                    9 => Trouble::IsCut,
                    10..=14 => Trouble::Hangs(long),
                    15 => Trouble::NobodyLeft(rng.pick(&[1, 2])),
                    16 => Trouble::Retry,
                    17 => Trouble::Quit,
                    _ => Trouble::Mends,
                },
            ));
        }
        troubles
    }
}
