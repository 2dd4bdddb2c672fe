//! 2 GiB of incompressible memory of a guest that is stopped: how fast memory moves, and what it
//! costs both sides. The floor is the same bytes over plain TCP.

use super::{Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, ms, quiet};
use crate::BenchError;
use crate::peer::{Plan, Spec};
use crate::tcp;
use crate::travel::Traveller;
use serde_json::{Value, json};
use std::time::Duration;

const TOUCHED: u64 = 2 << 30;

/// The case.
pub const CASE: Case = Case {
    name: "stopped-rate",
    about: "2 GiB touched and incompressible, guest stopped; both sides' CPU time",
    metrics: &[
        Metric {
            floor: Some(Goal::AtLeast(0.85)),
            peer: Some(Goal::AtLeast(1.0)),
            ..Metric::reported("rate", "GiB/s")
        },
        Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("CPU per GiB", "s/GiB") },
        Metric::reported("total", "ms"),
    ],
    runs: Runs { own: 10, peer: 8, floor: 6 },
    touches: TOUCHED,
    takes: [ms(2_500), ms(4_000), ms(6_000), ms(45_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let touched = place.bytes(TOUCHED);
    Ok(match who {
        Contender::Vmm(peer) => {
            // What the guest needs for itself comes on top.
            let spec = Spec {
                memory: touched + (64 << 20),
                vcpus: 1,
                cmdline: quiet(&format!("touch={touched} rate=0 watch=1")),
            };
            let mut traveller = Traveller::start(peer, &spec)?;
            traveller.at.stop()?;
            Box::new(Stopped { traveller, touched })
        }
        Contender::Floor(_) => Box::new(RawTcp { source: tcp::Source::new(touched)?, touched }),
    })
}

#[expect(clippy::cast_precision_loss, reason = "bytes are far below 2⁵²")]
fn rates(touched: u64, total: Duration, cpu: Duration) -> crate::raw::Figures {
    let gib = touched as f64 / f64::from(1 << 30);
    figures([
        ("rate", gib / total.as_secs_f64()),
        ("CPU per GiB", cpu.as_secs_f64() / gib),
        ("total", total.as_secs_f64() * 1e3),
    ])
}

struct Stopped<'a> {
    traveller: Traveller<'a>,
    touched: u64,
}

impl Course for Stopped<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let (total, cpu) = self.traveller.hop_stopped(&Plan::default())?;
        Ok(vec![(rates(self.touched, total, cpu), Value::Null)])
    }
}

struct RawTcp {
    source: tcp::Source,
    touched: u64,
}

impl Course for RawTcp {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let raw = self.source.send()?;
        let rates = rates(self.touched, raw.total, raw.cpu);
        Ok(vec![(rates, json!({ "connections": raw.connections }))])
    }
}
