//! 2 GiB of incompressible memory of a stopped guest, to a file: beside what storage can do.

use super::guests::{FULL, full};
use super::{
    Case, Contender, Course, GIB, Goal, Metric, Outcome, Place, Rated, Runs, figures, millis, ms,
};
use crate::BenchError;
use crate::fio::{self, Work};
use crate::peer::Way;
use crate::place::best;
use crate::travel::Traveller;
use serde_json::json;
use std::path::PathBuf;

/// The case.
pub const CASE: Case = Case {
    name: "save-rate",
    about: "save: 2 GiB touched and incompressible, guest stopped; floor: fio, O_DIRECT",
    metrics: &[
        Metric {
            floor: Some(Goal::AtLeast(0.85)),
            peer: Some(Goal::AtLeast(1.0)),
            ..Metric::reported("rate", "GiB/s")
        },
        Metric::reported("total", "ms"),
    ],
    runs: Runs { own: 10, peer: 6, floor: 6 },
    touches: FULL,
    takes: [ms(2_000), ms(3_000), ms(30_000), ms(50_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    Ok(match who {
        Contender::Vmm(peer) => {
            let spec = full(place);
            let mut traveller = Traveller::start(peer, &spec)?;
            // Touching so much takes long: whoever restores it need not do so again.
            place.file_of(&mut traveller, &spec)?;
            traveller.at.stop_again()?;
            let path = place.path(&format!("{}-save", peer.name()));
            let way = best(peer.writings(), |way| {
                let took = traveller.at.save(&path, way)?;
                traveller.at.stop_again()?;
                Ok(took.as_secs_f64())
            })?;
            Box::new(Save { traveller, way, path, bytes: place.bytes(FULL) })
        }
        Contender::Floor(_) => Box::new(Storage(place)),
    })
}

struct Save<'a> {
    traveller: Traveller<'a>,
    way: Way,
    path: PathBuf,
    bytes: u64,
}

impl Course for Save<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let took = self.traveller.at.save(&self.path, &self.way)?;
        let whole = self.traveller.at.account()?.whole;
        std::fs::remove_file(&self.path).map_err(BenchError::io("removing a file"))?;
        let rated = Rated { bytes: self.bytes, seconds: took.as_secs_f64() };
        let detail = json!({ "way": self.way.name, "vmm": whole });
        let all = figures([("rate", rated.gib_per_second()), ("total", millis(took))]);
        Ok(vec![(all, detail)])
    }

    fn wake(&mut self) -> Result<(), BenchError> {
        self.traveller.at.stop_again()
    }
}

struct Storage<'a>(&'a Place);

impl Course for Storage<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let bytes = self.0.bytes(FULL);
        let rate = fio::measure(self.0.folder(), "floor", Work::Write, bytes)?;
        Ok(vec![(figures([("rate", rate.bytes / GIB)]), json!({ "by": rate.by }))])
    }
}
