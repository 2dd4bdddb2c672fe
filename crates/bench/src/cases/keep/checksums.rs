//! What verifying costs: the same restores in this process, with and without comparing pages with
//! their checksums.

use super::guests::half;
use super::{Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, ms};
use crate::BenchError;
use crate::inside::Inside;
use crate::place::make_cold;
use motion::restore::How;
use serde_json::json;
use std::path::PathBuf;

/// The case.
pub const CASE: Case = Case {
    name: "restore-checksums",
    about: "1 GiB, 512 MiB touched, cold: filling RAM with checksums ÷ without (the floor)",
    metrics: &[
        Metric { floor: Some(Goal::AtMost(1.1)), ..Metric::reported("eager", "ms") },
        Metric { floor: Some(Goal::AtMost(1.1)), ..Metric::reported("lazy", "ms") },
    ],
    runs: Runs { own: 20, peer: 0, floor: 20 },
    touches: 512 << 20,
    takes: [ms(2_000), ms(0), ms(10_000), ms(10_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    Ok(Box::new(Checksums {
        inside: Inside::new(place.folder())?,
        file: place.file(peer, &half(place))?,
        trusting: matches!(who, Contender::Floor(_)),
    }))
}

struct Checksums {
    inside: Inside,
    file: PathBuf,
    trusting: bool,
}

impl Course for Checksums {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let restored = |how| {
            make_cold(&self.file)?;
            self.inside.restore(&self.file, how, self.trusting)
        };
        let (eager, lazy) = (restored(How::Eager)?, restored(How::Lazy)?);
        let [eager, lazy] = [eager, lazy].map(|report| report.restore.unwrap_or_default());
        let all_in = lazy.fill.as_ref().and_then(|fill| fill.all_in_ns).unwrap_or_default();
        let all = figures([
            ("eager", crate::travel::millis(eager.fill_ns)),
            ("lazy", crate::travel::millis(all_in)),
        ]);
        Ok(vec![(all, json!({ "lazy": lazy }))])
    }
}
