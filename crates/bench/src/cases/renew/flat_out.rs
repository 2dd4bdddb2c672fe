//! 2 GiB, 900 MiB of it rewritten as fast as the guest can: the blackout, and what the guest has to
//! wait for until a second after it.

use super::moves::flat_out::spec;
use super::moves::idle::blackout;
use super::{Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, ms};
use crate::BenchError;
use crate::travel::{Traveller, millis, pace};
use std::time::Duration;

/// How long the guest is watched when it has another process.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// The case.
pub const CASE: Case = Case {
    name: "renew-flat-out",
    about: "new process; 2 GiB, 900 MiB rewritten flat out, watched 1 s longer; 1 vCPU",
    metrics: &[
        Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("blackout", "ms") },
        Metric::reported("engine's own figure", "ms"),
        Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("longest stall", "ms") },
        Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("work lost", "s") },
        Metric::reported("total", "ms"),
    ],
    runs: Runs { own: 20, peer: 10, floor: 0 },
    touches: 900 << 20,
    takes: [ms(6_000), ms(6_000), ms(0), ms(30_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, _: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    Ok(Box::new(FlatOut(Traveller::start(peer, &spec())?)))
}

struct FlatOut<'a>(Traveller<'a>);

impl Course for FlatOut<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        self.0.settle()?;
        let undisturbed = self.0.pace(Duration::from_secs(1))?.max(1.0);
        let hop = self.0.renew(AFTERWARDS)?;
        let (blackout, own) = blackout(&hop)?;
        let share = pace(&hop.before, &hop.after) / undisturbed;
        let watched = millis(hop.after.work.t.saturating_sub(hop.before.work.t)) / 1e3;
        let mut all = figures([
            ("blackout", blackout),
            ("longest stall", millis(hop.after.clock.other)),
            ("work lost", (1.0 - share).max(0.0) * watched),
            ("total", hop.total.as_secs_f64() * 1e3),
        ]);
        all.extend(own.map(|own| ("engine's own figure".to_owned(), own)));
        Ok(vec![(all, hop.detail())])
    }

    fn rest(&mut self) -> Result<(), BenchError> {
        self.0.at.stop()
    }

    fn wake(&mut self) -> Result<(), BenchError> {
        self.0.at.cont()
    }
}
