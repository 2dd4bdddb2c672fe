//! The names of the guests

use core::fmt;
use core::str::FromStr;

/// A guest that comes with the program
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// Writes memory at a chosen rate and counts what it got done
    Workload,
    /// Holds an invariant over its memory and processor state, and reports each breach
    SelfCheck,
    /// Reads the clock in a loop and reports the gaps
    Clock,
}

impl Builtin {
    /// Every guest, in the order in which they are listed
    pub const ALL: [Self; 3] = [Self::Workload, Self::SelfCheck, Self::Clock];

    /// The name on command lines and in `HELLO` lines
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::SelfCheck => "selfcheck",
            Self::Clock => "clock",
        }
    }
}

impl fmt::Display for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No built-in guest has this name
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownGuest;

impl fmt::Display for UnknownGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no built-in guest has this name; there are workload, selfcheck and clock")
    }
}

impl core::error::Error for UnknownGuest {}

impl FromStr for Builtin {
    type Err = UnknownGuest;

    fn from_str(name: &str) -> Result<Self, UnknownGuest> {
        Self::ALL.into_iter().find(|guest| guest.name() == name).ok_or(UnknownGuest)
    }
}
