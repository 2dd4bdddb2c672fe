//! The built-in guests: bare-metal programs that test a move from the inside
//!
//! Each is a PVH ELF image for one machine, which needs no operating system and
//! no device beyond a serial port. What they do, their parameters and the lines
//! that they print are described in `docs/guests.md`; [`report`] reads those
//! lines.

pub mod shared;

pub use shared::builtin::{Builtin, UnknownGuest};
pub use shared::params::{Fill, Key, ParamError, Params};
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
