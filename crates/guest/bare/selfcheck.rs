//! The self-check guest: holds an invariant over its memory and its processors'
//! state, and reports each breach

#![no_std]
#![no_main]

#[path = "selfcheck/faults.rs"]
mod faults;
#[path = "selfcheck/image.rs"]
mod image;
#[path = "selfcheck/registers.rs"]
mod registers;
#[path = "selfcheck/share.rs"]
mod share;

use core::sync::atomic::{AtomicU64, Ordering};
use image::Image;
use registers::Registers;
use rt::cpu::{self, Cpu};
use rt::machine::Machine;
use rt::shared::builtin::Builtin;
use rt::shared::fpu::Vectors;
use rt::shared::invariant::{self, Breach};
use rt::shared::pattern::{self, Page};
use rt::shared::progress::{Disagreement, Progress, Wrong};
use rt::shared::report::{Check, Kind, Scope, Verdict};
use rt::shared::sweep::{Batch, VERIFY, VERIFY_ZERO, Visit, WRITE, WRITE_ZERO};
use rt::station::Station;
use share::{Layout, Share};

rt::guest!(Builtin::SelfCheck, main);

/// Most pages in a batch
const BATCH: usize = 32;
/// How long a batch waits at most for the time to write again, nanoseconds
const BATCH_TIME: u64 = 1_000_000;
/// How far a writer may lag behind its rate and still catch up, nanoseconds
const BACKLOG: u64 = 10_000_000;
/// Time between checks of the registers that are slow to reach, nanoseconds
const STATE_INTERVAL: u64 = 50_000_000;

/// Pages checked in passing, on all processors
static CHECKED: AtomicU64 = AtomicU64::new(0);
/// Rounds that each processor has completed
static ROUNDS: [AtomicU64; cpu::MAX] = [const { AtomicU64::new(u64::MAX) }; cpu::MAX];
/// Full checks begun; processors that are done with them, in all; pages checked in them
static FULL_BEGUN: AtomicU64 = AtomicU64::new(0);
static FULL_DONE: AtomicU64 = AtomicU64::new(0);
static FULL_PAGES: AtomicU64 = AtomicU64::new(0);
/// The latest reading of the TSC on any processor
static LATEST: AtomicU64 = AtomicU64::new(0);

fn main(machine: &'static Machine, cpu: Cpu) -> ! {
    let mut check = SelfCheck::new(machine, cpu);
    loop {
        check.turn();
    }
}

struct SelfCheck {
    station: Station,
    share: Share,
    untouched: Share,
    registers: Registers,
    image: Option<Image>,
    batch: Batch,
    pages_per_batch: u64,
    /// Ticks of the TSC for each page, and 0 if there is no limit
    interval: u64,
    write_due: u64,
    state_due: u64,
    kvm_clock: u64,
    full_done: u64,
    full_reported: u64,
    filled: bool,
}

impl SelfCheck {
    fn new(machine: &'static Machine, cpu: Cpu) -> Self {
        let layout = Layout::new(machine);
        let share = Share::new(layout.working_set, machine, cpu);
        let start = Progress::START;
        for copy in copies(cpu) {
            // SAFETY: pages of this processor's own, used for nothing else
            unsafe { copy.write_volatile(start) };
        }
        if share.pages != 0 {
            ROUNDS[cpu.id].store(0, Ordering::Relaxed);
        }
        let time = machine.time;
        let interval = match machine.params.rate {
            None => 0,
            Some(0) => u64::MAX,
            Some(rate) => time.ticks(1_000_000_000 * machine.cpus) / rate,
        };
        Self {
            share,
            untouched: Share::new(layout.untouched, machine, cpu),
            registers: Registers::new(cpu, start.state),
            image: (cpu.rank == 0).then(Image::new),
            batch: Batch::new(vectors()),
            pages_per_batch: time
                .ticks(BATCH_TIME)
                .checked_div(interval)
                .map_or(BATCH as u64, |pages| pages.clamp(1, BATCH as u64)),
            interval,
            write_due: if interval == u64::MAX { u64::MAX } else { 0 },
            state_due: 0,
            kvm_clock: 0,
            full_done: 0,
            full_reported: 0,
            filled: false,
            station: Station::new(machine, cpu),
        }
    }

