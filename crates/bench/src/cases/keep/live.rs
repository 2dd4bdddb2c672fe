//! A snapshot that is consistent at its end: its blackout beside that of a move of the same guest.

use super::moves::idle::blackout;
use super::{
    Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, millis, ms, quiet,
};
use crate::BenchError;
use crate::peer::{Plan, Spec};
use crate::travel::Traveller;
use serde_json::json;
use std::path::PathBuf;

/// The case.
pub const CASE: Case = Case {
    name: "snapshot-end",
    about: "1 GiB, 512 MiB touched, 64 MiB of it rewritten at 2000 pages/s; floor: a move",
    metrics: &[
        Metric { floor: Some(Goal::AtMost(1.0)), ..Metric::reported("blackout", "ms") },
        Metric::reported("engine's own figure", "ms"),
        Metric::reported("total", "ms"),
    ],
    runs: Runs { own: 20, peer: 0, floor: 20 },
    touches: 512 << 20,
    takes: [ms(2_000), ms(0), ms(10_000), ms(12_000)],
    begin,
};

fn spec(place: &Place) -> Spec {
    let (touch, ws) = (place.bytes(448 << 20), place.bytes(64 << 20));
    let what = format!("touch={touch} ws={ws} rate=2000 fill=random");
    Spec { memory: place.bytes(1 << 30), vcpus: 1, cmdline: quiet(&what) }
}

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let spec = spec(place);
    Ok(match who {
        Contender::Vmm(peer) => {
            let path = place.path(&format!("{}-snapshot", peer.name()));
            Box::new(Snapshot(Traveller::start(peer, &spec)?, path))
        }
        Contender::Floor(peer) => Box::new(Move(Traveller::start(peer, &spec)?)),
    })
}

struct Snapshot<'a>(Traveller<'a>, PathBuf);

impl Course for Snapshot<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let hop = self.0.copy(&self.1)?;
        let (blackout, own) = blackout(&hop)?;
        let mut all = figures([("blackout", blackout), ("total", millis(hop.total))]);
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

struct Move<'a>(Traveller<'a>);

impl Course for Move<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let hop = self.0.hop(&Plan::default())?;
        let (blackout, own) = blackout(&hop)?;
        let mut all = figures([("blackout", blackout), ("total", millis(hop.total))]);
        all.extend(own.map(|own| ("engine's own figure".to_owned(), own)));
        Ok(vec![(all, json!({ "vmm": hop.account.whole }))])
    }

    fn rest(&mut self) -> Result<(), BenchError> {
        self.0.at.stop()
    }

    fn wake(&mut self) -> Result<(), BenchError> {
        self.0.at.cont()
    }
}
