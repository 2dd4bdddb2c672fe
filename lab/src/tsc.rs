//! Whether the guest's time stamp counter went on across a move, seen from inside.
//!
//! The guest reads its uptime, which kvmclock tells and the host's clocks confirm ([`crate::clocks`]), and the
//! counter at the same moment. Both have to go on alike, whatever was done to the guest between two readings.

/// Uptime and counter, read at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Nanoseconds since the guest booted.
    pub uptime: u64,
    /// Ticks.
    pub tsc: u64,
}

/// Difference of two counts.
#[expect(clippy::cast_precision_loss, reason = "what passes between two readings is below 2^53")]
fn difference(later: u64, earlier: u64) -> f64 {
    if later >= earlier { (later - earlier) as f64 } else { -((earlier - later) as f64) }
}

/// How often the counter ticks in a nanosecond, by readings of one boot each.
///
/// The middle of what each two successive ones say: a few jumps do not change it. `None` without two.
#[must_use]
pub fn rate(boots: &[Vec<Reading>]) -> Option<f64> {
    let pairs = boots.iter().flat_map(|readings| readings.windows(2));
    let mut rates: Vec<f64> = pairs
        .filter(|pair| pair[1].uptime > pair[0].uptime)
        .map(|pair| {
            difference(pair[1].tsc, pair[0].tsc) / difference(pair[1].uptime, pair[0].uptime)
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().filter(|rate| *rate > 0.0)
}

/// By how many seconds the counter went on further than the uptime.
#[must_use]
pub fn excess(first: Reading, last: Reading, rate: f64) -> f64 {
    (difference(last.tsc, first.tsc) / rate - difference(last.uptime, first.uptime)) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings every 200 ms of a counter of 2.5 GHz that jumps by so many ticks after the first three.
    fn readings(jump: i64) -> Vec<Reading> {
        let at = |turn: u64| Reading {
            uptime: turn * 200_000_000,
            tsc: (7_000_000_000 + turn * 500_000_000).wrapping_add_signed(if turn < 3 {
                0
            } else {
                jump
            }),
        };
        (0..8).map(at).collect()
    }

    #[test]
    fn a_counter_that_jumps_or_stood_still_shows_against_its_own_rate() {
        for (jump, seconds) in [(0, 0.0), (2_500_000_000, 1.0), (-250_000_000, -0.1)] {
            let readings = readings(jump);
            let rate = rate(std::slice::from_ref(&readings)).unwrap();
            assert!((rate - 2.5).abs() < 1e-9, "{rate}");
            for (turn, pair) in readings.windows(2).enumerate() {
                let expected = if turn == 2 { seconds } else { 0.0 };
                assert!((excess(pair[0], pair[1], rate) - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_counter_without_two_readings_or_that_stands_still_has_no_rate() {
        let still = |uptime| Reading { uptime, tsc: 5 };
        assert_eq!(rate(&[vec![still(1)], vec![still(2)]]), None);
        assert_eq!(rate(&[vec![still(1), still(2)]]), None);
    }
}
