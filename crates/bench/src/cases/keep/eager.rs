//! All of 2 GiB read from a file before the guest runs: beside the lesser of what storage can do and
//! how fast fresh memory can be had.

use super::guests::{FULL, full};
use super::{
    Case, Contender, Course, GIB, Goal, Metric, Outcome, Place, Rated, Reader, Runs, figures,
    millis, ms,
};
use crate::BenchError;
use crate::fio::{self, Work};
use crate::inside::populate;
use crate::place::make_cold;
use serde_json::json;
use std::path::PathBuf;

/// The case.
pub const CASE: Case = Case {
    name: "restore-eager",
    about: "process start → first word of save-rate's guest, all read before, cold page cache",
    metrics: &[
        Metric { floor: Some(Goal::AtLeast(0.85)), ..Metric::reported("rate", "GiB/s") },
        Metric::reported("first word", "ms"),
        Metric::reported("storage alone", "GiB/s"),
        Metric::reported("populating memory alone", "GiB/s"),
    ],
    runs: Runs { own: 10, peer: 5, floor: 6 },
    touches: FULL,
    takes: [ms(3_000), ms(4_000), ms(30_000), ms(60_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let spec = full(place);
    Ok(match who {
        Contender::Vmm(peer) => {
            Box::new(Eager(Reader::eager(peer, place, spec)?, place.bytes(FULL)))
        }
        Contender::Floor(peer) => {
            let file = place.file(peer, &spec)?;
            Box::new(Floor { file, place })
        }
    })
}

struct Eager<'a>(Reader<'a>, u64);

impl Course for Eager<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let mut process = self.0.restore()?;
        let first = process.first_word()?;
        let whole = process.account()?.whole;
        let rated = Rated { bytes: self.1, seconds: first.as_secs_f64() };
        let all = figures([("rate", rated.gib_per_second()), ("first word", millis(first))]);
        Ok(vec![(all, json!({ "way": self.0.way.name, "vmm": whole }))])
    }
}

struct Floor<'a> {
    file: PathBuf,
    place: &'a Place,
}

impl Course for Floor<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        make_cold(&self.file)?;
        let bytes = self.place.bytes(FULL);
        let name = self.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Past the header, to where the guest's memory is.
        let work = Work::Read { from: 8 << 20 };
        let storage = fio::measure(self.place.folder(), name, work, bytes)?;
        let memory = populate(bytes)? / GIB;
        let read = storage.bytes / GIB;
        let all = figures([
            ("rate", read.min(memory)),
            ("storage alone", read),
            ("populating memory alone", memory),
        ]);
        Ok(vec![(all, json!({ "by": storage.by }))])
    }
}
