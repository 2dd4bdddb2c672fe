//! What a guest pays after a move was cancelled: pages that are still write-protected cost a fault
//! each.

use super::{Case, Contender, Course, Metric, Outcome, Place, Runs, figures, ms, quiet};
use crate::BenchError;
use crate::peer::{Plan, Spec};
use crate::travel::{Traveller, pace};
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};

/// What the guest rewrites, in bytes.
const SET: u64 = 512 << 20;
/// A link that a guest which writes flat out outruns anywhere.
const BANDWIDTH: u64 = 48 << 20;
/// How long the move goes on before it is given up: the guest has met most of its pages by then.
const MOVING: Duration = Duration::from_secs(4);
/// For how long the guest is watched afterwards.
const WATCHED: Duration = Duration::from_secs(8);
/// Between two looks.
const STEP: Duration = Duration::from_millis(250);
/// A guest is as fast as before when it writes three quarters of what it did: a host that others use,
/// too, does not give it the same share of a processor all the time.
const AS_BEFORE: f64 = 0.75;

/// The case.
pub const CASE: Case = Case {
    name: "after-cancel",
    about: "1 GiB, 512 MiB rewritten flat out, move cancelled after 4 s: what it still costs",
    metrics: &[
        Metric::reported("slowed for", "s"),
        Metric::reported("work lost", "s"),
        Metric::reported("pages still protected", "pages"),
    ],
    runs: Runs { own: 4, peer: 3, floor: 0 },
    touches: SET,
    takes: [ms(15_000), ms(15_000), ms(0), ms(15_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    let cmdline = quiet(&format!("ws={} rate=max", place.bytes(SET)));
    let spec = Spec { memory: place.bytes(2 * SET), vcpus: 1, cmdline };
    Ok(Box::new(Cancel { traveller: Traveller::start(peer, &spec)?, place }))
}

struct Cancel<'a> {
    traveller: Traveller<'a>,
    place: &'a Place,
}

impl Course for Cancel<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        self.traveller.settle()?;
        let [second, moving, watched] =
            [Duration::from_secs(1), MOVING, WATCHED].map(|time| self.place.time(time));
        let before = self.traveller.pace(second)?;
        let plan = Plan { bandwidth: Some(BANDWIDTH), ..Plan::within(1) };
        let (to, address) = self.traveller.destination(&plan)?;
        let peer = self.traveller.peer().name();
        let at = &mut self.traveller.at;
        at.migrate(&address, &plan)?;
        if let Some(status) = at.motion_ended(moving)? {
            let why = "it was to be cancelled before it ends".to_owned();
            return Err(BenchError::Move { peer, status, why });
        }
        at.cancel()?;
        at.motion_ended(Duration::from_secs(10))?;
        let info = at.ended_motion("cancelled")?;
        drop(to);

        let begin = Instant::now();
        let mut last = at.talk.ask()?;
        let (mut slowed, mut lost, mut course) = (Duration::ZERO, 0.0, Vec::new());
        while begin.elapsed() < watched {
            thread::sleep(STEP);
            let said = at.talk.ask()?;
            let share = pace(&last, &said) / before.max(1.0);
            lost += (1.0 - share).max(0.0) * seconds(said.work.t.saturating_sub(last.work.t));
            if share < AS_BEFORE {
                slowed = begin.elapsed();
            }
            course.push((share * 1e3).round() / 1e3);
            last = said;
        }
        let mut all = figures([("slowed for", slowed.as_secs_f64()), ("work lost", lost)]);
        let report = self.traveller.peer().account(info).whole;
        if let Some(pages) = report["still_protected_pages"].as_f64() {
            all.insert("pages still protected".into(), pages);
        }
        Ok(vec![(
            all,
            json!({ "pages_per_second": before, "pace over that, each 250 ms": course }),
        )])
    }

    fn rest(&mut self) -> Result<(), BenchError> {
        self.traveller.at.stop()
    }

    fn wake(&mut self) -> Result<(), BenchError> {
        self.traveller.at.cont()
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    crate::travel::millis(nanoseconds) / 1e3
}
