//! 2 GiB, 900 MiB of it rewritten as fast as the guest can: the blackout, what comes before it, and the
//! second after it.

use super::moves::flat_out;
use super::moves::idle::blackout;
use super::{Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, ms, seconds};
use crate::BenchError;
use crate::peer::Spec;
use crate::travel::{Traveller, millis, pace};
use std::time::Duration;

/// The case.
pub const CASE: Case = Case {
    name: "renew-flat-out",
    about: "new process; 2 GiB, 900 MiB rewritten flat out, watched 1 s longer; 1 vCPU",
    metrics: &[
        Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("blackout", "ms") },
        Metric::reported("engine's own figure", "ms"),
        Metric {
            peer: Some(Goal::AtMost(1.0)),
            ..Metric::reported("longest stall, 1 s after", "ms")
        },
        Metric { peer: Some(Goal::AtMost(1.0)), ..Metric::reported("work lost, 1 s after", "s") },
        Metric::reported("longest stall", "ms"),
        Metric::reported("work lost", "s"),
        Metric::reported("total", "ms"),
    ],
    runs: Runs { own: 20, peer: 10, floor: 0 },
    touches: 900 << 20,
    takes: [ms(6_000), ms(6_000), ms(0), ms(30_000)],
    begin,
};

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    let Spec { memory, vcpus, cmdline } = flat_out::spec(place);
    let spec = Spec { memory, vcpus, cmdline: format!("{cmdline} wake=tell") };
    Ok(Box::new(FlatOut(Traveller::start(peer, &spec)?)))
}

struct FlatOut<'a>(Traveller<'a>);

impl Course for FlatOut<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        self.0.settle()?;
        // Longer than it takes until the guest has told of the pause in which it rested.
        let undisturbed = self.0.pace(Duration::from_secs(1))?.max(1.0);
        let (hop, pause) = self.0.renew_and_watch()?;
        let (blackout, own) = blackout(&hop)?;
        // Of so many seconds, in which so much was done of what is done otherwise.
        let lost = |watched: f64, share: f64| (1.0 - share).max(0.0) * watched;
        let after = seconds(pause.after);
        #[expect(clippy::cast_precision_loss, reason = "pages are far below 2⁵²")]
        let done = pause.pages as f64 / after.max(1e-9) / undisturbed;
        let watched = seconds(hop.after.work.t.saturating_sub(hop.before.work.t));
        let mut all = figures([
            ("blackout", blackout),
            ("longest stall, 1 s after", millis(pause.longest)),
            ("work lost, 1 s after", lost(after, done)),
            ("longest stall", millis(hop.after.clock.other)),
            ("work lost", lost(watched, pace(&hop.before, &hop.after) / undisturbed)),
            ("total", hop.total.as_secs_f64() * 1e3),
        ]);
        all.extend(own.map(|own| ("engine's own figure".to_owned(), own)));
        let mut detail = hop.detail();
        detail["pause"] = pause.to_string().into();
        Ok(vec![(all, detail)])
    }

    fn rest(&mut self) -> Result<(), BenchError> {
        self.0.at.stop()
    }

    fn wake(&mut self) -> Result<(), BenchError> {
        self.0.at.cont()
    }
}
