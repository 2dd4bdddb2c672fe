//! When to stop the guest.
//!
//! Passes go on while they pay. The guest is stopped when another pass would gain little, or there
//! is little left to gain, and the predicted blackout is within what was promised; never above.

use crate::Blackout;
use crate::clock::nanos;
use memory::PAGE_SIZE;
use std::num::NonZeroU64;
use std::time::Duration;

/// What a blackout costs apart from pages: learned from the destination's rehearsal, from this
/// source's own steps and from round trips, as the motion goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateCost {
    /// Stopping the guest and collecting the last dirty pages.
    pub stop: Duration,
    /// Saving the state.
    pub save: Duration,
    /// Loading it.
    pub restore: Duration,
    /// One round trip. State and READY take one, COMMIT and RUNNING another.
    pub round_trip: Duration,
}

impl StateCost {
    /// The blackout of a guest that has no dirty page.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.stop + self.save + self.restore + self.round_trip * 2
    }
}

/// What is known after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AfterPass {
    /// Bytes that the pass sent.
    pub bytes: u64,
    /// From its first page until all were in the destination's RAM.
    pub duration: Duration,
    /// Pages that were written since.
    pub dirty: u64,
}

/// What to do after a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Stop the guest now.
    Switch {
        /// The blackout that is expected.
        predicted: Duration,
        /// Why now.
        why: String,
    },
    /// Another pass.
    Continue {
        /// What the blackout would be now.
        predicted: Duration,
        /// Why not yet.
        why: String,
        /// Passes no longer bring the blackout down, and it is above the promise.
        stuck: bool,
    },
}

/// Decides, pass by pass.
#[derive(Debug, Clone)]
pub struct Switch {
    blackout: Blackout,
    bandwidth: Option<NonZeroU64>,
    rate: Option<f64>,
    last: Option<Duration>,
    small_gains: u32,
}

impl Switch {
    /// A pass that gains less than this part of the predicted blackout hardly pays.
    const SMALL_GAIN: f64 = 0.1;
    /// So many of them in a row, and passes no longer pay.
    const SMALL_GAINS: u32 = 2;
    /// Within this factor of what state alone costs there is little left to gain.
    const NEAR: f64 = 1.2;
    /// A pass of fewer bytes says little about the rate of the link.
    const TELLING: u64 = 1 << 20;
    /// Taken for the rate, in bytes per second, before any pass was large enough to tell.
    const ASSUMED_RATE: f64 = 100e6;

    /// Keeps `blackout`; `bandwidth`, in bytes per second, is what predictions take as the rate of
    /// the last pages instead of the rate of the passes.
    #[must_use]
    pub fn new(blackout: Blackout, bandwidth: Option<NonZeroU64>) -> Self {
        Self { blackout, bandwidth, rate: None, last: None, small_gains: 0 }
    }

    /// Keeps another promise from now on.
    pub fn set_blackout(&mut self, blackout: Blackout) {
        self.blackout = blackout;
    }

    /// Predicts with this rate of the last pages, in bytes per second, from now on, or with that of the
    /// passes.
    pub fn set_bandwidth(&mut self, bandwidth: Option<NonZeroU64>) {
        self.bandwidth = bandwidth;
    }

    /// The promise.
    #[must_use]
    pub fn blackout(&self) -> Blackout {
        self.blackout
    }

    /// The rate of the link, in bytes per second, as far as it is known; no more than `limit`.
    #[must_use]
    pub fn rate(&self, limit: Option<NonZeroU64>) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
        let exact = |rate: NonZeroU64| rate.get() as f64;
        let rate = self.bandwidth.map_or(self.rate.unwrap_or(Self::ASSUMED_RATE), exact);
        limit.map_or(rate, |limit| rate.min(exact(limit)))
    }

    /// The blackout if the guest were stopped with so many dirty pages.
    #[must_use]
    pub fn predict(&self, dirty: u64, cost: StateCost, limit: Option<NonZeroU64>) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a prediction is no exact number")]
        let seconds = (dirty * PAGE_SIZE) as f64 / self.rate(limit);
        cost.total() + Duration::from_secs_f64(seconds.min(1e9))
    }

    /// Decides after a pass.
    pub fn after_pass(
        &mut self,
        pass: AfterPass,
        cost: StateCost,
        limit: Option<NonZeroU64>,
    ) -> Decision {
        if pass.bytes >= Self::TELLING || self.rate.is_none() && pass.bytes > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
            let rate = pass.bytes as f64 / pass.duration.as_secs_f64().max(1e-6);
            self.rate = Some(rate);
        }
        let predicted = self.predict(pass.dirty, cost, limit);
        let small = self.last.replace(predicted).is_some_and(|last| {
            let gain = last.as_secs_f64() - predicted.as_secs_f64();
            gain < Self::SMALL_GAIN * predicted.as_secs_f64()
        });
        self.small_gains = if small { self.small_gains + 1 } else { 0 };
        let settled = self.small_gains >= Self::SMALL_GAINS;
        let near = predicted <= cost.total().mul_f64(Self::NEAR);
        let within = match self.blackout {
            Blackout::Unlimited => true,
            Blackout::Limit(most) => predicted <= most,
        };
        let (said, most) = (show(predicted), show_limit(self.blackout));
        match (within, near, settled) {
            (true, true, _) => Decision::Switch {
                predicted,
                why: format!("hardly more than the state is left ({said})"),
            },
            (true, false, true) => Decision::Switch {
                predicted,
                why: format!("passes gained less than a tenth twice in a row ({said})"),
            },
            (true, false, false) => Decision::Continue {
                predicted,
                why: format!("passes still bring the blackout down (now {said})"),
                stuck: false,
            },
            (false, _, true) => Decision::Continue {
                predicted,
                why: format!(
                    "not converging: the guest writes {} pages during a pass, the blackout would \
                     be {said} and {most} are promised",
                    pass.dirty
                ),
                stuck: true,
            },
            (false, _, false) => Decision::Continue {
                predicted,
                why: format!("the blackout would be {said} and {most} are promised"),
                stuck: false,
            },
        }
    }
}

