//! 1 GiB, 768 MiB of it touched and incompressible, idle now: how long the guest is away, and what
//! it sees of the passes before.

use super::{
    Begin, Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, ms, quiet, whether,
};
use crate::BenchError;
use crate::floor;
use crate::peer::{Plan, Spec};
use crate::travel::{Hop, Traveller, millis};
use guest::report::STALL;
use memory::Backing;
use serde_json::{Value, json};
use std::thread;
use std::time::Duration;

const MEMORY: u64 = 1 << 30;
const TOUCHED: u64 = 768 << 20;
/// How long a guest that nobody moves is watched: about as long as a move takes.
const WATCH: Duration = Duration::from_secs(1);

const METRICS: &[Metric] = &[
    Metric {
        floor: Some(Goal::AtMost(3.0)),
        peer: Some(Goal::AtMost(0.3)),
        ..Metric::reported("blackout", "ms")
    },
    Metric::reported("engine's own figure", "ms"),
    Metric::share("engine agrees", 100.0),
    Metric { peer: Some(Goal::AtMost(0.25)), ..Metric::reported("longest stall", "ms") },
    Metric { peer: Some(Goal::AtMost(0.25)), ..Metric::reported("sum of stalls", "ms") },
    Metric::reported("total", "ms"),
];

/// With more vCPUs the blackout is only to be no longer than the peer's.
const METRICS_SMP: &[Metric] = &[
    Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("blackout", "ms") },
    METRICS[1],
    METRICS[2],
    METRICS[3],
    METRICS[4],
    METRICS[5],
];

const fn case(name: &'static str, about: &'static str, runs: Runs, begin: Begin) -> Case {
    Case {
        name,
        about,
        metrics: METRICS,
        runs,
        touches: TOUCHED,
        takes: [ms(1800), ms(3000), ms(2500), ms(20_000)],
        begin,
    }
}

/// One vCPU.
pub const ONE: Case = case(
    "idle-blackout",
    "1 GiB, 768 MiB touched and incompressible, now idle; 1 vCPU",
    Runs { own: 50, peer: 20, floor: 30 },
    begin::<1>,
);

/// Four vCPUs, of which three sleep.
pub const FOUR: Case = Case {
    metrics: METRICS_SMP,
    ..case(
        "idle-blackout-4",
        "the same with 4 vCPUs, 3 of them halted",
        Runs { own: 10, peer: 6, floor: 10 },
        begin::<4>,
    )
};

/// Eight vCPUs, of which seven sleep.
pub const EIGHT: Case = Case {
    metrics: METRICS_SMP,
    ..case(
        "idle-blackout-8",
        "the same with 8 vCPUs, 7 of them halted",
        Runs { own: 10, peer: 6, floor: 10 },
        begin::<8>,
    )
};

fn begin<'a, const VCPUS: u32>(
    who: Contender<'a>,
    place: &'a Place,
) -> Result<Box<dyn Course + 'a>, BenchError> {
    let memory = place.bytes(MEMORY);
    let spec = |touch: u64| Spec {
        memory,
        vcpus: VCPUS,
        cmdline: quiet(&format!("touch={touch} rate=0 watch=1")),
    };
    Ok(match who {
        Contender::Vmm(peer) => {
            Box::new(Idle(Traveller::start(peer, &spec(place.bytes(TOUCHED)))?))
        }
        Contender::Floor(peer) => Box::new(Floor::<'_, VCPUS> {
            traveller: Traveller::start(peer, &spec(1 << 20))?,
            watch: place.time(WATCH),
            memory,
        }),
    })
}

struct Idle<'a>(Traveller<'a>);

/// What the guest and the VMM say of a blackout, in milliseconds.
pub(in crate::cases) fn blackout(hop: &Hop) -> Result<(f64, Option<f64>), BenchError> {
    if hop.after.clock.away == 0 {
        return Err(BenchError::Raw(format!(
            "the VMM did not tell its guest that it had been away (KVM_KVMCLOCK_CTRL): {}",
            hop.after.clock
        )));
    }
    Ok((millis(hop.after.clock.away), hop.account.blackout))
}

/// Whether the VMM's own figure is that of its guest: within half a millisecond or a tenth.
pub(in crate::cases) fn agrees(guest: f64, own: f64) -> bool {
    (guest - own).abs() <= (guest / 10.0).max(0.5)
}

/// The longest stall, and the sum of all that count as one, without the blackout.
fn stalls(clock: &guest::report::Clock) -> (f64, f64) {
    let away = if clock.away >= STALL { clock.away } else { 0 };
    (millis(clock.other), millis(clock.stalled.saturating_sub(away)))
}

impl Course for Idle<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let hop = self.0.hop(&Plan::idle())?;
        let (blackout, own) = blackout(&hop)?;
        let (longest, sum) = stalls(&hop.after.clock);
        let mut all = figures([
            ("blackout", blackout),
            ("longest stall", longest),
            ("sum of stalls", sum),
            ("total", hop.total.as_secs_f64() * 1e3),
        ]);
        if let Some(own) = own {
            all.insert("engine's own figure".into(), own);
            all.insert("engine agrees".into(), whether(agrees(blackout, own)));
        }
        Ok(vec![(all, hop.detail())])
    }

    fn rest(&mut self) -> Result<(), BenchError> {
        self.0.at.stop()
    }

    fn wake(&mut self) -> Result<(), BenchError> {
        self.0.at.cont()
    }
}

/// The handover floor: a few handovers of a guest with one vCPU that watches its clock.
pub(in crate::cases) fn handovers(memory: u64, vcpus: u32) -> Result<Vec<Outcome>, BenchError> {
    const HANDOVERS: usize = 5;
    let options =
        floor::Options { memory, backing: Backing::Small, vcpus, watchers: 1, runs: HANDOVERS };
    let outcome = |stages: &floor::Stages| {
        let detail = json!({
            "stop_us": stages.pause,
            "save_us": stages.save,
            "restore_us": stages.restore,
            "run_us": stages.run,
        });
        (figures([("blackout", stages.gap / 1e3)]), detail)
    };
    Ok(floor::handovers(&options, |_| {})?.iter().map(outcome).collect())
}

/// The handover floor, and the stalls of a guest that nobody moves.
struct Floor<'a, const VCPUS: u32> {
    traveller: Traveller<'a>,
    watch: Duration,
    memory: u64,
}

impl<const VCPUS: u32> Course for Floor<'_, VCPUS> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let at = &mut self.traveller.at;
        at.cont()?;
        at.talk.ask()?;
        thread::sleep(self.watch);
        let clock = at.talk.ask()?.clock;
        at.stop()?;
        let (longest, sum) = stalls(&clock);
        let undisturbed = figures([("longest stall", longest), ("sum of stalls", sum)]);

        let mut all = handovers(self.memory, VCPUS)?;
        if let Some((first, _)) = all.first_mut() {
            first.extend(undisturbed);
        } else {
            all.push((undisturbed, Value::Null));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_millisecond_or_a_tenth_is_agreement() {
        assert!(agrees(0.1, 0.6) && agrees(100.0, 91.0));
        assert!(!agrees(0.1, 0.7) && !agrees(100.0, 89.0) && !agrees(417.0, 2.0));
    }
}
