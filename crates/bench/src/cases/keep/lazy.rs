//! A guest that runs while its memory comes: how soon it speaks, how soon it has read what it needs,
//! and how soon all is there.

use super::guests::{FULL, full, half};
use super::{
    Case, Contender, Course, Goal, Metric, Outcome, Place, Reader, Runs, figures, millis, ms,
};
use crate::BenchError;
use serde_json::json;

const FIRST: Metric = Metric::reported("first word", "ms");
const CHECKED: Metric = Metric::reported("64 MiB checked", "ms");

/// With the file in the page cache.
pub const WARM: Case = Case {
    name: "restore-lazy-warm",
    about: "process start → first word → 64 MiB read; 1 GiB, 512 MiB touched, warm page cache",
    metrics: &[
        Metric { peer: Some(Goal::AtMost(0.1)), ..FIRST },
        CHECKED,
        Metric::reported("VMM: command to guest", "ms"),
    ],
    runs: Runs { own: 20, peer: 8, floor: 0 },
    touches: 512 << 20,
    takes: [ms(1_500), ms(3_000), ms(0), ms(40_000)],
    begin: |who, place| begin(who, place, true),
};

/// With the file on disk alone.
pub const COLD: Case = Case {
    name: "restore-lazy-cold",
    about: "the same with a cold page cache",
    begin: |who, place| begin(who, place, false),
    metrics: &[FIRST, CHECKED, Metric::reported("VMM: command to guest", "ms")],
    ..WARM
};

/// All of it.
pub const ALL_IN: Case = Case {
    name: "restore-all-in",
    about: "process start → all of 2 GiB there while the guest reads at random; floor: eager",
    metrics: &[
        Metric { floor: Some(Goal::AtMost(1.3)), ..Metric::reported("all in", "ms") },
        FIRST,
        Metric::reported("guest waited", "ms"),
    ],
    runs: Runs { own: 10, peer: 0, floor: 10 },
    touches: FULL,
    takes: [ms(5_000), ms(0), ms(3_000), ms(40_000)],
    begin: all_in,
};

fn begin<'a>(
    who: Contender<'a>,
    place: &'a Place,
    warm: bool,
) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    Ok(Box::new(Lazy(Reader::new(peer, place, half(place), warm)?)))
}

struct Lazy<'a>(Reader<'a>);

impl Course for Lazy<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let mut process = self.0.restore()?;
        let first = process.first_word()?;
        let (checked, sample) = process.checked()?;
        process.all_in()?;
        let whole = process.account()?.whole;
        let mut all = figures([("first word", millis(first)), ("64 MiB checked", millis(checked))]);
        if let Some(own) = whole["restore"]["first_instruction_ns"].as_f64() {
            all.insert("VMM: command to guest".into(), own / 1e6);
        }
        let detail = json!({ "way": self.0.way.name, "guest": sample.to_string(), "vmm": whole });
        Ok(vec![(all, detail)])
    }
}

fn all_in<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let spec = full(place);
    Ok(Box::new(match who {
        Contender::Vmm(peer) => AllIn(Reader::new(peer, place, spec, false)?),
        Contender::Floor(peer) => AllIn(Reader::eager(peer, place, spec)?),
    }))
}

struct AllIn<'a>(Reader<'a>);

impl Course for AllIn<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let mut process = self.0.restore()?;
        let all_in = process.all_in()?;
        let first = process.first_word()?;
        let whole = process.account()?.whole;
        let mut all = figures([("all in", millis(all_in)), ("first word", millis(first))]);
        if let Some(waits) = whole["restore"]["fill"]["waits"].as_array() {
            let waited: f64 = waits.iter().filter_map(|waits| waits["ns"].as_f64()).sum();
            all.insert("guest waited".into(), waited / 1e6);
        }
        Ok(vec![(all, json!({ "way": self.0.way.name, "vmm": whole }))])
    }
}
