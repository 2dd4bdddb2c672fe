//! What a console is while its machine travels.

use super::OUTPUT_CAPACITY;
use crate::InvalidState;
use crate::saved::require;
use minicbor::{Decode, Encode};

/// Output that the guest sent and nobody has seen. It is written where the machine goes, so that
/// what the two consoles show together has no gap and no repetition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct SavedConsole {
    /// The output, oldest first.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub unwritten: Vec<u8>,
}

impl state::Saved for SavedConsole {
    const SCHEMA: &'static str = "whimbrel.console";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

impl SavedConsole {
    pub(super) fn check(self) -> Result<Vec<u8>, InvalidState> {
        let Self { unwritten } = self;
        require("console", unwritten.len() <= OUTPUT_CAPACITY, || {
            format!("{} bytes wait to be written; at most {OUTPUT_CAPACITY} can", unwritten.len())
        })?;
        Ok(unwritten)
    }
}
