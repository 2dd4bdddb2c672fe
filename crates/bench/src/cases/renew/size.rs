//! 8 GiB against 1 GiB, 90 % of both touched: nothing in the pause is to grow with RAM.

use super::moves::idle::blackout;
use super::{
    Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, idle_guest, ms, touched,
};
use crate::BenchError;
use crate::travel::Traveller;
use serde_json::json;

const LARGE: u64 = 8 << 30;
const SMALL: u64 = 1 << 30;

/// The case.
pub const CASE: Case = Case {
    name: "renew-size",
    about: "new process; 8 GiB ÷ 1 GiB, 90 % of both touched, now idle; 1 vCPU",
    metrics: &[
        Metric { itself: Some(Goal::AtMost(1.2)), ..Metric::reported("ratio", "×") },
        Metric { peer: Some(Goal::AtMost(0.2)), ..Metric::reported("blackout, 8 GiB", "ms") },
        Metric::reported("blackout, 1 GiB", "ms"),
        Metric::reported("total, 8 GiB", "ms"),
    ],
    runs: Runs { own: 20, peer: 10, floor: 0 },
    touches: touched(LARGE) + touched(SMALL),
    takes: [ms(5_000), ms(4_000), ms(0), ms(200_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    let start = |memory| {
        let spec = idle_guest(place.bytes(memory), 1, place.bytes(touched(memory)));
        let mut traveller = Traveller::start(peer, &spec)?;
        traveller.at.stop()?;
        Ok::<_, BenchError>(traveller)
    };
    Ok(Box::new(Size { large: start(LARGE)?, small: start(SMALL)? }))
}

/// Both guests are stopped but when it is their turn.
struct Size<'a> {
    large: Traveller<'a>,
    small: Traveller<'a>,
}

impl Course for Size<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let hop = |traveller: &mut Traveller<'_>| {
            traveller.at.cont()?;
            let hop = traveller.renew()?;
            traveller.at.stop()?;
            Ok::<_, BenchError>((blackout(&hop)?.0, hop))
        };
        let (large, of_large) = hop(&mut self.large)?;
        let (small, of_small) = hop(&mut self.small)?;
        let all = figures([
            ("ratio", large / small.max(1e-9)),
            ("blackout, 8 GiB", large),
            ("blackout, 1 GiB", small),
            ("total, 8 GiB", of_large.total.as_secs_f64() * 1e3),
        ]);
        Ok(vec![(all, json!({ "large": of_large.detail(), "small": of_small.detail() }))])
    }
}
