//! Watching the clock for gaps

use crate::cpu::{self, Cpu};
use crate::shared::histogram::Histogram;
use crate::shared::report::{Clock, STALL};
use crate::time::Time;

/// One processor's view of the clock since its last report
pub struct Watch {
    time: Time,
    cpu: Cpu,
    last: u64,
    countable: u64,
    stall: u64,
    worst: u64,
    worst_end: u64,
    /// The pause that has ended since somebody asked, in nanoseconds
    woken: Option<u64>,
    /// The longest gap since [`Self::begin_spell`], in nanoseconds
    spell: u64,
    report: Clock,
}

impl Watch {
    /// Starts to watch
    pub fn new(time: Time, cpu: Cpu) -> Self {
        Self {
            time,
            cpu,
            last: cpu::tsc(),
            countable: time.ticks(1000),
            stall: time.ticks(STALL),
            worst: 0,
            worst_end: 0,
            woken: None,
            spell: 0,
            report: blank(cpu),
        }
    }

    /// Reads the clock; returns the reading
    #[inline(always)]
    pub fn tick(&mut self) -> u64 {
        let now = cpu::tsc();
        let gap = now.wrapping_sub(self.last);
        if gap > self.worst || gap >= self.countable {
            self.note(gap, now);
        }
        self.last = now;
        self.report.reads += 1;
        now
    }

    /// Reads the clock after the guest's own input or output, which is not a
    /// gap in itself: what took less than a stall does not count
    pub fn tick_after_io(&mut self) {
        let now = cpu::tsc();
        let gap = now.wrapping_sub(self.last);
        if gap >= self.stall {
            self.note(gap, now);
        }
        self.last = now;
    }

    /// Takes over what another loop saw: the longest gap and the reading at its
    /// end, the number of readings, and the last of them
    pub fn absorb(&mut self, gap: u64, end: u64, reads: u64, last: u64) {
        if gap > self.worst || gap >= self.countable {
            self.note(gap, end);
        }
        self.last = last;
        self.report.reads += reads;
    }

    /// The last reading
    pub fn last(&self) -> u64 {
        self.last
    }

    #[cold]
    fn note(&mut self, gap: u64, now: u64) {
        if gap > i64::MAX as u64 {
            let back = self.time.nanoseconds(gap.wrapping_neg());
            self.report.back = self.report.back.max(back);
            return;
        }
        if gap > self.worst {
            (self.worst, self.worst_end) = (gap, now);
        }
        let gap = self.time.nanoseconds(gap);
        // KVM sets the flag before the first instruction after a pause, so the gap that ends here
        // is the pause; and the flag is cleared, so that the next one is not.
        if self.time.take_pause(self.cpu) {
            self.woken = Some(gap);
            self.report.paused = 1;
            self.report.away = self.report.away.max(gap);
        } else {
            self.report.other = self.report.other.max(gap);
            self.spell = self.spell.max(gap);
        }
        self.report.hist.add(gap);
        if gap >= STALL {
            self.report.stalls += 1;
            self.report.stalled += gap;
        }
    }

    /// How long the pause was that has ended since the last call, in nanoseconds, if one has
    #[inline(always)]
    pub fn take_woken(&mut self) -> Option<u64> {
        self.woken.take()
    }

    /// From here on the longest gap is to be told
    pub fn begin_spell(&mut self) {
        self.spell = 0;
    }

    /// The longest gap since then that was no pause, in nanoseconds; 0 if all were below 1 µs
    pub fn spell(&self) -> u64 {
        self.spell
    }

    /// The longest gap since the last report, in ticks of the TSC
    pub fn worst(&self) -> u64 {
        self.worst
    }

    /// The report, and the next one begins
    pub fn take(&mut self) -> Clock {
        let (now, kvm) = self.time.kvm(self.cpu);
        let unseen = self.time.take_pause(self.cpu);
        if unseen {
            // Too short for a gap of its own
            self.woken.get_or_insert(0);
        }
        let paused = self.report.paused | u64::from(unseen);
        let report = Clock {
            t: self.time.at(now),
            kvm,
            paused,
            gap: self.time.nanoseconds(self.worst),
            at: if self.worst == 0 { 0 } else { self.time.at(self.worst_end) },
            ..self.report
        };
        self.report = blank(self.cpu);
        (self.worst, self.worst_end) = (0, 0);
        report
    }
}

fn blank(cpu: Cpu) -> Clock {
    Clock {
        cpu: cpu.id as u64,
        t: 0,
        kvm: 0,
        reads: 0,
        gap: 0,
        at: 0,
        back: 0,
        stalls: 0,
        stalled: 0,
        paused: 0,
        away: 0,
        other: 0,
        hist: Histogram::new(),
    }
}
