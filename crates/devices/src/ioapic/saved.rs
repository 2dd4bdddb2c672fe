//! What an I/O APIC is while it travels.

use super::entry::Entry;
use super::{IoApic, MsiSink, PINS};
use crate::InvalidState;
use crate::saved::require;
use minicbor::{Decode, Encode};
use std::sync::Arc;

/// Registers and lines.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedIoApic {
    /// APIC id.
    #[n(0)]
    pub id: u8,
    /// Index register.
    #[n(1)]
    pub select: u8,
    /// Bit *n*: the line at pin *n* is active.
    #[n(2)]
    pub lines: u32,
    /// Redirection entries in the 82093AA's format, one for each pin.
    #[n(3)]
    pub entries: [u64; PINS as usize],
}

impl state::Saved for SavedIoApic {
    const SCHEMA: &'static str = "whimbrel.ioapic";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

impl IoApic {
    /// The state as it stands.
    #[must_use]
    pub fn save(&self) -> SavedIoApic {
        let Self { id, select, lines, ref entries, sink: _ } = *self;
        SavedIoApic { id, select, lines, entries: entries.map(Entry::bits) }
    }

    /// An I/O APIC that goes on where the saved one was. Nothing is delivered: what was, is in the
    /// local APICs' state. Its [`routes`](Self::routes) are the caller's to program.
    ///
    /// # Errors
    /// [`InvalidState`] when no I/O APIC can be in that state.
    pub fn restore(saved: &SavedIoApic, sink: Arc<dyn MsiSink>) -> Result<Self, InvalidState> {
        let SavedIoApic { id, select, lines, entries } = *saved;
        require("ioapic", id < 16, || format!("its id is {id}; ids have four bits"))?;
        require("ioapic", lines >> PINS == 0, || {
            format!("lines {lines:#x} are active; there are {PINS} pins")
        })?;
        let mut restored = Self { id, select, lines, ..Self::new(sink) };
        for (pin, (bits, slot)) in entries.into_iter().zip(&mut restored.entries).enumerate() {
            let entry = Entry::from_bits(bits).ok_or_else(|| InvalidState {
                device: "ioapic",
                reason: format!("the entry of pin {pin} is {bits:#018x}"),
            })?;
            let unserved = entry.is_level()
                && !entry.is_masked()
                && !entry.remote_irr()
                && lines & (1 << pin) != 0;
            require("ioapic", !unserved, || format!("pin {pin} waits though nothing holds it"))?;
            *slot = entry;
        }
        Ok(restored)
    }
}
