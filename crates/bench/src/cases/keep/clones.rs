//! Many copies of one guest that run on the pages of its file: how soon all speak, and what a further
//! one takes of the host's memory.

use super::guests::sparse;
use super::{Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, millis, ms};
use crate::BenchError;
use crate::peer::{Peer, Process, Spec, Way};
use crate::place::make_warm;
use crate::procfs::memory;
use serde_json::Value;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const COPIES: usize = 20;
const VERIFIED: Way = Way { arguments: &["clone"], ..Way::called("mmap") };
const TRUSTED: Way = Way { arguments: &["clone", "no-verify"], ..Way::called("mmap") };

/// The case.
pub const CASE: Case = Case {
    name: "restore-clones",
    about: "20 copies of a 256 MiB guest, 64 MiB touched, --mmap; warm page cache",
    metrics: &[
        Metric::reported("all have spoken", "ms"),
        Metric::reported("the same, --no-verify", "ms"),
        Metric {
            itself: Some(Goal::AtMost(6.0)),
            ..Metric::reported("PSS of a further copy", "MiB")
        },
        Metric::reported("PSS of the first", "MiB"),
    ],
    runs: Runs { own: 5, peer: 0, floor: 0 },
    touches: 128 << 20,
    takes: [ms(12_000), ms(0), ms(0), ms(8_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    let spec = sparse(place, 256 << 20);
    Ok(Box::new(Clones {
        peer,
        file: place.file(peer, &spec)?,
        spec,
        run: tempfile::tempdir().map_err(BenchError::io("cannot make a folder"))?,
    }))
}

struct Clones<'a> {
    peer: &'a dyn Peer,
    spec: Spec,
    file: PathBuf,
    run: TempDir,
}

impl<'a> Clones<'a> {
    /// Starts one, and waits for its guest's first word.
    fn start(&self, number: usize, way: &Way) -> Result<Process<'a>, BenchError> {
        let name = format!("c{number}");
        let (peer, run) = (self.peer, self.run.path());
        let mut process = Process::restore(peer, run, &name, &self.spec, &self.file, way)?;
        process.first_word()?;
        Ok(process)
    }

    /// Starts all, at once, and waits until each has spoken.
    fn all(
        &self,
        numbers: std::ops::Range<usize>,
        way: &Way,
    ) -> Result<Vec<Process<'a>>, BenchError> {
        thread::scope(|scope| {
            let start = |number| scope.spawn(move || self.start(number, way));
            let all: Vec<_> = numbers.map(start).collect();
            all.into_iter()
                .map(|thread| match thread.join() {
                    Ok(result) => result,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect()
        })
    }

    fn time_of_all(&self, way: &Way) -> Result<Duration, BenchError> {
        let begun = Instant::now();
        let all = self.all(0..COPIES, way)?;
        let took = begun.elapsed();
        drop(all);
        Ok(took)
    }
}

/// Memory of these processes by their share of it, with what they share of the file, in MiB.
fn mib(processes: &[Process<'_>]) -> Result<f64, BenchError> {
    // Nothing is called that.
    let each = processes.iter().map(|process| memory(process.pid(), "\0"));
    #[expect(clippy::cast_precision_loss, reason = "processes are far smaller than 2⁵² bytes")]
    Ok(each.sum::<Result<u64, BenchError>>()? as f64 / f64::from(1 << 20))
}

impl Course for Clones<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        make_warm(&self.file)?;
        let verified = self.time_of_all(&VERIFIED)?;
        let trusted = self.time_of_all(&TRUSTED)?;
        let mut all = self.all(0..1, &VERIFIED)?;
        let first = mib(&all)?;
        all.extend(self.all(1..COPIES, &VERIFIED)?);
        #[expect(clippy::cast_precision_loss, reason = "a few copies")]
        let further = (mib(&all)? - first) / (COPIES - 1) as f64;
        let all = figures([
            ("all have spoken", millis(verified)),
            ("the same, --no-verify", millis(trusted)),
            ("PSS of a further copy", further),
            ("PSS of the first", first),
        ]);
        Ok(vec![(all, Value::Null)])
    }
}
