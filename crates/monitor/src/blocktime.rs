//! What a guest waited for its memory that comes while it runs, in the words of QMP.

use motion::fill::{FillReport, ThreadWaits};
use qmp::reply::MigrationInfo;

/// Says it: `vcpus` are the threads of the processors, in order.
pub(crate) fn tell(info: &mut MigrationInfo, fill: &FillReport, vcpus: &[(u32, i32)]) {
    let of = |thread: i32| {
        let is_it = |waits: &&ThreadWaits| i32::try_from(waits.thread) == Ok(thread);
        fill.waits.iter().find(is_it).copied().unwrap_or_default()
    };
    let waits: Vec<ThreadWaits> = vcpus.iter().map(|(_, thread)| of(*thread)).collect();
    let is_vcpus = |waits: &&ThreadWaits| {
        vcpus.iter().any(|(_, thread)| i32::try_from(waits.thread) == Ok(*thread))
    };
    let (mut count, mut sum) = (0, 0);
    for waits in fill.waits.iter().filter(|waits| !is_vcpus(waits)) {
        count += waits.count;
        sum += waits.ns;
    }
    let latency = &fill.latency;
    info.postcopy_latency = Some(mean(latency.sum_ns, latency.count));
    info.postcopy_latency_dist = Some(by_power(&latency.buckets));
    info.postcopy_non_vcpu_latency = Some(mean(sum, count));
    info.postcopy_vcpu_latency = Some(waits.iter().map(|w| mean(w.ns, w.count)).collect());
    // What was waited is never said to be less than it was.
    info.postcopy_vcpu_blocktime =
        Some(waits.iter().map(|waits| waits.ns.div_ceil(1_000_000)).collect());
}

fn mean(sum: u64, count: u64) -> u64 {
    sum.checked_div(count).unwrap_or(0)
}

/// How many took from 2ⁱ to less than 2ⁱ⁺¹ microseconds, for each i from 0; what took less than one
/// counts as one.
fn by_power(buckets: &[(u64, u64)]) -> Vec<u64> {
    let mut powers = Vec::new();
    for (upper, count) in buckets {
        let power = (upper / 1000).max(1).ilog2() as usize;
        if powers.len() <= power {
            powers.resize(power + 1, 0);
        }
        powers[power] += count;
    }
    powers
}

#[cfg(test)]
mod tests {
    use super::*;
    use motion::ram::on_demand::LatencyReport;

    #[test]
    fn waits_are_told_by_processor_in_their_order() {
        let waits = |thread, count, ns| ThreadWaits { thread, count, ns };
        let fill = FillReport {
            latency: LatencyReport {
                count: 5,
                sum_ns: 6_500_000,
                buckets: vec![(900, 1), (1_999, 1), (70_000, 2), (4_000_000, 1)],
                ..LatencyReport::default()
            },
            waits: vec![waits(7, 2, 6_000_001), waits(9, 1, 400_000), waits(11, 2, 100_000)],
            ..FillReport::default()
        };
        let mut info = MigrationInfo::default();
        tell(&mut info, &fill, &[(0, 11), (1, 8), (2, 7)]);
        assert_eq!(info.postcopy_vcpu_blocktime, Some(vec![1, 0, 7]));
        assert_eq!(info.postcopy_vcpu_latency, Some(vec![50_000, 0, 3_000_000]));
        assert_eq!(info.postcopy_non_vcpu_latency, Some(400_000));
        assert_eq!(info.postcopy_latency, Some(1_300_000));
        assert_eq!(info.postcopy_latency_dist, Some(vec![2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn who_never_waited_has_waited_for_nothing() {
        let mut info = MigrationInfo::default();
        tell(&mut info, &FillReport::default(), &[(0, 1)]);
        assert_eq!((info.postcopy_latency, info.postcopy_vcpu_latency), (Some(0), Some(vec![0])));
        assert_eq!(info.postcopy_latency_dist, Some(Vec::new()));
    }
}
