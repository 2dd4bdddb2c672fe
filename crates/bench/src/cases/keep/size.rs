//! 8 GiB against 256 MiB with the same touched: the first word does not come later for memory that was
//! never used, but for what KVM itself needs for it.

use super::guests::sparse;
use super::{
    Case, Contender, Course, Goal, Metric, Outcome, Place, Reader, Runs, figures, millis, ms,
};
use crate::BenchError;
use crate::inside::Inside;
use crate::peer::LAZY;
use serde_json::Value;
use std::time::Duration;

const LARGE: u64 = 8 << 30;
const SMALL: u64 = 256 << 20;

/// The case.
pub const CASE: Case = Case {
    name: "restore-size",
    about: "first word of a lazy restore, 8 GiB ÷ 256 MiB, 64 MiB touched in both; warm",
    metrics: &[
        Metric { itself: Some(Goal::AtMost(1.2)), ..Metric::reported("ratio less slots", "×") },
        Metric::reported("first word, 8 GiB", "ms"),
        Metric::reported("first word, 256 MiB", "ms"),
        Metric::reported("memory slots, 8 GiB", "ms"),
        Metric::reported("memory slots, 256 MiB", "ms"),
    ],
    runs: Runs { own: 20, peer: 4, floor: 0 },
    touches: 128 << 20,
    takes: [ms(1_000), ms(4_000), ms(0), ms(20_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    Ok(Box::new(Size {
        large: Reader::new(peer, place, sparse(place, LARGE), true)?,
        small: Reader::new(peer, place, sparse(place, SMALL), true)?,
        inside: Inside::new(place.folder())?,
        own: peer.readings().contains(&LAZY),
        place,
    }))
}

struct Size<'a> {
    large: Reader<'a>,
    small: Reader<'a>,
    inside: Inside,
    own: bool,
    place: &'a Place,
}

impl Course for Size<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let large = self.large.restore()?.first_word()?;
        let small = self.small.restore()?.first_word()?;
        let slots = |memory| self.inside.least_slots(self.place.bytes(memory));
        let (large_slots, small_slots) = (slots(LARGE)?, slots(SMALL)?);
        let left = |word: Duration, slots| word.saturating_sub(slots).as_secs_f64();
        let mut all = figures([
            ("ratio less slots", left(large, large_slots) / left(small, small_slots).max(1e-9)),
            ("first word, 8 GiB", millis(large)),
            ("first word, 256 MiB", millis(small)),
        ]);
        // The other's are the same: it is the kernel that takes so long.
        if self.own {
            all.insert("memory slots, 8 GiB".into(), millis(large_slots));
            all.insert("memory slots, 256 MiB".into(), millis(small_slots));
        }
        Ok(vec![(all, Value::Null)])
    }
}
