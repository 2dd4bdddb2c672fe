//! The built-in guests: bare-metal programs that test a move from the inside
//!
//! Each is a PVH ELF image for one machine, which needs no operating system and
//! no device beyond a serial port. What they do, their parameters and the lines
//! that they print are described in `docs/guests.md`; [`report`] reads those
//! lines.

pub mod shared;

pub use shared::builtin::{Builtin, UnknownGuest};
pub use shared::params::{Fill, Key, ParamError, Params, Wake};
pub use shared::report;

impl Builtin {
    /// The ELF image
    #[must_use]
    pub const fn image(self) -> &'static [u8] {
        match self {
            Self::Workload => include_bytes!(concat!(env!("OUT_DIR"), "/workload")),
            Self::SelfCheck => include_bytes!(concat!(env!("OUT_DIR"), "/selfcheck")),
            Self::Clock => include_bytes!(concat!(env!("OUT_DIR"), "/clock")),
        }
    }

    /// What the guest does, in a line
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Workload => "writes memory at a chosen rate and counts what it got done",
            Self::SelfCheck => "checks that no page and no register is lost, and reports faults",
            Self::Clock => "reads the clock on each vCPU and reports the gaps",
        }
    }

    /// The parameters that the guest knows
    pub fn parameters(self) -> impl Iterator<Item = &'static Key> {
        shared::params::KEYS.iter().filter(move |key| key.guests.contains(&self))
    }

    /// Reads a command line for this guest
    ///
    /// # Errors
    /// On the first word that the guest would not understand. (The guest itself
    /// passes over such words, because loaders add some.)
    pub fn parse(self, command_line: &str) -> Result<Params, ParamError<'_>> {
        let mut first = None;
        let params = Params::parse(self, command_line, |error| {
            first.get_or_insert(error);
        });
        first.map_or(Ok(params), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{End, Kind};

    const MANUAL: &str = include_str!("../../../docs/guests.md");

    #[test]
    fn guests_are_found_by_name() {
        for guest in Builtin::ALL {
            assert_eq!(guest.name().parse(), Ok(guest));
        }
        assert_eq!("worklod".parse::<Builtin>(), Err(UnknownGuest));
    }

    #[test]
    fn images_are_small_and_elf() {
        for guest in Builtin::ALL {
            let image = guest.image();
            assert_eq!(&image[..5], b"\x7fELF\x02", "{guest}");
            assert!(image.len() < 128 << 10, "{guest}: {} bytes", image.len());
        }
    }

    #[test]
    fn only_words_that_the_guest_knows_are_taken() {
        assert_eq!(Builtin::Workload.parse("ws=1M rate=5").unwrap().rate, Some(5));
        let error = Builtin::Clock.parse("report=1s ws=1M").unwrap_err();
        assert_eq!(error.to_string(), "the guest has no parameter `ws=1M`");
        let error = Builtin::Clock.parse("report=soon").unwrap_err();
        assert_eq!(error.to_string(), "in `report=soon`, the value is not of the form TIME");
    }

    #[test]
    fn the_manual_names_everything() {
        let guests = Builtin::ALL.map(Builtin::name);
        let keys = shared::params::KEYS.iter().map(|key| key.name);
        let kinds = Kind::ALL.iter().map(|kind| kind.word());
        for word in guests.into_iter().chain(keys).chain(kinds) {
            assert!(MANUAL.contains(&format!("| `{word}` |")), "{word}");
        }
        for end in End::ALL {
            assert!(MANUAL.contains(&format!("`{end}`")), "{end}");
        }
        // Each example is a line that can be read
        let examples = MANUAL.lines().filter(|line| {
            line.split_once(' ').is_some_and(|(word, rest)| {
                word.len() > 2 && word.chars().all(char::is_uppercase) && rest.contains("t=")
            })
        });
        let mut count = 0;
        for example in examples {
            let line: report::Line = example.parse().unwrap();
            assert_eq!(line.to_string(), example);
            count += 1;
        }
        assert!(count >= 7, "{count}");
    }
}
