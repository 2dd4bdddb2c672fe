//! How soon a new machine's guest executes its first instruction, and what the VMM needs for itself.
//!
//! The guest's first byte on the console is when it has started, less the time since its first look
//! at the clock, which it states itself; that look is among the first things that it does in ring 3,
//! so the figure is an upper bound.

use super::{Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, ms, quiet};
use crate::BenchError;
use crate::peer::{Peer, Process, Spec};
use crate::procfs::memory;
use crate::travel::millis;
use serde_json::Value;
use std::thread;
use std::time::Duration;

/// The case.
pub const CASE: Case = Case {
    name: "start-up",
    about: "process start to first guest instruction, 1 GiB; the VMM's own memory",
    metrics: &[
        Metric {
            itself: Some(Goal::AtMost(10.0)),
            ..Metric::reported("to first instruction", "ms")
        },
        Metric::reported("to first console byte", "ms"),
        Metric { itself: Some(Goal::AtMost(12.0)), ..Metric::reported("VMM's own PSS", "MiB") },
    ],
    runs: Runs { own: 20, peer: 10, floor: 0 },
    touches: 0,
    takes: [ms(600), ms(900), ms(0), ms(0)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    Ok(Box::new(StartUp { peer, memory: place.bytes(1 << 30) }))
}

struct StartUp<'a> {
    peer: &'a dyn Peer,
    memory: u64,
}

impl Course for StartUp<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let place = tempfile::tempdir().map_err(BenchError::io("cannot make a folder"))?;
        let spec = Spec { memory: self.memory, vcpus: 1, cmdline: quiet("rate=0 watch=1") };
        let process = Process::start(self.peer, place.path(), "m0", &spec, false)?;
        let (at, hello) = process.talk.hello()?;
        let byte = (at - process.started).as_secs_f64() * 1e3;
        // What only the start needed is given back by then.
        thread::sleep(Duration::from_millis(200));
        #[expect(clippy::cast_precision_loss, reason = "a process is far smaller than 2⁵² bytes")]
        let own = memory(process.pid(), self.peer.ram())? as f64 / f64::from(1 << 20);
        let all = figures([
            ("to first instruction", byte - millis(hello.t)),
            ("to first console byte", byte),
            ("VMM's own PSS", own),
        ]);
        Ok(vec![(all, Value::Null)])
    }
}
