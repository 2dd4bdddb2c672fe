//! The work that a guest which writes flat out loses while a snapshot is taken of it.

use super::{Case, Contender, Course, Metric, Outcome, Place, Runs, figures, ms, quiet};
use crate::BenchError;
use crate::peer::{Moment, Spec};
use crate::place::best;
use crate::travel::{Hop, Traveller, pace};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// While the copy is made to be of its end.
pub const END: Case = Case {
    name: "snapshot-end-work",
    about: "--at end of 1 GiB, 512 MiB rewritten flat out: work that it costs the guest",
    begin: |who, place| begin(who, place, Moment::End),
    ..START
};

/// While the copy is made of the moment when it begins.
pub const START: Case = Case {
    name: "snapshot-start-work",
    about: "--at start of 1 GiB, 512 MiB rewritten flat out: work that it costs the guest",
    metrics: &[
        Metric::reported("work lost", "s"),
        Metric::reported("work during it", "%"),
        Metric::reported("longest pause", "ms"),
        Metric::reported("total", "ms"),
    ],
    runs: Runs { own: 6, peer: 3, floor: 0 },
    touches: 512 << 20,
    takes: [ms(8_000), ms(14_000), ms(0), ms(45_000)],
    begin: |who, place| begin(who, place, Moment::Start),
};

fn begin<'a>(
    who: Contender<'a>,
    place: &'a Place,
    of: Moment,
) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    let ws = place.bytes(512 << 20);
    let cmdline = quiet(&format!("ws={ws} rate=max fill=random"));
    let spec = Spec { memory: place.bytes(1 << 30), vcpus: 1, cmdline };
    let mut traveller = Traveller::start(peer, &spec)?;
    let path = place.path(&format!("{}-snapshot", peer.name()));
    traveller.way = best(peer.copyings(of), |way| {
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
