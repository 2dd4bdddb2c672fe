//! The guest that writes flat out, over a link that is half again as fast as it dirties memory, or
//! not fast enough: whether promises and predictions are kept.

use super::flat_out::{SET, spec};
use super::idle::blackout;
use super::{Case, Contender, Course, Metric, Outcome, Place, Runs, figures, ms, whether};
use crate::BenchError;
use crate::peer::{Plan, Process};
use crate::travel::Traveller;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The longest blackout allowed, in milliseconds.
const LIMIT: u64 = 300;
/// A link that is too slow has shown that it is when the third pass begins; but no longer than this.
const TOO_SLOW: Duration = Duration::from_secs(60);
/// Between two looks at the passes.
const LOOK: Duration = Duration::from_millis(200);
/// A trial's link is no slower than this, in bytes a second: its passes are short, and where others slow the guest
/// down they would have the link be so slow that the trial takes minutes.
const TRIAL: u64 = 64 << 20;
/// A pass that took less does not tell how fast the guest dirties memory.
const TELLING: Duration = Duration::from_millis(50);

/// Half again as fast.
pub const ABOVE: Case = Case {
    name: "limited-above",
    about: "flat-out-blackout's guest over 1.5 × its dirty rate; limit 300 ms",
    metrics: &[
        Metric::share("kept or given up cleanly", 100.0),
        Metric::share("given up", 0.0),
        Metric::reported("blackout", "ms"),
        Metric::share("prediction holds", 90.0),
        Metric::reported("prediction off by", "ms"),
        Metric::reported("dirty rate", "MiB/s"),
        Metric::reported("total", "ms"),
    ],
    runs: Runs { own: 50, peer: 0, floor: 0 },
    touches: SET,
    takes: [ms(8_000), ms(0), ms(0), ms(20_000)],
    begin: above,
};

/// Not fast enough.
pub const BELOW: Case = Case {
    name: "limited-below",
    about: "flat-out-blackout's guest over 0.7 × its dirty rate; cancelled in pass 3",
    metrics: &[
        Metric::share("never switched", 100.0),
        Metric::share("said why", 100.0),
        Metric::share("cancelled, guest goes on", 100.0),
        Metric::reported("cancel took", "ms"),
    ],
    runs: Runs { own: 2, peer: 0, floor: 0 },
    touches: SET,
    takes: [ms(35_000), ms(0), ms(0), ms(30_000)],
    begin: below,
};

fn above<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    Ok(Box::new(Above(Limited::start(who, place)?)))
}

fn below<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    Ok(Box::new(Below(Limited::start(who, place)?)))
}

/// A guest of which it is known how fast it dirties memory.
struct Limited<'a> {
    traveller: Traveller<'a>,
    /// Bytes a second.
    dirty_rate: f64,
    /// A pass tells it that takes at least so long.
    telling: Duration,
    /// The slowest link, in bytes a second.
    slowest: u64,
    /// A link has shown by then that it is too slow.
    shown_by: Duration,
}

/// How fast the guest dirtied memory in the pass in which it did so fastest, in bytes a second. A pass that
/// took less than `telling` does not count.
fn dirty_rate(report: &Value, telling: Duration) -> Option<f64> {
    let rate = |pass: &Value| {
        let time = pass["duration_ns"].as_f64()? / 1e9;
        let tells = time >= telling.as_secs_f64();
        Some(pass["dirtied_pages"].as_f64()? * 4096.0 / time).filter(|_| tells)
    };
    let passes = report["passes"].as_array()?;
    passes.iter().filter_map(rate).max_by(f64::total_cmp).filter(|rate| *rate > 0.0)
}

/// Whether a prediction was good: within a fifth or 3 ms of the outcome.
fn holds(predicted: f64, outcome: f64) -> bool {
    (predicted - outcome).abs() <= (outcome / 5.0).max(3.0)
}

impl<'a> Limited<'a> {
    /// Learns the dirty rate from two moves: one whose bandwidth is not limited, which takes processors
    /// from the guest, and one over about the link that is to be, which is to end whatever it takes.
    /// It is learned once, from whichever shows more: in a pass that is longer than the guest needs
    /// for all that it writes, pages are written again, and the rate looks lower than it is. A link
    /// chosen by that makes the next passes longer still.
    fn start(who: Contender<'a>, place: &Place) -> Result<Self, BenchError> {
        let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
        let traveller = Traveller::start(peer, &spec(place))?;
        let telling = place.time(TELLING);
        let slowest = if place.is_tiny() { TRIAL } else { 0 };
        let shown_by = place.time(TOO_SLOW);
        let mut limited = Self { traveller, dirty_rate: 0.0, telling, slowest, shown_by };
        limited.learn(&Plan::default())?;
        let plan = Plan { bandwidth: limited.plan(1.5).bandwidth, ..Plan::within(60_000) };
        limited.learn(&plan)?;
        // A guest that others slowed down by then outruns a link that was chosen for that, and nobody waits for a trial.
        limited.traveller.patience = place.time(limited.traveller.patience);
        Ok(limited)
    }

