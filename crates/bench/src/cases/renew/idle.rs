//! 1 GiB, 768 MiB of it touched, idle now: how long the guest is away while its process is replaced.

use super::moves::idle::{agrees, blackout, handovers};
use super::{
    Begin, Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, idle_guest, ms,
    whether,
};
use crate::BenchError;
use crate::travel::{Traveller, millis};

const MEMORY: u64 = 1 << 30;
const TOUCHED: u64 = 768 << 20;

const METRICS: &[Metric] = &[
    Metric {
        floor: Some(Goal::AtMost(1.6)),
        peer: Some(Goal::AtMost(0.3)),
        ..Metric::reported("blackout", "ms")
    },
    Metric::reported("engine's own figure", "ms"),
    Metric::share("engine agrees", 100.0),
    Metric::reported("longest stall", "ms"),
    Metric::reported("total", "ms"),
];

/// With more vCPUs the blackout is only to be no longer than the peer's.
const METRICS_SMP: &[Metric] = &[
    Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("blackout", "ms") },
    METRICS[1],
    METRICS[2],
    METRICS[3],
    METRICS[4],
];

/// One vCPU.
pub const ONE: Case = Case {
    name: "renew-idle",
    about: "new process; 1 GiB, 768 MiB touched, now idle; 1 vCPU",
    metrics: METRICS,
    runs: Runs { own: 50, peer: 20, floor: 30 },
    touches: TOUCHED,
    takes: [ms(1500), ms(1500), ms(2000), ms(25_000)],
    begin: begin::<1>,
};

const fn smp(name: &'static str, about: &'static str, begin: Begin) -> Case {
    let runs = Runs { own: 20, peer: 10, floor: 10 };
    Case { name, about, metrics: METRICS_SMP, runs, begin, ..ONE }
}

/// Two vCPUs, of which one sleeps.
pub const TWO: Case = smp("renew-idle-2", "the same with 2 vCPUs, one of them halted", begin::<2>);

/// Eight vCPUs, of which seven sleep.
pub const EIGHT: Case = smp("renew-idle-8", "the same with 8 vCPUs, 7 of them halted", begin::<8>);

fn begin<'a, const VCPUS: u32>(
    who: Contender<'a>,
    place: &'a Place,
) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (memory, touch) = (place.bytes(MEMORY), place.bytes(TOUCHED));
    Ok(match who {
        Contender::Vmm(peer) => {
            Box::new(Idle(Traveller::start(peer, &idle_guest(memory, VCPUS, touch))?))
        }
        Contender::Floor(_) => Box::new(Floor { memory, vcpus: VCPUS }),
    })
}

struct Idle<'a>(Traveller<'a>);

impl Course for Idle<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let hop = self.0.renew()?;
        let (blackout, own) = blackout(&hop)?;
        let mut all = figures([
            ("blackout", blackout),
            ("longest stall", millis(hop.after.clock.other)),
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

struct Floor {
    memory: u64,
    vcpus: u32,
}

impl Course for Floor {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        handovers(self.memory, self.vcpus)
    }
}
