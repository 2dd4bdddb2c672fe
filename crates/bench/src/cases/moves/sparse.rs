//! 4 GiB of which 64 MiB were ever touched: cost follows use, not size.

use super::idle::blackout;
use super::{Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, ms, quiet};
use crate::BenchError;
use crate::peer::{Plan, Spec};
use crate::travel::Traveller;

const TOUCHED: u64 = 64 << 20;

/// The case.
pub const CASE: Case = Case {
    name: "sparse-total",
    about: "4 GiB, 64 MiB touched and incompressible, idle; 1 vCPU",
    metrics: &[
        Metric { peer: Some(Goal::AtMost(0.01)), ..Metric::reported("total", "ms") },
        Metric::reported("blackout", "ms"),
    ],
    runs: Runs { own: 20, peer: 4, floor: 0 },
    touches: TOUCHED,
    takes: [ms(500), ms(13_000), ms(0), ms(5_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    let cmdline = quiet(&format!("touch={} rate=0 watch=1", place.bytes(TOUCHED)));
    let spec = Spec { memory: place.bytes(4 << 30), vcpus: 1, cmdline };
    Ok(Box::new(Sparse(Traveller::start(peer, &spec)?)))
}

struct Sparse<'a>(Traveller<'a>);

impl Course for Sparse<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let hop = self.0.hop(&Plan::idle())?;
        let (blackout, _) = blackout(&hop)?;
        let all = figures([("total", hop.total.as_secs_f64() * 1e3), ("blackout", blackout)]);
        Ok(vec![(all, hop.detail())])
    }

    fn rest(&mut self) -> Result<(), BenchError> {
        self.0.at.stop()
    }

    fn wake(&mut self) -> Result<(), BenchError> {
        self.0.at.cont()
    }
}