    fn learn(&mut self, plan: &Plan) -> Result<(), BenchError> {
        let hop = self.traveller.hop(plan)?;
        let rate = dirty_rate(&hop.account.whole, self.telling).ok_or(BenchError::Answer {
            peer: self.traveller.peer().name(),
            command: "query-migrate",
            what: "a pass that tells how fast its guest dirties memory",
        })?;
        self.dirty_rate = self.dirty_rate.max(rate);
        Ok(())
    }

    /// The move over so many times the dirty rate.
    fn plan(&self, times: f64) -> Plan {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number of bytes, far below 2⁵²"
        )]
        let bandwidth = (self.dirty_rate * times) as u64;
        Plan { bandwidth: Some(bandwidth.max(self.slowest)), ..Plan::within(LIMIT) }
    }

    fn mib_per_second(&self) -> f64 {
        self.dirty_rate / f64::from(1 << 20)
    }
}

struct Above<'a>(Limited<'a>);

impl Course for Above<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let rate = self.0.mib_per_second();
        let plan = self.0.plan(1.5);
        let hop = match self.0.traveller.hop(&plan) {
            Ok(hop) => hop,
            Err(error @ BenchError::Move { .. }) => {
                // Given up: clean if the guest goes on where it was.
                let goes_on = self.0.traveller.at.talk.ask().is_ok();
                let all = figures([
                    ("kept or given up cleanly", whether(goes_on)),
                    ("given up", 1.0),
                    ("dirty rate", rate),
                ]);
                return Ok(vec![(all, json!({ "given up": error.to_string() }))]);
            }
            Err(error) => return Err(error),
        };
        let (blackout, own) = blackout(&hop)?;
        let limit = Duration::from_millis(LIMIT).as_secs_f64() * 1e3;
        let mut all = figures([
            ("kept or given up cleanly", whether(blackout <= limit)),
            ("given up", 0.0),
            ("blackout", blackout),
            ("dirty rate", rate),
            ("total", hop.total.as_secs_f64() * 1e3),
        ]);
        if let (Some(predicted), Some(own)) = (hop.account.predicted, own) {
            all.insert("prediction holds".into(), whether(holds(predicted, own)));
            all.insert("prediction off by".into(), (predicted - own).abs());
        }
        Ok(vec![(all, hop.detail())])
    }

    fn rest(&mut self) -> Result<(), BenchError> {
        self.0.traveller.at.stop()
    }

    fn wake(&mut self) -> Result<(), BenchError> {
        self.0.traveller.at.cont()
    }
}

struct Below<'a>(Limited<'a>);

impl Course for Below<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let plan = self.0.plan(0.7);
        let shown_by = self.0.shown_by;
        let (to, address) = self.0.traveller.destination(&plan)?;
        let at = &mut self.0.traveller.at;
        at.migrate(&address, &plan)?;
        let (ended, shown) = until_shown(at, shown_by)?;
        let why = shown["x-whimbrel-report"]["progress"]["note"].as_str().unwrap_or_default();
        let mut all = figures([
            ("never switched", whether(ended.is_none())),
            ("said why", whether(!why.is_empty())),
        ]);
        let mut detail = json!({ "ended": ended, "before the cancel": shown });
        if ended.is_none() {
            all.extend(cancelled(at, &mut detail)?);
        }
        drop(to);
        Ok(vec![(all, detail)])
    }
}

/// Waits until the move has ended, or has shown that it does not, but no longer than this; how it stands then.
fn until_shown(
    at: &mut Process<'_>,
    limit: Duration,
) -> Result<(Option<String>, Value), BenchError> {
    let begin = Instant::now();
    loop {
        let ended = at.motion_ended(LOOK)?;
        let info = at.motion()?;
        let third = info["ram"]["dirty-sync-count"].as_u64() >= Some(3);
        if ended.is_some() || third || begin.elapsed() >= limit {
            return Ok((ended, info));
        }
    }
}

/// Gives the move up; what is to be said of that.
fn cancelled(at: &mut Process<'_>, detail: &mut Value) -> Result<crate::raw::Figures, BenchError> {
    let begin = Instant::now();
    at.cancel()?;
    let ended = at.motion_ended(Duration::from_secs(10))?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    let info = at.ended_motion("cancelled")?;
    let goes_on = at.runs()? && at.talk.ask().is_ok();
    detail["after the cancel"] = info;
    let clean = ended.as_deref() == Some("cancelled") && goes_on;
    Ok(figures([("cancelled, guest goes on", whether(clean)), ("cancel took", took)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_or_three_milliseconds_is_a_good_prediction() {
        assert!(holds(1.0, 4.0) && holds(80.0, 100.0));
        assert!(!holds(0.9, 4.0) && !holds(79.0, 100.0) && !holds(121.0, 100.0));
    }

    #[test]
    fn the_dirty_rate_is_that_of_the_fastest_pass_that_tells() {
        let report = json!({ "passes": [
            { "dirtied_pages": 1024, "duration_ns": 4_000_000_000u64 },
            { "dirtied_pages": 1024, "duration_ns": 2_000_000_000u64 },
            { "dirtied_pages": 9, "duration_ns": 1 },
        ] });
        assert_eq!(dirty_rate(&report, TELLING), Some(2_097_152.0));
        assert_eq!(dirty_rate(&json!({ "passes": [] }), TELLING), None);
    }
}
