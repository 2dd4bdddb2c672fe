//! "This cannot be done, because …", as a value.

use crate::Code;
use minicbor::{Decode, Encode};
use serde::Serialize;

/// One reason why a motion is refused before anything was paused. Preflight collects all of them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct Refusal {
    /// The machine-readable reason.
    #[n(0)]
    pub code: Code,
    /// What refuses: `cpu`, `ram`, `device uart16550`, …
    #[n(1)]
    pub what: String,
    /// Why, for a person.
    #[n(2)]
    pub why: String,
    /// What to try, for a person. Empty where nothing helps.
    #[n(3)]
    pub advice: String,
}

impl Refusal {
    /// A refusal with advice on what to try.
    pub fn new(
        code: Code,
        what: impl Into<String>,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { code, what: what.into(), why: why.into(), advice: advice.into() }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        if !self.advice.is_empty() {
            write!(f, " ({})", self.advice)?;
        }
        Ok(())
    }
}
