//! What each processor does beside its work: watch the clock, report, obey

use crate::console::{self, Console};
use crate::cpu::Cpu;
use crate::machine::Machine;
use crate::shared::report::End;
use crate::watch::Watch;
use core::cell::RefCell;
use core::fmt::Display;
use core::sync::atomic::{AtomicU64, Ordering};

/// Reports asked for over the console since the start
static REPORTS: AtomicU64 = AtomicU64::new(0);
/// Samples asked for over the console since the start
static SAMPLES: AtomicU64 = AtomicU64::new(0);
/// Checks asked for over the console since the start
static CHECKS: AtomicU64 = AtomicU64::new(0);

/// Reports that a gap causes come at most so often, nanoseconds
const URGENT_INTERVAL: u64 = 100_000_000;

/// A processor's duties
pub struct Station {
    /// The machine
    pub machine: &'static Machine,
    /// The processor
    pub cpu: Cpu,
    /// Its view of the clock
    pub watch: Watch,
    reports_seen: u64,
    /// Readings of the TSC at which the next one is due
    report_due: u64,
    urgent_after: u64,
    poll_due: u64,
    poweroff_due: u64,
    reset_due: u64,
    next: u64,
    /// Periods in ticks of the TSC
    report: u64,
    poll: u64,
    urgent_gap: u64,
    urgent_interval: u64,
}

impl Station {
    /// Begins; the first processor is the one that minds the console
    pub fn new(machine: &'static Machine, cpu: Cpu) -> Self {
        let (time, params) = (machine.time, machine.params);
        let watch = Watch::new(time, cpu);
        let first = cpu.rank == 0;
        let due = |after: Option<u64>| match after {
            Some(after) if first => time.tsc_at(after),
            _ => u64::MAX,
        };
        let now = crate::cpu::tsc();
        let report = time.ticks(params.report);
        Self {
            machine,
            cpu,
            watch,
            reports_seen: 0,
            report_due: now + report,
            urgent_after: now,
            poll_due: if first { now } else { u64::MAX },
            poweroff_due: due(params.poweroff),
            reset_due: due(params.reset),
            next: 0,
            report,
            poll: time.ticks(params.poll),
            urgent_gap: time.ticks(params.gap),
            urgent_interval: time.ticks(URGENT_INTERVAL),
        }
    }

    /// Reads the clock and does what is due; true if a report was made
    #[inline(always)]
    pub fn turn(&mut self) -> bool {
        let now = self.watch.tick();
        self.attend(now)
    }

    /// Does what is due at this reading of the TSC; true if a report was made
    #[inline(always)]
    pub fn attend(&mut self, now: u64) -> bool {
        let urgent = self.watch.worst() >= self.urgent_gap && now >= self.urgent_after;
        let asked = REPORTS.load(Ordering::Relaxed) != self.reports_seen;
        if now >= self.next || urgent || asked { self.due(now, urgent || asked) } else { false }
    }

    #[cold]
    fn due(&mut self, now: u64, report: bool) -> bool {
        if now >= self.poweroff_due {
            self.poweroff_due = u64::MAX;
            self.machine.end(End::PowerOff);
        }
        if now >= self.reset_due {
            self.reset_due = u64::MAX;
            self.machine.end(End::Reset);
        }
        if now >= self.poll_due {
            self.poll_due = now + self.poll;
            self.obey();
        }
        // Without the console the report waits, the work does not
        let reported = (report || now >= self.report_due) && self.try_report();
        if reported {
            self.reports_seen = REPORTS.load(Ordering::Relaxed);
            self.report_due = now + self.report;
            self.urgent_after = now + self.urgent_interval;
        }
        self.next = self.report_due.min(self.poll_due).min(self.poweroff_due).min(self.reset_due);
        reported
    }

    fn try_report(&mut self) -> bool {
        let watch = RefCell::new(&mut self.watch);
        let console = Console::try_lock(|_| watch.borrow_mut().tick_after_io());
        let Some(mut console) = console else { return false };
        let report = watch.borrow_mut().take();
        console.print(report);
        true
    }

    /// Carries out what came over the console
    fn obey(&mut self) {
        while let Some(command) = console::read() {
            match command {
                b's' => {
                    REPORTS.fetch_add(1, Ordering::Relaxed);
                }
                b'c' => {
                    CHECKS.fetch_add(1, Ordering::Relaxed);
                }
                b'k' => {
                    SAMPLES.fetch_add(1, Ordering::Relaxed);
                }
                b'p' => self.machine.end(End::PowerOff),
                b'r' => self.machine.end(End::Reset),
                b't' => self.machine.end(End::TripleFault),
                _ => {}
            }
        }
        self.watch.tick_after_io();
    }

    /// Prints a line, made when the console is free, and watches the clock meanwhile
    pub fn print<L: Display>(&mut self, line: impl FnOnce(&mut Watch) -> L) {
        let watch = RefCell::new(&mut self.watch);
        watch.borrow_mut().tick_after_io();
        let mut console = Console::lock(|after_io| {
            if after_io {
                watch.borrow_mut().tick_after_io();
            } else {
                watch.borrow_mut().tick();
            }
        });
        let line = line(&mut watch.borrow_mut());
        console.print(line);
    }

    /// Number of samples asked for over the console since the start
    pub fn samples(&self) -> u64 {
        SAMPLES.load(Ordering::Relaxed)
    }

    /// Number of checks asked for over the console since the start
    pub fn checks(&self) -> u64 {
        CHECKS.load(Ordering::Relaxed)
    }
}