/// A duration as people read it.
pub(crate) fn show(duration: Duration) -> String {
    let ns = nanos(duration);
    match ns {
        0..1_000_000 => format!("{} µs", ns / 1000),
        1_000_000..10_000_000_000 => {
            format!("{}.{} ms", ns / 1_000_000, ns % 1_000_000 / 100_000)
        }
        _ => format!("{} s", ns / 1_000_000_000),
    }
}

/// A promise as people read it.
pub(crate) fn show_limit(blackout: Blackout) -> String {
    match blackout {
        Blackout::Unlimited => "any length".to_owned(),
        Blackout::Limit(most) => format!("at most {}", show(most)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COST: StateCost = StateCost {
        stop: Duration::from_micros(100),
        save: Duration::from_micros(100),
        restore: Duration::from_micros(100),
        round_trip: Duration::from_micros(100),
    };

    fn pass(dirty: u64) -> AfterPass {
        AfterPass { bytes: 100 << 20, duration: Duration::from_millis(100), dirty }
    }

    fn switch(ms: u64) -> Switch {
        Switch::new(Blackout::Limit(Duration::from_millis(ms)), None)
    }

    fn switches(decision: &Decision) -> bool {
        matches!(decision, Decision::Switch { .. })
    }

    #[test]
    fn an_idle_guest_is_stopped_after_one_pass() {
        assert!(switches(&switch(300).after_pass(pass(3), COST, None)));
    }

    #[test]
    fn passes_go_on_while_they_pay() {
        let mut s = switch(300);
        for dirty in [20_000, 15_000, 10_000, 5_000, 2_000, 500] {
            assert!(!switches(&s.after_pass(pass(dirty), COST, None)), "{dirty}");
        }
    }

    #[test]
    fn the_guest_is_stopped_when_two_passes_gained_little() {
        let mut s = switch(300);
        assert!(!switches(&s.after_pass(pass(5_000), COST, None)));
        assert!(!switches(&s.after_pass(pass(4_900), COST, None)));
        assert!(switches(&s.after_pass(pass(4_800), COST, None)));
    }

    #[test]
    fn the_promise_is_never_exceeded_knowingly() {
        let mut s = switch(10);
        for _ in 0..50 {
            let decision = s.after_pass(pass(5_000), COST, None);
            assert!(!switches(&decision));
        }
        assert!(matches!(
            s.after_pass(pass(5_000), COST, None),
            Decision::Continue { stuck: true, .. }
        ));
        s.set_blackout(Blackout::Unlimited);
        assert!(switches(&s.after_pass(pass(5_000), COST, None)));
    }

    #[test]
    fn a_bandwidth_limit_is_part_of_the_prediction() {
        let mut s = switch(300);
        s.after_pass(pass(1000), COST, None);
        let free = s.predict(1000, COST, None);
        let limited = s.predict(1000, COST, NonZeroU64::new(10_000_000));
        assert!(limited > free);
        assert_eq!(limited, COST.total() + Duration::from_secs_f64(4_096_000.0 / 10e6));
    }

    #[test]
    fn a_small_pass_does_not_change_what_is_known_of_the_link() {
        let mut s = switch(300);
        s.after_pass(pass(1000), COST, None);
        let before = s.rate(None);
        s.after_pass(
            AfterPass { bytes: 4096, duration: Duration::from_millis(50), dirty: 2 },
            COST,
            None,
        );
        assert!((s.rate(None) - before).abs() < 1.0);
    }

    proptest! {
        #[test]
        fn whatever_a_destination_says_of_its_times_is_taken(
            (save, restore) in any::<(u64, u64)>(),
            near in 0u64..3,
            dirty in 0u64..1 << 34,
        ) {
            for ns in [save, u64::MAX - near] {
                let (save, restore) = (Duration::from_nanos(ns), Duration::from_nanos(restore));
                let mut s = switch(300);
                for _ in 0..4 {
                    let decision = s.after_pass(pass(dirty), StateCost { save, restore, ..COST }, None);
                    let too_long = save > Duration::from_millis(300);
                    prop_assert!(!(too_long && switches(&decision)), "{decision:?}");
                }
            }
        }
    }
}
