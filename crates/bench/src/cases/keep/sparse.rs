//! 1 GiB of which 64 MiB were ever touched, stopped, to a file: cost follows use, not size.

use super::guests::sparse;
use super::{Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, millis, ms};
use crate::BenchError;
use crate::peer::Way;
use crate::place::best;
use crate::travel::Traveller;
use serde_json::json;
use std::path::{Path, PathBuf};

/// The case.
pub const CASE: Case = Case {
    name: "save-sparse",
    about: "save: 1 GiB, 64 MiB touched and incompressible, guest stopped",
    metrics: &[Metric { peer: Some(Goal::AtMost(0.1)), ..Metric::reported("total", "ms") }],
    runs: Runs { own: 20, peer: 8, floor: 0 },
    touches: 64 << 20,
    takes: [ms(300), ms(2_000), ms(0), ms(12_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    let mut traveller = Traveller::start(peer, &sparse(place, 1 << 30))?;
    let path = place.path(&format!("{}-save", peer.name()));
    Ok(Box::new(Sparse { way: best_way(&mut traveller, &path)?, traveller, path }))
}

/// How this guest, which is stopped from then on, is written to a file fastest.
pub fn best_way(traveller: &mut Traveller<'_>, path: &Path) -> Result<Way, BenchError> {
    traveller.at.stop()?;
    best(traveller.peer().writings(), |way| {
        let took = traveller.at.save(path, way)?;
        traveller.at.stop_again()?;
        Ok(took.as_secs_f64())
    })
}

struct Sparse<'a> {
    traveller: Traveller<'a>,
    way: Way,
    path: PathBuf,
}

impl Course for Sparse<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let took = self.traveller.at.save(&self.path, &self.way)?;
        let whole = self.traveller.at.account()?.whole;
        let detail = json!({ "way": self.way.name, "vmm": whole });
        Ok(vec![(figures([("total", millis(took))]), detail)])
    }

    fn wake(&mut self) -> Result<(), BenchError> {
        self.traveller.at.stop_again()
    }
}
