//! A fault as the guest sees it: it reads a page of each of many chunks, and looks at its clock before
//! and after. Beside the same guest over a bare handler that reads and copies the same bytes.

use super::{
    Case, Contender, Course, Goal, Metric, Outcome, Place, Reader, Runs, figures, ms, quiet,
};
use crate::BenchError;
use crate::inside::Inside;
use crate::peer::Spec;
use crate::place::make_cold;
use guest::report::Sample;
use serde_json::json;
use std::path::PathBuf;

const TOUCHED: u64 = 512 << 20;

/// The case.
pub const CASE: Case = Case {
    name: "restore-fault",
    about: "a page that is missing, by the guest's clock; 512 MiB touched, cold page cache",
    metrics: &[
        Metric { floor: Some(Goal::AtMost(1.3)), ..Metric::reported("median", "µs") },
        Metric { floor: Some(Goal::AtMost(1.3)), ..Metric::reported("p99", "µs") },
        Metric::reported("longest", "µs"),
    ],
    runs: Runs { own: 20, peer: 0, floor: 20 },
    touches: TOUCHED,
    takes: [ms(1_500), ms(0), ms(5_000), ms(10_000)],
    begin,
};

/// When it goes on it reads one page of each of 1024 chunks of 64 KiB, in a random order.
fn spec(place: &Place) -> Spec {
    let (touch, sample) = (place.bytes(TOUCHED), place.bytes(TOUCHED) / 128);
    let what = format!("touch={touch} rate=0 watch=1 wake=check sample={sample} stride=64K");
    Spec { memory: touch * 2, vcpus: 1, cmdline: quiet(&what) }
}

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let spec = spec(place);
    Ok(match who {
        Contender::Vmm(peer) => Box::new(Lazy(Reader::new(peer, place, spec, false)?)),
        Contender::Floor(peer) => {
            let file = place.file(peer, &spec)?;
            Box::new(Bare(Inside::new(place.folder())?, file))
        }
    })
}

fn outcome(sample: &Sample) -> Vec<Outcome> {
    let micros = |nanoseconds| crate::travel::millis(nanoseconds) * 1e3;
    let all = figures([
        ("median", micros(sample.median)),
        ("p99", micros(sample.p99)),
        ("longest", micros(sample.max)),
    ]);
    vec![(all, json!({ "guest": sample.to_string() }))]
}

struct Lazy<'a>(Reader<'a>);

impl Course for Lazy<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let mut process = self.0.restore()?;
        let (_, sample) = process.checked()?;
        process.all_in()?;
        let whole = process.account()?.whole;
        let mut all = outcome(&sample);
        all.iter_mut().for_each(|(_, detail)| detail["vmm"] = whole["restore"].clone());
        Ok(all)
    }
}

struct Bare(Inside, PathBuf);

impl Course for Bare {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        make_cold(&self.1)?;
        Ok(outcome(&self.0.bare(&self.1)?))
    }
}
