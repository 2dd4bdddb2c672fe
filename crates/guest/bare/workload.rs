//! The workload guest: writes memory at a chosen rate and counts what it got done

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};
use rt::console;
use rt::cpu::{self, Cpu};
use rt::machine::Machine;
use rt::ram::Regions;
use rt::shared::builtin::Builtin;
use rt::shared::params::{Fill, Params, Wake};
use rt::shared::pattern::{self, Key, Page};
use rt::shared::quantiles::Quantiles;
use rt::shared::report::{Awake, Pause, Sample, Verdict, Work};
use rt::shared::shuffle::Shuffle;
use rt::station::Station;

rt::guest!(Builtin::Workload, main);

/// A processor's count, in a cache line of its own
#[repr(align(64))]
struct Count(AtomicU64);

/// Pages of the working set that were written, by processor
static WRITTEN: [Count; cpu::MAX] = [const { Count(AtomicU64::new(0)) }; cpu::MAX];
/// Pages that were touched once, by processor
static TOUCHED: [Count; cpu::MAX] = [const { Count(AtomicU64::new(0)) }; cpu::MAX];

/// How far a writer may lag behind its rate and still catch up, nanoseconds:
/// what the guest did not get done while it was away is lost, not made up for
const BACKLOG: u64 = 10_000_000;

/// How long it is watched what comes after a pause, nanoseconds
const AFTERWARDS: u64 = 1_000_000_000;

fn main(machine: &'static Machine, cpu: Cpu) -> ! {
    let params = machine.params;
    let mut free = machine.ram.clone();
    let mut share = |size: u64| {
        let regions = free.take(size);
        let found = regions.size();
        if found < size && cpu.rank == 0 {
            console::print(format_args!("NOTE RAM is short: {found} bytes of {size}"));
        }
        Share::new(regions, machine, cpu)
    };
    let touched = share(params.touch);
    let working_set = share(if params.rate == Some(0) { 0 } else { params.ws.unwrap_or(0) });
    let mut station = Station::new(machine, cpu);

    for page in 0..touched.pages {
        touched.write(page, 1, params.touch_fill);
        count(&TOUCHED, cpu);
        turn(&mut station, &working_set.regions);
    }
    let mut sampler =
        Sampler { params, touched: &touched, asked: 0, checks: 0, spell: None, until: u64::MAX };
    if working_set.pages == 0 {
        // The first processor always watches: it minds the console
        if cpu.rank != 0 && cpu.rank as u64 >= params.watch {
            cpu::halt();
        }
        loop {
            turn(&mut station, &working_set.regions);
            sampler.attend(&mut station, &working_set.regions);
        }
    }

    let interval =
        params.rate.map_or(0, |rate| machine.time.ticks(1_000_000_000 * machine.cpus) / rate);
    let backlog = machine.time.ticks(BACKLOG).max(interval);
    let mut due = cpu::tsc();
    for generation in 1.. {
        for page in 0..working_set.pages {
            loop {
                let now = turn(&mut station, &working_set.regions);
                sampler.attend(&mut station, &working_set.regions);
                if now >= due {
                    due = (due + interval).max(now.saturating_sub(backlog));
                    break;
                }
                core::hint::spin_loop();
            }
            working_set.write(page, generation, params.fill);
            count(&WRITTEN, cpu);
        }
    }
    unreachable!()
}

/// Watches the clock and reports if that is due; returns the time
#[inline(always)]
fn turn(station: &mut Station, working_set: &Regions) -> u64 {
    let now = station.watch.tick();
    if station.attend(now) && station.cpu.rank == 0 {
        let time = station.machine.time;
        station.print(|_| Work {
            t: time.now(),
            pages: sum(&WRITTEN),
            touched: sum(&TOUCHED),
            ws: working_set.size(),
        });
    }
    now
}

/// What comes after a pause, so far
struct Spell {
    /// How long the pause was, nanoseconds
    away: u64,
    /// When it ended, by the TSC
    since: u64,
    /// Pages written before it
    pages: u64,
}

/// Checks memory that was touched once, and tells of pauses
struct Sampler<'a> {
    params: Params,
    touched: &'a Share,
    asked: u64,
    checks: u64,
    /// After the last pause, where that is to be told
    spell: Option<Spell>,
    /// The reading of the TSC at which it is told
    until: u64,
}

