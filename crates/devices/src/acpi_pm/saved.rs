//! What the power management registers are while they travel.

use super::{AcpiPm, EVENT_BITS, PowerSwitch, SLEEP_TYPE_BITS};
use crate::InvalidState;
use crate::irq::IrqLine;
use crate::saved::require;
use minicbor::{Decode, Encode};
use std::sync::Arc;

/// The registers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedAcpiPm {
    /// Sleep type last written to the sleep control register.
    #[n(0)]
    pub sleep_type: u8,
    /// Events that the guest has not read.
    #[n(1)]
    pub events: u8,
}

impl state::Saved for SavedAcpiPm {
    const SCHEMA: &'static str = "whimbrel.acpi-pm";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

impl AcpiPm {
    /// The state as it stands.
    #[must_use]
    pub fn save(&self) -> SavedAcpiPm {
        let Self { sleep_type, events, irq: _, switch: _ } = *self;
        SavedAcpiPm { sleep_type, events }
    }

    /// Registers that go on where the saved ones were. The interrupt line is left alone, as for
    /// every device: its level is part of the interrupt controller's state.
    ///
    /// # Errors
    /// [`InvalidState`] when they cannot be in that state.
    pub fn restore(
        saved: &SavedAcpiPm,
        irq: Arc<dyn IrqLine>,
        switch: Arc<dyn PowerSwitch>,
    ) -> Result<Self, InvalidState> {
        let SavedAcpiPm { sleep_type, events } = *saved;
        require("acpi-pm", sleep_type <= SLEEP_TYPE_BITS, || {
            format!("its sleep type is {sleep_type}; sleep types have three bits")
        })?;
        require("acpi-pm", events & !EVENT_BITS == 0, || {
            format!("events {events:#04x} are pending, of which only {EVENT_BITS:#04x} exists")
        })?;
        Ok(Self { sleep_type, events, irq, switch })
    }
}