    /// A batch of pages, and what else is due
    fn turn(&mut self) {
        let mut progress = self.recall();
        let filling = progress.round == 1;
        let now = cpu::tsc();
        let ready = (filling || now >= self.write_due) && self.share.pages != 0;
        let count = if ready {
            (self.share.pages - progress.position).min(self.pages_per_batch)
        } else {
            0
        };
        if !filling && ready {
            let backlog = self.station.machine.time.ticks(BACKLOG).max(self.interval);
            self.write_due = now
                .saturating_sub(backlog)
                .max(self.write_due)
                .saturating_add(count.saturating_mul(self.interval));
        }
        let mut visits = [NOTHING; BATCH];
        for (visit, position) in visits.iter_mut().zip(progress.position..).take(count as usize) {
            *visit = self.share.visit(position, progress.round);
        }
        self.batch.deadline = match (filling, self.interval) {
            (true, _) | (_, 0) => 0,
            _ => self.write_due.min(now + self.station.machine.time.ticks(BATCH_TIME)),
        };
        let (round, position) = (progress.round, progress.position);
        progress = self.visit(progress, &mut visits[..count as usize], |check, index, page| {
            check.share.content(position + index as u64, round - 1).examine(page)
        });
        if !filling {
            CHECKED.fetch_add(count, Ordering::Relaxed);
        }

        progress.position += count;
        if progress.position >= self.share.pages && self.share.pages != 0 {
            ROUNDS[self.station.cpu.id].store(progress.round, Ordering::Relaxed);
            progress.round += 1;
            progress.position = 0;
        }
        let now = self.batch.last;
        if now >= self.state_due {
            self.check_state(progress.state);
            progress.state += 1;
            self.state_due = now + self.station.machine.time.ticks(STATE_INTERVAL);
        }
        progress.batch += 1;
        self.remember(progress);
        self.attend(progress);
    }

    /// Visits pages with every register known; a page that fails is reported
    /// as what `examine` says, and put right
    fn visit(
        &mut self,
        mut progress: Progress,
        visits: &mut [Visit],
        examine: impl Fn(&Self, usize, &Page) -> Option<Breach>,
    ) -> Progress {
        let mut done = 0;
        loop {
            let seed = self.seed(progress);
            self.batch.progress = progress;
            self.batch.last = self.station.watch.last();
            // SAFETY: each page belongs to this processor's share alone
            let failed = unsafe { self.batch.run(&visits[done..], seed) };
            progress = self.check_registers();
            self.check_clock();
            let Some(index) = failed else { return progress };
            done += index;
            let visit = &mut visits[done];
            // SAFETY: as above; the page is only read
            let page = unsafe { &*(visit.page as *const Page) };
            if let Some(breach) = examine(self, done, page) {
                self.fault(breach.kind, breach.address, breach.expected, breach.found);
            }
            // Once reported, what was not to be written is put right
            if visit.action & (WRITE | WRITE_ZERO) == 0 {
                visit.action |= if visit.action & VERIFY_ZERO == 0 { WRITE } else { WRITE_ZERO };
            }
            visit.action &= !(VERIFY | VERIFY_ZERO);
        }
    }

    /// What the vector registers hold during a batch
    fn seed(&self, progress: Progress) -> u64 {
        pattern::word(self.station.cpu.id as u64, progress.batch as usize)
    }

    /// The registers after a batch against both copies of the progress
    fn check_registers(&mut self) -> Progress {
        let copies = copies(self.station.cpu);
        // SAFETY: pages of this processor's own
        let kept = copies.map(|copy| unsafe { copy.read_volatile() });
        let (progress, disagreement) = Progress::vote(kept, self.batch.progress);
        self.settle(progress, disagreement);
        if let Some((register, expected, found)) = self.batch.compare(self.seed(progress)) {
            self.fault(Kind::Fpu, register as u64, expected, found);
        }
        progress
    }

    /// The progress, from memory
    fn recall(&mut self) -> Progress {
        // SAFETY: pages of this processor's own
        let kept = copies(self.station.cpu).map(|copy| unsafe { copy.read_volatile() });
        let (progress, disagreement) = Progress::recall(kept);
        self.settle(progress, disagreement);
        progress
    }

    fn settle(&mut self, progress: Progress, disagreement: Option<Disagreement>) {
        if let Some(Disagreement { wrong, expected, found }) = disagreement {
            match wrong {
                Wrong::Register(number) => {
                    self.fault(Kind::Register, number as u64, expected, found);
                }
                Wrong::Copy(index) => {
                    let address = copies(self.station.cpu)[index] as u64;
                    self.fault(Kind::Record, address, expected, found);
                }
            }
            self.remember(progress);
        }
    }

    fn remember(&mut self, progress: Progress) {
        for copy in copies(self.station.cpu) {
            // SAFETY: pages of this processor's own
            unsafe { copy.write_volatile(progress) };
        }
    }

    /// The TSC during a batch and KVM's clock since the last: never backwards;
    /// and the TSC close to that of other processors
    fn check_clock(&mut self) {
        let batch = &self.batch;
        let (gap, end, reads, last) = (batch.gap, batch.gap_end, batch.reads, batch.last);
        self.batch.reads = 0;
        self.station.watch.absorb(gap, end, reads, last);
        if gap > i64::MAX as u64 {
            self.fault(Kind::Tsc, 0, end.wrapping_sub(gap), end);
        }
        let (_, clock) = self.station.machine.time.kvm(self.station.cpu);
        if clock < self.kvm_clock {
            self.fault(Kind::KvmClock, 0, self.kvm_clock, clock);
        }
        self.kvm_clock = clock;
        let skew = self.station.machine.time.ticks(self.station.machine.params.skew);
        let latest = LATEST.load(Ordering::Acquire);
        let now = cpu::tsc();
        if now.saturating_add(skew) < latest {
            self.fault(Kind::Skew, 0, latest, now);
            // What all of them read is put right, or each would report it for ever
            LATEST.store(now, Ordering::Release);
        } else {
            LATEST.fetch_max(now, Ordering::Release);
        }
    }

