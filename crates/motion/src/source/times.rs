//! The moments of a blackout, and where its time went.

use crate::clock::{Moment, nanos};
use crate::report::{Stage, StageName};
use std::time::Duration;
use wire::Message;

/// The moments of a blackout, by the source's clock, and what the destination says of its part.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) stop: Moment,
    pub(super) paused: Moment,
    pub(super) pages: Moment,
    pub(super) saved: Moment,
    /// RAM is kept as it was, for a copy of the beginning.
    pub(super) kept: Option<Moment>,
    pub(super) ready: Moment,
    pub(super) committed: Moment,
    pub(super) running: Moment,
    restore_ns: u64,
    start_ns: u64,
    held_ns: u64,
    pub(super) predicted: Duration,
    pub(super) bytes_before: u64,
    pub(super) data_before: u64,
    /// Waiting in [`super::Phase::PreSwitchover`] is no part of what was promised.
    pub(super) waited: Duration,
    pub(super) begun: bool,
    /// That the guest was stopped has been told.
    pub(super) told: bool,
}

impl Times {
    /// Notes the times that a message of the handover brings.
    pub(super) fn heard(&mut self, message: &Message, now: Moment) {
        match message {
            Message::Ready(ready) => {
                self.ready = now;
                self.restore_ns = ready.restore;
            }
            Message::Running(running) => {
                self.running = now;
                self.start_ns = running.start;
                self.held_ns = running.held;
            }
            _ => {}
        }
    }

    /// The guest goes on here: it was let go between these moments.
    pub(super) fn went_on(&mut self, from: Moment, to: Moment) {
        (self.ready, self.committed, self.running) = (from, from, to);
        self.start_ns = between(from, to);
        self.held_ns = self.start_ns;
    }

    /// Whether a guest that was stopped for its copy runs again.
    pub(super) fn has_gone_on(&self) -> bool {
        self.begun && self.running != Moment::default()
    }

    /// How long the guest has been stopped.
    pub(super) fn so_far(&self, now: Moment) -> Duration {
        now.since(self.stop)
    }

    /// The blackout, in nanoseconds: from the word to stop to the destination's vCPUs running.
    pub(super) fn blackout_ns(&self) -> u64 {
        between(self.stop, self.committed) + self.way_there_ns() + self.start_ns()
    }

    /// The true blackout is within so many nanoseconds of [`Self::blackout_ns`].
    pub(super) fn uncertainty_ns(&self) -> u64 {
        self.ways_ns() - self.way_there_ns()
    }

    /// Where the time went. The moments follow one another without a gap, so this is all of it.
    pub(super) fn stages(&self) -> Vec<Stage> {
        let kept = self.kept.unwrap_or(self.saved);
        let away = between(kept, self.ready);
        // No more than it can have been, whatever the destination says.
        let restore = self.restore_ns.min(away);
        let last = between(self.paused, self.pages);
        let waited = nanos(self.waited).min(last);
        let stage = |name, ns| Stage { name, ns };
        vec![
            stage(StageName::Pause, between(self.stop, self.paused)),
            stage(StageName::Waiting, waited),
            stage(StageName::LastPages, last - waited),
            stage(StageName::Save, between(self.pages, self.saved)),
            stage(StageName::Protect, between(self.saved, kept)),
            stage(StageName::Transfer, away - restore),
            stage(StageName::Restore, restore),
            stage(StageName::Commit, between(self.ready, self.committed)),
            stage(StageName::Answer, self.way_there_ns()),
            stage(StageName::Start, self.start_ns()),
        ]
    }

    /// What the destination says that its start took; no more than it can have been.
    fn start_ns(&self) -> u64 {
        self.start_ns.min(self.held_ns())
    }

    /// What the destination says that it took to answer; no more than it can have been.
    fn held_ns(&self) -> u64 {
        self.held_ns.min(between(self.committed, self.running))
    }

    /// COMMIT's way there and RUNNING's way back.
    fn ways_ns(&self) -> u64 {
        between(self.committed, self.running) - self.held_ns()
    }

    /// COMMIT's way there belongs to the blackout, RUNNING's way back does not.
    fn way_there_ns(&self) -> u64 {
        self.ways_ns() / 2
    }
}

fn between(from: Moment, to: Moment) -> u64 {
    nanos(to.since(from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(times: &Times) -> u64 {
        times.stages().iter().map(|stage| stage.ns).sum()
    }

    proptest! {
        #[test]
        fn the_stages_are_the_whole_blackout_whatever_the_destination_says(
            begun in 0u64..1 << 60,
            steps in proptest::array::uniform6(0u64..1 << 40),
            waited in 0u64..1 << 40,
            restore in any::<u64>(),
            start in any::<u64>(),
            held in any::<u64>(),
        ) {
            let mut now = begun;
            let mut next = |step: u64| { now += step; Moment(now) };
            let [paused, pages, saved, ready, committed, running] = steps;
            let mut times = Times {
                stop: Moment(begun),
                paused: next(paused),
                pages: next(pages),
                saved: next(saved),
                waited: Duration::from_nanos(waited.min(pages)),
                ..Times::default()
            };
            times.heard(&Message::Ready(wire::Ready { token: [0; 16], restore }), next(ready));
            times.committed = next(committed);
            times.heard(&Message::Running(wire::Running { token: [0; 16], start, held }), next(running));
            prop_assert_eq!(sum(&times), times.blackout_ns());
            // It ended before RUNNING came, and the doubt is about nothing else.
            prop_assert!(times.blackout_ns() + times.uncertainty_ns() <= now - begun);
        }
    }
}
