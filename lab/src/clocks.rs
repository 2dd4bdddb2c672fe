//! Whether the guest's clocks went on across a move, seen from the host.

use std::time::Duration;

/// Two clocks of one machine, read at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Since that machine booted.
    pub uptime: Duration,
    /// Since 1970.
    pub wall: Duration,
}

/// Difference of two times in seconds.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of lab runs are far below 2^53")]
fn difference(later: Duration, earlier: Duration) -> f64 {
    (later.as_nanos() as f64 - earlier.as_nanos() as f64) / 1e9
}

/// How far the guest's clocks are behind the host's, while one process holds the guest.
///
/// A line of the guest reaches us some time after the guest read its clocks, never before. The
/// least difference over many lines is therefore close to the true one, however noisy the delay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lag {
    /// Host's uptime less the guest's, in seconds: arbitrary by itself, as the guest booted later.
    pub uptime: f64,
    /// Host's wall clock less the guest's, in seconds.
    pub wall: f64,
    /// Number of lines behind this figure.
    pub lines: usize,
}

impl Lag {
    /// The least lag over pairs of guest's and host's clocks; `None` without any.
    pub fn least(pairs: impl IntoIterator<Item = (Clocks, Clocks)>) -> Option<Self> {
        pairs
            .into_iter()
            .map(|(guest, host)| Self {
                uptime: difference(host.uptime, guest.uptime),
                wall: difference(host.wall, guest.wall),
                lines: 1,
            })
            .reduce(|one, other| Self {
                uptime: one.uptime.min(other.uptime),
                wall: one.wall.min(other.wall),
                lines: one.lines + other.lines,
            })
    }
}

/// How far wall clock and uptime of one machine have moved against each other, in seconds.
///
/// Nothing sets the guest's clock, so both must have advanced alike.
#[must_use]
pub fn divergence(first: Clocks, last: Clocks) -> f64 {
    difference(last.wall, first.wall) - difference(last.uptime, first.uptime)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(uptime_ms: u64, wall_ms: u64) -> Clocks {
        Clocks { uptime: Duration::from_millis(uptime_ms), wall: Duration::from_millis(wall_ms) }
    }

    #[test]
    fn a_clock_that_stood_still_shows_behind_noisy_delays() {
        // Before: delays of 40, 3 and 500 ms. After: the guest lost 700 ms, delays of 3 and 90 ms.
        let before = [(1000, 1040), (1200, 1203), (1400, 1900)];
        let after = [(2000, 2703), (2200, 2990)];
        let lag = |pairs: &[(u64, u64)]| {
            let pairs = pairs.iter().map(|&(guest, host)| (at(guest, guest), at(host, host)));
            Lag::least(pairs).unwrap()
        };
        let lost = lag(&after).uptime - lag(&before).uptime;
        assert!((lost - 0.7).abs() < 1e-9, "{lost}");
        assert_eq!(lag(&before).lines, 3);
    }

    #[test]
    fn clocks_that_went_on_alike_do_not_diverge() {
        assert!(divergence(at(0, 5000), at(900, 5900)).abs() < 1e-9);
        assert!((divergence(at(0, 5000), at(900, 5700)) + 0.2).abs() < 1e-9);
    }
}