impl Sampler<'_> {
    /// Says that a pause is over and checks a sample, as far as that is wanted
    #[inline(always)]
    fn attend(&mut self, station: &mut Station, working_set: &Regions) {
        let woken = station.watch.take_woken();
        if station.cpu.rank != 0 {
            return;
        }
        if (woken.is_some() || station.watch.last() >= self.until)
            && self.params.wake == Wake::Tell
        {
            self.tell(station, woken);
        }
        if woken.is_some() || station.samples() != self.asked {
            self.sample(station, working_set, woken.is_some());
        }
    }

    /// Tells of the last pause, and begins to watch what comes after the one that has just ended
    #[cold]
    fn tell(&mut self, station: &mut Station, woken: Option<u64>) {
        let (now, pages) = (station.watch.last(), sum(&WRITTEN));
        let time = station.machine.time;
        let longest = station.watch.spell();
        let next = woken.map(|away| Spell { away, since: now, pages });
        self.until = if next.is_some() { now + time.ticks(AFTERWARDS) } else { u64::MAX };
        station.watch.begin_spell();
        let Some(spell) = core::mem::replace(&mut self.spell, next) else { return };
        // Where another pause ends it, that is no part of what came after this one
        let after = time.nanoseconds(now - spell.since).saturating_sub(woken.unwrap_or(0));
        station.print(|_| Pause {
            away: spell.away,
            after,
            pages: pages - spell.pages,
            longest,
            t: time.now(),
        });
    }

    #[cold]
    fn sample(&mut self, station: &mut Station, working_set: &Regions, woken: bool) {
        let time = station.machine.time;
        if woken && matches!(self.params.wake, Wake::Say | Wake::Check) {
            station.print(|_| Awake { t: time.now() });
        }
        let asked = station.samples() != self.asked;
        self.asked = station.samples();
        if !asked && !(woken && self.params.wake == Wake::Check) {
            return;
        }
        self.checks += 1;
        // A page at each multiple of the stride, as far as there are so many
        let page = cpu::PAGE as u64;
        let stride = self.params.stride.div_ceil(page);
        let places = Shuffle::new(self.touched.pages / stride, self.checks);
        let wanted = self.params.sample.div_ceil(page);
        let mut times = Quantiles::new();
        let (mut pages, mut faults) = (0, 0);
        let begun = cpu::tsc();
        for place in places.take(wanted as usize) {
            let before = turn(station, working_set);
            let first = self.touched.first_word(place * stride);
            times.add(time.nanoseconds(cpu::tsc() - before));
            let is_right = self.touched.is_right(place * stride, first, self.params.touch_fill);
            pages += 1;
            faults += u64::from(!is_right);
        }
        let took = time.nanoseconds(cpu::tsc() - begun);
        station.print(|_| Sample {
            verdict: if faults == 0 { Verdict::Ok } else { Verdict::Bad },
            pages,
            faults,
            took,
            median: times.of_thousand(500),
            p90: times.of_thousand(900),
            p99: times.of_thousand(990),
            max: times.max(),
            t: time.now(),
        });
    }
}

fn count(counts: &[Count; cpu::MAX], cpu: Cpu) {
    let count = &counts[cpu.id].0;
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

fn sum(counts: &[Count; cpu::MAX]) -> u64 {
    counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum()
}

/// One processor's part of some memory: one run of pages
struct Share {
    regions: Regions,
    first: u64,
    pages: u64,
    cpu: Cpu,
}

impl Share {
    fn new(regions: Regions, machine: &Machine, cpu: Cpu) -> Self {
        let pages = regions.size() / cpu::PAGE as u64;
        let bound = |rank: u64| pages * rank / machine.cpus;
        let first = bound(cpu.rank as u64);
        Self { regions, first, pages: bound(cpu.rank as u64 + 1) - first, cpu }
    }

    /// The first word of a page, read from memory now
    #[inline(always)]
    fn first_word(&self, page: u64) -> u64 {
        let address = self.regions.page(self.first + page) as *const u64;
        // SAFETY: the page is RAM that nothing but this processor's share uses
        unsafe { address.read_volatile() }
    }

    /// Whether a page that was written once, and whose first word reads so, is what was written
    fn is_right(&self, page: u64, first: u64, fill: Fill) -> bool {
        let address = self.regions.page(self.first + page);
        // SAFETY: the page is RAM that nothing but this processor's share uses
        let page = unsafe { &*(address as *const Page) };
        let seed = Key { address, generation: 1, cpu: self.cpu.id as u64 }.seed();
        match fill {
            Fill::Word => first == 1,
            Fill::Random => {
                let mut words = page.iter().enumerate();
                first == pattern::word(seed, 0)
                    && words.all(|(index, found)| *found == pattern::word(seed, index))
            }
        }
    }

    #[inline(always)]
    fn write(&self, page: u64, generation: u64, fill: Fill) {
        let address = self.regions.page(self.first + page);
        // SAFETY: the page is RAM that nothing but this processor's share uses
        let page = unsafe { &mut *(address as *mut Page) };
        let key = Key { address, generation, cpu: self.cpu.id as u64 };
        match fill {
            Fill::Word => page[0] = generation,
            Fill::Random => pattern::fill(page, key.seed()),
        }
    }
}
