//! 2 GiB, 900 MiB of it rewritten as fast as the guest can: the blackout, and what the guest gets
//! done meanwhile.

use super::idle::blackout;
use super::{
    Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, ms, quiet, whether,
};
use crate::BenchError;
use crate::peer::{Plan, Spec};
use crate::travel::{Traveller, pace};
use std::time::Duration;

/// The longest blackout allowed, in milliseconds.
const LIMIT: u64 = 300;

/// How long a guest that nobody disturbs is watched.
const WATCH: Duration = Duration::from_secs(1);

/// What it rewrites, in bytes.
pub(in crate::cases) const SET: u64 = 900 << 20;

/// The guest of this case, and of those with a limited bandwidth.
pub(in crate::cases) fn spec(place: &Place) -> Spec {
    of_size(place.bytes(SET))
}

/// One that rewrites so many bytes.
pub(in crate::cases) fn of_size(set: u64) -> Spec {
    let cmdline = quiet(&format!("ws={set} rate=max fill=random"));
    Spec { memory: (set * 2).next_power_of_two(), vcpus: 1, cmdline }
}

/// The case.
pub const CASE: Case = Case {
    name: "flat-out-blackout",
    about: "2 GiB, 900 MiB rewritten flat out with new bytes; limit 300 ms; 1 vCPU",
    metrics: &[
        Metric { peer: Some(Goal::AtMost(0.05)), ..Metric::reported("blackout", "ms") },
        Metric::reported("engine's own figure", "ms"),
        Metric::share("within the limit", 100.0),
        Metric { peer: Some(Goal::AtLeast(1.0)), ..Metric::reported("work during the move", "%") },
        Metric::reported("total", "ms"),
    ],
    runs: Runs { own: 20, peer: 10, floor: 0 },
    touches: SET,
    takes: [ms(9_000), ms(14_000), ms(0), ms(20_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    let traveller = Traveller::start(peer, &spec(place))?;
    Ok(Box::new(FlatOut { traveller, watch: place.time(WATCH) }))
}

struct FlatOut<'a> {
    traveller: Traveller<'a>,
    watch: Duration,
}

impl Course for FlatOut<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        self.traveller.settle()?;
        let undisturbed = self.traveller.pace(self.watch)?;
        let hop = self.traveller.hop(&Plan::within(LIMIT))?;
        let (blackout, own) = blackout(&hop)?;
        let work = 100.0 * pace(&hop.before, &hop.after) / undisturbed.max(1.0);
        let within = whether(blackout <= Duration::from_millis(LIMIT).as_secs_f64() * 1e3);
        let mut all = figures([
            ("blackout", blackout),
            ("within the limit", within),
            ("work during the move", work),
            ("total", hop.total.as_secs_f64() * 1e3),
        ]);
        all.extend(own.map(|own| ("engine's own figure".to_owned(), own)));
        Ok(vec![(all, hop.detail())])
    }

    fn rest(&mut self) -> Result<(), BenchError> {
        self.traveller.at.stop()
    }

    fn wake(&mut self) -> Result<(), BenchError> {
        self.traveller.at.cont()
    }
}
