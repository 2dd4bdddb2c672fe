//! Which pages a processor checks, and in which order

use rt::cpu::{Cpu, PAGE};
use rt::machine::Machine;
use rt::ram::Regions;
use rt::shared::invariant::{Class, Expected};
use rt::shared::pattern::Key;
use rt::shared::sweep::{VERIFY, VERIFY_ZERO, Visit, WRITE, WRITE_ZERO};

/// What the guest does with RAM
pub struct Layout {
    /// What is written
    pub working_set: Regions,
    /// What must stay zero
    pub untouched: Regions,
}

impl Layout {
    /// Both as large as the parameters say, or as there is RAM; each taken in
    /// equal parts from below and above 4 GiB as far as there is RAM above
    pub fn new(machine: &Machine) -> Self {
        let params = machine.params;
        let mut low = machine.ram.within(0..4 << 30);
        let mut high = machine.ram.within(4 << 30..u64::MAX);
        let mut take = |size: u64| {
            let above = (size / 2).max(size.saturating_sub(low.size())).min(high.size());
            let mut both = low.take(size - above);
            for range in high.take(above).iter() {
                both.push(range);
            }
            both
        };
        let all = machine.ram.size();
        let untouched = params.untouched.min(all);
        let working_set = take(params.ws.unwrap_or(u64::MAX).min(all - untouched));
        Self { working_set, untouched: take(untouched) }
    }
}

/// One processor's part of some memory: every n-th page, in an order that
/// jumps about
pub struct Share {
    regions: Regions,
    cpus: u64,
    rank: u64,
    cpu: u64,
    stride: u64,
    /// Number of pages
    pub pages: u64,
}

impl Share {
    /// This processor's part of these regions
    pub fn new(regions: Regions, machine: &Machine, cpu: Cpu) -> Self {
        let (cpus, rank) = (machine.cpus, cpu.rank as u64);
        let pages = (regions.size() / PAGE as u64 + cpus - 1 - rank) / cpus;
        Self { regions, cpus, rank, cpu: cpu.id as u64, stride: stride(pages), pages }
    }

    /// Address and class of the page at a position
    fn page(&self, position: u64) -> (u64, Class) {
        let index = position * self.stride % self.pages;
        (self.regions.page(index * self.cpus + self.rank), Class::of(index))
    }

    /// What the page at a position holds once it was visited in a round
    pub fn content(&self, position: u64, round: u64) -> Expected {
        let (address, class) = self.page(position);
        let generation = class.generation(round);
        let key = Key { address, generation, cpu: self.cpu };
        Expected { key, zero: class.is_zero(generation) }
    }

    /// The visit that a round pays to the page at a position
    pub fn visit(&self, position: u64, round: u64) -> Visit {
        let new = self.content(position, round);
        if round == 1 {
            return Visit { action: write(&new), ..check(&new) };
        }
        let old = self.content(position, round - 1);
        let action = if new == old { 0 } else { write(&new) };
        let check = check(&old);
        Visit { written: new.key.seed(), action: check.action | action, ..check }
    }

    /// A visit that only looks at the page at a position, during a round that
    /// has come as far as `reached`
    pub fn look(&self, position: u64, round: u64, reached: u64) -> (Visit, Expected) {
        let content = self.content(position, if position < reached { round } else { round - 1 });
        (check(&content), content)
    }

    /// A visit to a page that must be zero
    pub fn look_zero(&self, position: u64) -> Visit {
        Visit { page: self.page(position).0, expected: 0, written: 0, action: VERIFY_ZERO }
    }
}

fn check(content: &Expected) -> Visit {
    Visit {
        page: content.key.address,
        expected: content.key.seed(),
        written: content.key.seed(),
        action: if content.zero { VERIFY_ZERO } else { VERIFY },
    }
}

fn write(content: &Expected) -> u64 {
    if content.zero { WRITE_ZERO } else { WRITE }
}

/// A step that comes past every page: without a common divisor with their number
fn stride(pages: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    // Near the golden section, so that neighbours in time are far apart in space
    (pages * 5 / 8..).find(|&step| gcd(step, pages) == 1).unwrap_or(1)
}
