//! The blackout of a snapshot of its end, beside that of a move of the same guest; and of one of its
//! start, beside what write protection and the state take by themselves.

use super::moves::idle::blackout;
use super::{
    Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, millis, ms, quiet,
};
use crate::BenchError;
use crate::inside::Protected;
use crate::peer::{Moment, Peer, Plan, Spec};
use crate::travel::Traveller;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Of its end.
pub const END: Case = Case {
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
            Box::new(Snapshot { traveller: start(peer, &spec, Moment::End)?, path, settles: false })
        }
        Contender::Floor(peer) => Box::new(Move(Traveller::start(peer, &spec)?)),
    })
}

/// A guest of which snapshots of this kind are taken.
fn start<'a>(peer: &'a dyn Peer, spec: &Spec, of: Moment) -> Result<Traveller<'a>, BenchError> {
    let mut traveller = Traveller::start(peer, spec)?;
    traveller.way = peer.copyings(of).first().copied().unwrap_or_default();
    Ok(traveller)
}

struct Snapshot<'a> {
    traveller: Traveller<'a>,
    path: PathBuf,
    /// Whether all of its working set is to be written between two of them.
    settles: bool,
}

impl Course for Snapshot<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        if self.settles {
            self.traveller.settle()?;
        }
        let hop = self.traveller.copy(&self.path)?;
        let (blackout, own) = blackout(&hop)?;
        let mut all = figures([("blackout", blackout), ("total", millis(hop.total))]);
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

/// Of its start.
pub const START: Case = Case {
    name: "snapshot-start",
    about: "--at start of 1 GiB, 512 MiB of it rewritten flat out; floor: protection + state",
    metrics: &[
        Metric { floor: Some(Goal::AtMost(1.3)), ..Metric::reported("blackout", "ms") },
        Metric::reported("engine's own figure", "ms"),
        Metric::reported("protection alone", "ms"),
        Metric::reported("state alone", "ms"),
        Metric::reported("total", "ms"),
    ],
    runs: Runs { own: 12, peer: 0, floor: 12 },
    touches: 512 << 20,
    takes: [ms(5_000), ms(0), ms(10_000), ms(30_000)],
    begin: begin_start,
};

/// All of what it has touched is mapped when it is to be protected: it has just been written.
fn writer(place: &Place) -> Spec {
    let cmdline = format!("ws={} rate=max report=200ms gap=3600s", place.bytes(512 << 20));
    Spec { memory: place.bytes(1 << 30), vcpus: 1, cmdline }
}

fn begin_start<'a>(
    who: Contender<'a>,
    place: &'a Place,
) -> Result<Box<dyn Course + 'a>, BenchError> {
    let spec = writer(place);
    Ok(match who {
        Contender::Vmm(peer) => {
            let spec = Spec { cmdline: spec.cmdline.replace("200ms", "3600s"), ..spec };
            let path = place.path(&format!("{}-snapshot", peer.name()));
            Box::new(Snapshot {
                traveller: start(peer, &spec, Moment::Start)?,
                path,
                settles: true,
            })
        }
        Contender::Floor(_) => Box::new(Bare(Protected::start(place.folder(), &spec)?)),
    })
}

/// Write protection of what such a guest has touched, and its state.
struct Bare(Protected);

impl Course for Bare {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let (protection, state): (Duration, Duration) = self.0.measure()?;
        let all = figures([
            ("blackout", millis(protection + state)),
            ("protection alone", millis(protection)),
            ("state alone", millis(state)),
        ]);
        Ok(vec![(all, json!(null))])
    }

    fn rest(&mut self) -> Result<(), BenchError> {
        self.0.rest()
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
