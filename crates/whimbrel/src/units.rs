//! Sizes, durations and rates, as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: write {examples}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    examples: &'static str,
}

/// A number of bytes: `64M`, `2G`, in powers of 1024; without a unit it is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Bytes per second: `100M` in powers of 1024, `10Gbit` in powers of 1000 and bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

/// A time: `300ms`, `2s`, `5m`, `1h`, `100us`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// Reads how long a peer or a file may be stuck: what `migrate-set-parameters` takes, too.
pub fn stall(text: &str) -> Result<Duration, String> {
    let Time(time) = text.parse().map_err(|e: UnitError| e.to_string())?;
    let bounds = Duration::from_millis(10)..=Duration::from_secs(3600);
    if bounds.contains(&time) { Ok(time) } else { Err("from 10 ms to an hour".to_owned()) }
}

const BINARY: [(&str, u64); 5] =
    [("", 1), ("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40)];

/// A number and the unit behind it. A fraction is allowed where it comes out whole.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let &(_, factor) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    // More digits could not come out whole anyway.
    if whole.is_empty() || fraction.len() > 12 {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let value = digits.checked_mul(factor.into())?;
    value.is_multiple_of(scale).then(|| u64::try_from(value / scale).ok()).flatten()
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bare = ["iB", "B"].iter().find_map(|tail| text.strip_suffix(tail)).unwrap_or(text);
        quantity(bare, &BINARY).map(Self).ok_or_else(|| UnitError {
            text: text.chars().take(80).collect(),
            what: "size",
            examples: "64M, 2G or 1.5G",
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |&&(_, factor): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(factor);
        let (unit, factor) = BINARY.iter().rev().find(fits).unwrap_or(&BINARY[0]);
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const BITS: [(&str, u64); 4] =
            [("bit", 1), ("Kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)];
        let bare = text.strip_suffix("/s").unwrap_or(text);
        let bytes = bare.parse::<Size>().ok().map(|size| size.0);
        bytes.or_else(|| quantity(bare, &BITS).map(|bits| bits / 8)).map(Self).ok_or_else(|| {
            UnitError {
                text: text.chars().take(80).collect(),
                what: "rate",
                examples: "100M (bytes per second) or 10Gbit",
            }
        })
    }
}

impl FromStr for Time {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const NANOS: [(&str, u64); 6] = [
            ("ns", 1),
            ("us", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ];
        quantity(text, &NANOS).map(|nanos| Self(Duration::from_nanos(nanos))).ok_or_else(|| {
            UnitError {
                text: text.chars().take(80).collect(),
                what: "time",
                examples: "300ms, 2s, 5m or 1h",
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64M", 64 << 20),
            ("2g", 2 << 30),
            ("1.5G", 3 << 29),
            ("16MiB", 16 << 20),
            ("1KB", 1024),
            ("1T", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "M", "-1", "1X", "1.", ".5G", "1.1", "1e3", "1 G", "99999999999T", "٣M"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_bytes_or_bits_per_second() {
        for (text, bytes) in
            [("100M", 100 << 20), ("1M/s", 1 << 20), ("10Gbit", 1_250_000_000), ("8bit/s", 1)]
        {
            assert_eq!(text.parse(), Ok(Rate(bytes)), "{text}");
        }
        for text in ["", "fast", "1Gb", "1M/h"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_need_a_unit() {
        for (text, micros) in [
            ("300ms", 300_000),
            ("2s", 2_000_000),
            ("0.5s", 500_000),
            ("100us", 100),
            ("5m", 300_000_000),
            ("1h", 3_600_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Time(Duration::from_micros(micros))), "{text}");
        }
        for text in ["", "300", "s", "1d", "1,5s"] {
            let error = text.parse::<Time>().unwrap_err().to_string();
            assert!(error.contains("300ms, 2s, 5m or 1h"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_size_reads_back_as_it_was_written(bytes in any::<u64>()) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9.]{0,30}[a-zA-Z/]{0,6}") {
            let _ = (text.parse::<Size>(), text.parse::<Rate>(), text.parse::<Time>());
        }
    }
}
