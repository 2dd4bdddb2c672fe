//! One line of the guest's console: `NUMBER KIND [KEY=VALUE …] ~CHECKSUM`.
//!
//! The checksum shows bytes lost, doubled or changed within a line; the number, counted from 0 at
//! each boot, shows lines lost or doubled.

use std::fmt::{self, Display};

/// A line as the guest wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Place of the line since the guest booted.
    pub number: u64,
    /// Kind and fields, without number and checksum.
    pub text: String,
}

/// 32-bit FNV-1a, enough to notice damage.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Line {
    /// Reads a line without its end; `None` if it is not exactly what a guest writes.
    #[must_use]
    pub fn parse(raw: &str) -> Option<Self> {
        let (content, sum) = raw.rsplit_once(" ~")?;
        let (number, text) = content.split_once(' ')?;
        let line = Self { number: number.parse().ok()?, text: text.to_string() };
        // Comparing with what we would write refuses second spellings, such as `+1` or `01`.
        (u32::from_str_radix(sum, 16) == Ok(checksum(content)) && line.to_string() == raw)
            .then_some(line)
    }

    /// The first word.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text.split(' ').next().unwrap_or_default()
    }

    /// What follows the kind.
    #[must_use]
    pub fn rest(&self) -> &str {
        self.text.split_once(' ').map_or("", |(_, rest)| rest)
    }

    /// The value of `key=value`.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&str> {
        self.rest().split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
    }

    /// The value of `key=value` as a whole number.
    #[must_use]
    pub fn number_of(&self, key: &str) -> Option<u64> {
        self.field(key)?.parse().ok()
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = format!("{} {}", self.number, self.text);
        write!(f, "{content} ~{:08x}", checksum(&content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let line = Line { number: 3, text: "tick up=17 wall=99 writes=x".into() };
        assert_eq!(line.kind(), "tick");
        assert_eq!(line.number_of("up"), Some(17));
        assert_eq!(line.number_of("u"), None);
        assert_eq!(line.number_of("writes"), None);
        assert_eq!(line.field("writes"), Some("x"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number: u64, text in "[ -~]{1,80}") {
            let line = Line { number, text };
            prop_assert_eq!(Line::parse(&line.to_string()), Some(line));
        }

        #[test]
        fn a_lost_or_doubled_byte_is_noticed(
            number: u64, text in "[ -~]{1,80}", at: prop::sample::Index, lost: bool,
        ) {
            let whole = Line { number, text }.to_string();
            let at = at.index(whole.len());
            let mut damaged = whole.clone();
            if lost { damaged.remove(at); } else { damaged.insert(at, whole.as_bytes()[at] as char); }
            prop_assert_eq!(Line::parse(&damaged), None);
        }
    }
}
