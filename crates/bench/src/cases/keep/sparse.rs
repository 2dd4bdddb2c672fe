//! 1 GiB of which 64 MiB were ever touched, stopped, to a file: cost follows use, not size.

use super::guests::sparse;
use super::{Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, millis, ms};
use crate::BenchError;
use crate::peer::{Peer, Spec, Way};
use crate::place::best;
use crate::travel::Traveller;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// The case.
pub const CASE: Case = Case {
    name: "save-sparse",
    about: "save: 1 GiB, 64 MiB touched and incompressible, guest stopped",
    metrics: &[Metric { peer: Some(Goal::AtMost(0.1)), ..Metric::reported("total", "ms") }],
    runs: Runs { own: 20, peer: 8, floor: 0 },
    touches: 64 << 20,
    takes: [ms(2_500), ms(4_000), ms(0), ms(6_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    let path = place.path(&format!("{}-save", peer.name()));
    let mut sparse = Sparse { peer, spec: sparse(place, 1 << 30), way: Way::default(), path };
    sparse.way = best(peer.writings(), |way| {
        sparse.way = *way;
        Ok(sparse.save()?.0.as_secs_f64())
    })?;
    Ok(Box::new(sparse))
}

struct Sparse<'a> {
    peer: &'a dyn Peer,
    spec: Spec,
    way: Way,
    path: PathBuf,
}

impl Sparse<'_> {
    /// Saves a guest that nobody has saved before: who looks at pages that were never touched may have
    /// the kernel provide them, and finds them provided the next time.
    fn save(&self) -> Result<(Duration, Value), BenchError> {
        let mut traveller = Traveller::start(self.peer, &self.spec)?;
        traveller.at.stop()?;
        let took = traveller.at.save(&self.path, &self.way)?;
        Ok((took, traveller.at.account()?.whole))
    }
}

impl Course for Sparse<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let (took, whole) = self.save()?;
        let detail = json!({ "way": self.way.name, "vmm": whole });
        Ok(vec![(figures([("total", millis(took))]), detail)])
    }
}
