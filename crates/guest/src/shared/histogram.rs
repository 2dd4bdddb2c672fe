//! Gaps counted by size, in powers of two

use core::fmt;
use core::str::FromStr;

/// Number of buckets
pub const BUCKETS: usize = 24;

/// How many gaps there were of each size
///
/// Bucket `b` counts gaps of 2^b µs up to, but not including, 2^(b+1) µs; the
/// last one also those that are longer. As text: `b:count` for each bucket that
/// is not empty, by commas, or `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
}

impl Histogram {
    /// With nothing counted
    #[must_use]
    pub const fn new() -> Self {
        Self { counts: [0; BUCKETS] }
    }

    /// Counts a gap, in nanoseconds; gaps below 1 µs are not counted
    pub const fn add(&mut self, nanoseconds: u64) {
        if let Some(bucket) = (nanoseconds / 1000).checked_ilog2() {
            let bucket = bucket as usize;
            self.counts[if bucket < BUCKETS { bucket } else { BUCKETS - 1 }] += 1;
        }
    }

    /// The number of gaps by bucket
    #[must_use]
    pub const fn counts(&self) -> &[u64; BUCKETS] {
        &self.counts
    }

    /// The shortest gap, in nanoseconds, that a bucket counts
    #[must_use]
    pub const fn lower_bound(bucket: usize) -> u64 {
        1000 << bucket
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (bucket, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count != 0) {
            write!(f, "{separator}{bucket}:{count}")?;
            separator = ",";
        }
        if separator.is_empty() { f.write_str("-") } else { Ok(()) }
    }
}

/// A text that is not a histogram
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAHistogram;

impl FromStr for Histogram {
    type Err = NotAHistogram;

    fn from_str(text: &str) -> Result<Self, NotAHistogram> {
        let mut histogram = Self::new();
        if text == "-" {
            return Ok(histogram);
        }
        for part in text.split(',') {
            let (bucket, count) = part.split_once(':').ok_or(NotAHistogram)?;
            let bucket: usize = bucket.parse().map_err(|_| NotAHistogram)?;
            let slot = histogram.counts.get_mut(bucket).ok_or(NotAHistogram)?;
            *slot = count.parse().map_err(|_| NotAHistogram)?;
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two_of_a_microsecond() {
        let mut histogram = Histogram::new();
        for gap in [0, 999, 1000, 1999, 2000, 3999, 4000, u64::MAX] {
            histogram.add(gap);
        }
        assert_eq!(&histogram.counts()[..3], &[2, 2, 1]);
        assert_eq!(histogram.counts()[BUCKETS - 1], 1);
        assert_eq!(Histogram::lower_bound(2), 4000);
    }

    #[test]
    fn what_is_no_histogram_is_refused() {
        for text in ["", "1", "1:", ":1", "24:1", "1:2,", "a:1", "1:-1"] {
            assert_eq!(text.parse::<Histogram>(), Err(NotAHistogram), "{text}");
        }
    }
}
