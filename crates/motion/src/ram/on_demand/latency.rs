//! How long something took, as a histogram that many threads write.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Each doubling is cut into so many parts: a figure is exact to an eighth.
const PARTS: u64 = 8;
const BUCKETS: usize = 64 * 8;
const _: () = assert!(BUCKETS as u64 == 64 * PARTS);

/// A histogram of durations.
pub struct Latency {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    most: AtomicU64,
}

/// What a histogram shows. All times are in nanoseconds; quantiles are upper bounds, exact to an
/// eighth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LatencyReport {
    /// How many there were.
    pub count: u64,
    /// Together.
    pub sum_ns: u64,
    /// Half took no longer.
    pub p50_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// How many took no longer than this, and longer than the one before it.
    pub buckets: Vec<(u64, u64)>,
}

impl Default for Latency {
    fn default() -> Self {
        let buckets = std::iter::repeat_with(AtomicU64::default).take(BUCKETS).collect();
        Self { buckets, sum: AtomicU64::new(0), most: AtomicU64::new(0) }
    }
}

impl std::fmt::Debug for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.report().fmt(f)
    }
}

impl Latency {
    /// Adds one.
    pub fn record(&self, took: Duration) {
        let ns = crate::clock::nanos(took);
        self.buckets[bucket(ns)].fetch_add(1, Relaxed);
        self.sum.fetch_add(ns, Relaxed);
        self.most.fetch_max(ns, Relaxed);
    }

    /// What it shows by now.
    #[must_use]
    pub fn report(&self) -> LatencyReport {
        let most = self.most.load(Relaxed);
        let counts = self.buckets.iter().map(|count| count.load(Relaxed));
        let bounded = (0u64..).zip(counts).filter(|(_, count)| *count > 0);
        let buckets: Vec<(u64, u64)> =
            bounded.map(|(index, count)| (upper(index).min(most), count)).collect();
        let count: u64 = buckets.iter().map(|(_, count)| count).sum();
        let quantile = |part: u64| {
            let rank = (count * part).div_ceil(100);
            let mut seen = 0;
            let reached = |(_, count): &&(u64, u64)| {
                seen += count;
                seen >= rank
            };
            buckets.iter().find(reached).map_or(0, |(upper, _)| *upper)
        };
        LatencyReport {
            count,
            sum_ns: self.sum.load(Relaxed),
            p50_ns: quantile(50),
            p99_ns: quantile(99),
            max_ns: most,
            buckets,
        }
    }
}

fn bucket(ns: u64) -> usize {
    let index = if ns < PARTS {
        ns
    } else {
        let shift = u64::from(ns.ilog2() - PARTS.ilog2());
        (shift + 1) * PARTS + (ns >> shift) - PARTS
    };
    usize::try_from(index).expect("there are fewer than 512 buckets")
}

/// The greatest number that falls into this bucket.
fn upper(index: u64) -> u64 {
    if index < PARTS {
        return index;
    }
    let shift = index / PARTS - 1;
    let next = u128::from(index % PARTS + PARTS + 1) << shift;
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_duration_falls_into_a_bucket_that_bounds_it_to_an_eighth(ns in any::<u64>()) {
            let bound = upper(bucket(ns) as u64);
            prop_assert!(bucket(ns) < BUCKETS);
            prop_assert!(bound >= ns);
            prop_assert!(bound - ns <= ns / 8);
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let latency = Latency::default();
        assert_eq!(latency.report(), LatencyReport::default());
        for us in 1..=1000 {
            latency.record(Duration::from_micros(us));
        }
        let report = latency.report();
        assert_eq!((report.count, report.max_ns), (1000, 1_000_000));
        assert!((500_000..=565_000).contains(&report.p50_ns), "{report:?}");
        assert!((990_000..=1_000_000).contains(&report.p99_ns), "{report:?}");
        assert_eq!(report.sum_ns, 500_500_000);
        assert_eq!(report.buckets.iter().map(|(_, count)| count).sum::<u64>(), 1000);
    }
}