    /// The registers that are slow to reach
    fn check_state(&mut self, generation: u64) {
        for index in 0..registers::COUNT {
            if let Some(wrong) = self.registers.renew(index, generation) {
                self.fault(wrong.kind, wrong.number, wrong.expected, wrong.found);
            }
            self.station.watch.tick_after_io();
        }
    }

    fn check_image(&mut self) {
        let station = &mut self.station;
        if let Some(image) = &mut self.image {
            image.check(|address, expected, found| {
                faults::report(station, Kind::Image, address, expected, found);
            });
            station.watch.tick_after_io();
        }
    }

    /// Reports, and full checks
    fn attend(&mut self, progress: Progress) {
        let reported = self.station.attend(self.batch.last);
        let first = self.station.cpu.rank == 0;
        let filled = first && !self.filled && rounds() != 0;
        if first && (reported || filled) {
            self.filled |= filled;
            self.check_image();
            self.print_check(Scope::Passing, CHECKED.load(Ordering::Relaxed));
        }
        let begun = FULL_BEGUN.load(Ordering::Relaxed);
        if first && self.full_reported == begun && self.station.checks() > begun {
            FULL_PAGES.store(0, Ordering::Relaxed);
            FULL_BEGUN.fetch_add(1, Ordering::Release);
        }
        if FULL_BEGUN.load(Ordering::Acquire) > self.full_done {
            self.full_done += 1;
            self.full_check(progress);
            FULL_DONE.fetch_add(1, Ordering::Release);
        }
        let complete = FULL_BEGUN.load(Ordering::Relaxed) * self.station.machine.cpus;
        if first
            && self.full_reported < self.full_done
            && FULL_DONE.load(Ordering::Acquire) == complete
        {
            self.full_reported = self.full_done;
            self.check_image();
            self.print_check(Scope::Full, FULL_PAGES.load(Ordering::Relaxed));
        }
    }

    /// Looks at every page of this processor's share
    fn full_check(&mut self, progress: Progress) {
        // In the first round, only what is written already
        let known = if progress.round == 1 { progress.position } else { self.share.pages };
        let step = BATCH as u64;
        self.batch.deadline = 0;
        for start in (0..known).step_by(BATCH) {
            let count = (known - start).min(step) as usize;
            let mut visits = [NOTHING; BATCH];
            for (visit, position) in visits.iter_mut().zip(start..).take(count) {
                *visit = self.share.look(position, progress.round, progress.position).0;
            }
            self.visit(progress, &mut visits[..count], |check, index, page| {
                let position = start + index as u64;
                check.share.look(position, progress.round, progress.position).1.examine(page)
            });
            self.station.attend(self.batch.last);
        }
        for start in (0..self.untouched.pages).step_by(BATCH) {
            let count = (self.untouched.pages - start).min(step) as usize;
            let mut visits = [NOTHING; BATCH];
            for (visit, position) in visits.iter_mut().zip(start..).take(count) {
                *visit = self.untouched.look_zero(position);
            }
            let addresses = visits.map(|visit| visit.page);
            self.visit(progress, &mut visits[..count], |_, index, page| {
                invariant::examine_untouched(addresses[index], page)
            });
            self.station.attend(self.batch.last);
        }
        FULL_PAGES.fetch_add(known + self.untouched.pages, Ordering::Relaxed);
    }

    fn print_check(&mut self, scope: Scope, pages: u64) {
        let time = self.station.machine.time;
        self.station.print(|_| {
            let faults = faults::count();
            Check {
                verdict: if faults == 0 { Verdict::Ok } else { Verdict::Bad },
                pages,
                rounds: rounds(),
                faults,
                scope,
                t: time.now(),
            }
        });
    }

    fn fault(&mut self, kind: Kind, address: u64, expected: u64, found: u64) {
        faults::report(&mut self.station, kind, address, expected, found);
    }
}

/// The vector registers that this processor has, enabled
fn vectors() -> Vectors {
    let vectors = Vectors::of_processor(cpu::cpuid);
    let usable = vectors.mask() == 0 || cpu::enable_vectors(vectors.mask()).is_ok();
    if usable { vectors } else { Vectors::LEGACY }
}

const NOTHING: Visit = Visit { page: 0, expected: 0, written: 0, action: 0 };

/// Where a processor's progress is kept: two pages
fn copies(cpu: Cpu) -> [*mut Progress; 2] {
    [1, 2].map(|index| cpu.page(index) as *mut Progress)
}

/// Rounds that all processors have completed
fn rounds() -> u64 {
    let least = ROUNDS.iter().map(|rounds| rounds.load(Ordering::Relaxed)).min();
    least.filter(|&rounds| rounds != u64::MAX).unwrap_or(0)
}
