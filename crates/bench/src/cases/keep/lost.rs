//! The work that a guest which writes flat out loses while a snapshot is taken of it.

use super::{Case, Contender, Course, Metric, Outcome, Place, Runs, figures, ms, quiet};
use crate::BenchError;
use crate::peer::Spec;
use crate::place::best;
use crate::travel::{Hop, Traveller, pace};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// The case.
pub const CASE: Case = Case {
    name: "snapshot-work",
    about: "1 GiB, 512 MiB rewritten flat out with new bytes, while a snapshot is taken",
    metrics: &[
        Metric::reported("work lost", "s"),
        Metric::reported("work during it", "%"),
        Metric::reported("longest pause", "ms"),
        Metric::reported("total", "ms"),
    ],
    runs: Runs { own: 8, peer: 4, floor: 0 },
    touches: 512 << 20,
    takes: [ms(12_000), ms(20_000), ms(0), ms(45_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    let ws = place.bytes(512 << 20);
    let cmdline = quiet(&format!("ws={ws} rate=max fill=random"));
    let spec = Spec { memory: place.bytes(1 << 30), vcpus: 1, cmdline };
    let mut traveller = Traveller::start(peer, &spec)?;
    let path = place.path(&format!("{}-snapshot", peer.name()));
    traveller.way = best(peer.copyings(), |way| {
        traveller.way = *way;
        Ok(traveller.copy(&path)?.total.as_secs_f64())
    })?;
    Ok(Box::new(Lost(traveller, path)))
}

struct Lost<'a>(Traveller<'a>, PathBuf);

/// Seconds of the guest's clock from one answer to the other.
fn between(hop: &Hop) -> f64 {
    crate::travel::millis(hop.after.work.t.saturating_sub(hop.before.work.t)) / 1e3
}

impl Course for Lost<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        self.0.settle()?;
        let undisturbed = self.0.pace(Duration::from_secs(1))?.max(1.0);
        let hop = self.0.copy(&self.1)?;
        let share = pace(&hop.before, &hop.after) / undisturbed;
        let all = figures([
            ("work lost", (1.0 - share).max(0.0) * between(&hop)),
            ("work during it", 100.0 * share),
            ("longest pause", crate::travel::millis(hop.after.clock.gap)),
            ("total", super::millis(hop.total)),
        ]);
        Ok(vec![(all, json!({ "way": self.0.way.name, "run": hop.detail() }))])
    }

    fn rest(&mut self) -> Result<(), BenchError> {
        self.0.at.stop()
    }

    fn wake(&mut self) -> Result<(), BenchError> {
        self.0.at.cont()
    }
}
