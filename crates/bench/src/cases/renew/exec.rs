//! The process becomes another program: the guest stands still twice, and neither pause grows with RAM.

use super::moves::idle::{agrees, blackout};
use super::{
    Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, idle_guest, ms, touched,
    whether,
};
use crate::BenchError;
use crate::peer::{Peer, Spec};
use crate::travel::{Hop, Traveller, millis};
use serde_json::{Value, json};

const LARGE: u64 = 4 << 30;
const SMALL: u64 = 1 << 30;

/// The case.
pub const CASE: Case = Case {
    name: "renew-exec",
    about: "same process, new program; 4 GiB and 1 GiB, 90 % touched, now idle; QEMU: 1 GiB, new process",
    metrics: &[
        Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("both pauses, 1 GiB", "ms") },
        Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("longer pause, 1 GiB", "ms") },
        Metric {
            itself: Some(Goal::AtMost(1.2)), ..Metric::reported("both, 4 GiB ÷ 1 GiB", "×")
        },
        Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("both pauses, 4 GiB", "ms") },
        Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("longer pause, 4 GiB", "ms") },
        Metric::reported("engine's figure, 1 GiB", "ms"),
        Metric::share("engine agrees, 1 GiB", 100.0),
        Metric::reported("longest stall, 1 GiB", "ms"),
        Metric::reported("total, 1 GiB", "ms"),
        Metric::reported("total, 4 GiB", "ms"),
    ],
    runs: Runs { own: 15, peer: 10, floor: 0 },
    touches: touched(LARGE) + touched(SMALL),
    takes: [ms(6_500), ms(2_500), ms(0), ms(75_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    let start = |memory| stopped(peer, &guest(place, memory));
    Ok(match peer.renew_in_place() {
        Some(_) => Box::new(Exec { large: start(LARGE)?, small: start(SMALL)? }),
        None => Box::new(Transfer(start(SMALL)?)),
    })
}

fn guest(place: &Place, memory: u64) -> Spec {
    let Spec { memory, vcpus, cmdline } =
        idle_guest(place.bytes(memory), 1, place.bytes(touched(memory)));
    Spec { memory, vcpus, cmdline: format!("{cmdline} wake=tell") }
}

fn stopped<'a>(peer: &'a dyn Peer, spec: &Spec) -> Result<Traveller<'a>, BenchError> {
    let mut traveller = Traveller::start(peer, spec)?;
    traveller.at.stop()?;
    Ok(traveller)
}

/// Both guests are stopped but when it is their turn.
struct Exec<'a> {
    large: Traveller<'a>,
    small: Traveller<'a>,
}

/// What one update was to its guest, in milliseconds.
struct Twice {
    both: f64,
    longer: f64,
    /// What the VMM says of both.
    own: Option<f64>,
    hop: Hop,
    told: Value,
}

fn twice(traveller: &mut Traveller<'_>) -> Result<Twice, BenchError> {
    traveller.wake()?;
    let (hop, pauses) = traveller.renew_in_place()?;
    traveller.at.stop()?;
    let [first, second] = pauses.each_ref().map(|pause| millis(pause.away));
    let then = hop.account.whole["update"]["first-blackout-ns"].as_f64();
    let own = hop.account.blackout.zip(then).map(|(last, first)| last + first / 1e6);
    let told = json!(pauses.each_ref().map(ToString::to_string));
    Ok(Twice { both: first + second, longer: first.max(second), own, hop, told })
}

impl Twice {
    fn detail(&self) -> Value {
        let mut detail = self.hop.detail();
        detail["pauses"] = self.told.clone();
        detail
    }

    fn total(&self) -> f64 {
        self.hop.total.as_secs_f64() * 1e3
    }
}

impl Course for Exec<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let (large, small) = (twice(&mut self.large)?, twice(&mut self.small)?);
        let mut all = figures([
            ("both pauses, 1 GiB", small.both),
            ("longer pause, 1 GiB", small.longer),
            ("both, 4 GiB ÷ 1 GiB", large.both / small.both.max(1e-9)),
            ("both pauses, 4 GiB", large.both),
            ("longer pause, 4 GiB", large.longer),
            ("longest stall, 1 GiB", millis(small.hop.after.clock.other)),
            ("total, 1 GiB", small.total()),
            ("total, 4 GiB", large.total()),
        ]);
        if let Some(own) = small.own {
            all.insert("engine's figure, 1 GiB".into(), own);
            all.insert("engine agrees, 1 GiB".into(), whether(agrees(small.both, own)));
        }
        Ok(vec![(all, json!({ "large": large.detail(), "small": small.detail() }))])
    }
}

/// One that cannot do that: a new process takes its guest of 1 GiB over.
struct Transfer<'a>(Traveller<'a>);

impl Course for Transfer<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        self.0.wake()?;
        let hop = self.0.renew()?;
        self.0.at.stop()?;
        let (away, _) = blackout(&hop)?;
        let all = figures([
            ("both pauses, 1 GiB", away),
            ("longer pause, 1 GiB", away),
            ("both pauses, 4 GiB", away),
            ("longer pause, 4 GiB", away),
            ("longest stall, 1 GiB", millis(hop.after.clock.other)),
            ("total, 1 GiB", hop.total.as_secs_f64() * 1e3),
        ]);
        Ok(vec![(all, hop.detail())])
    }
}
