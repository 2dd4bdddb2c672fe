//! Power management for hardware-reduced ACPI: sleep, reset, and the power button.
//!
//! Registers of our own, which the ACPI tables describe to the guest: the sleep control and status
//! registers of ACPI 6.5 section 4.8.3.7, a reset register (section 4.8.3.6), and an event
//! register that the generic event device (section 5.6.9) reads in its `_EVT` method to learn what
//! happened. Reading the event register takes the events and with them the interrupt, which is
//! level-triggered so that a button pressed before the guest listens is heard when it does.

mod saved;

pub use saved::SavedAcpiPm;

use crate::bus::BusDevice;
use crate::irq::IrqLine;
use std::sync::Arc;

/// First port of the block.
pub const BASE: u16 = 0x600;
/// Number of ports.
pub const PORTS: u16 = 8;
/// Sleep control register, one byte.
pub const SLEEP_CONTROL: u16 = BASE;
/// Reset register, one byte.
pub const RESET: u16 = BASE + 1;
/// Sleep status register, one byte.
pub const SLEEP_STATUS: u16 = BASE + 2;
/// Event register, one byte; reading clears it.
pub const EVENTS: u16 = BASE + 4;
/// Global system interrupt of the generic event device, level-triggered and active high.
pub const GSI: u8 = 5;
/// What to write to [`RESET`].
pub const RESET_VALUE: u8 = 1;
/// Sleep type of S5, soft off.
pub const S5_SLEEP_TYPE: u8 = 5;
/// Bit of [`EVENTS`]: the power button was pressed.
pub const EVENT_POWER_BUTTON: u8 = 1 << 0;

const EVENT_BITS: u8 = EVENT_POWER_BUTTON;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_BITS: u8 = 0b111;
const SLEEP_ENABLE: u8 = 1 << 5;

/// What a guest asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerEvent {
    /// Power off (S5).
    Shutdown,
    /// Reset.
    Reset,
}

/// Who carries out what the guest asked for. Called on the vCPU that asked, before it goes on.
pub trait PowerSwitch: Send + Sync {
    /// The guest asked for this.
    fn request(&self, event: PowerEvent);
}

/// The registers.
pub struct AcpiPm {
    sleep_type: u8,
    events: u8,
    irq: Arc<dyn IrqLine>,
    switch: Arc<dyn PowerSwitch>,
}

impl AcpiPm {
    /// The registers as they are after power-on.
    #[must_use]
    pub fn new(irq: Arc<dyn IrqLine>, switch: Arc<dyn PowerSwitch>) -> Self {
        Self { sleep_type: 0, events: 0, irq, switch }
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        *self = Self::new(self.irq.clone(), self.switch.clone());
        self.irq.set(false);
    }

    /// Asks the guest to shut down, as a person does who presses the button.
    pub fn press_power_button(&mut self) {
        self.events |= EVENT_POWER_BUTTON;
        self.irq.set(true);
    }

    fn take_events(&mut self) -> u8 {
        let events = std::mem::take(&mut self.events);
        self.irq.set(false);
        events
    }

    fn control_sleep(&mut self, value: u8) {
        self.sleep_type = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_BITS;
        if value & SLEEP_ENABLE == 0 {
            return;
        }
        if self.sleep_type == S5_SLEEP_TYPE {
            self.switch.request(PowerEvent::Shutdown);
        } else {
            tracing::debug!(sleep_type = self.sleep_type, "the guest asked for an unknown sleep");
        }
    }
}

impl BusDevice for AcpiPm {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(byte) = data.first_mut() {
            *byte = match port(offset) {
                SLEEP_CONTROL => self.sleep_type << SLEEP_TYPE_SHIFT,
                EVENTS => self.take_events(),
                // The wake status is never set: this machine does not sleep and wake.
                _ => 0,
            };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        match port(offset) {
            SLEEP_CONTROL => self.control_sleep(value),
            RESET if value == RESET_VALUE => self.switch.request(PowerEvent::Reset),
            _ => {}
        }
    }
}

fn port(offset: u64) -> u16 {
    u16::try_from(offset).map_or(u16::MAX, |offset| BASE.saturating_add(offset))
}

impl std::fmt::Debug for AcpiPm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.save().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::probe::Probe;
    use crate::lock;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Asked(Mutex<Vec<PowerEvent>>);
    impl PowerSwitch for Asked {
        fn request(&self, event: PowerEvent) {
            lock(&self.0).push(event);
        }
    }

    fn rig() -> (AcpiPm, Arc<Probe>, Arc<Asked>) {
        let (irq, asked) = (Probe::new(), Arc::new(Asked::default()));
        (AcpiPm::new(irq.clone(), asked.clone()), irq, asked)
    }

    fn put(pm: &mut AcpiPm, port: u16, value: u8) {
        pm.write(u64::from(port - BASE), &[value]);
    }

    fn get(pm: &mut AcpiPm, port: u16) -> u8 {
        let mut data = [0xee];
        pm.read(u64::from(port - BASE), &mut data);
        data[0]
    }

    #[test]
    fn soft_off_and_reset_are_asked_for_by_their_values_only() {
        let (mut pm, _, asked) = rig();
        put(&mut pm, SLEEP_CONTROL, S5_SLEEP_TYPE << 2);
        put(&mut pm, SLEEP_CONTROL, 1 << 2 | SLEEP_ENABLE);
        put(&mut pm, RESET, 0);
        put(&mut pm, RESET, 0xff);
        assert!(lock(&asked.0).is_empty());
        put(&mut pm, SLEEP_CONTROL, S5_SLEEP_TYPE << 2 | SLEEP_ENABLE);
        put(&mut pm, RESET, RESET_VALUE);
        assert_eq!(*lock(&asked.0), [PowerEvent::Shutdown, PowerEvent::Reset]);
        assert_eq!(get(&mut pm, SLEEP_CONTROL), S5_SLEEP_TYPE << 2);
        assert_eq!(get(&mut pm, SLEEP_STATUS), 0);
    }

    #[test]
    fn the_button_holds_the_line_until_the_guest_has_looked() {
        let (mut pm, irq, _) = rig();
        pm.press_power_button();
        pm.press_power_button();
        assert!(irq.level());
        assert_eq!(get(&mut pm, EVENTS), EVENT_POWER_BUTTON);
        assert!(!irq.level());
        assert_eq!(get(&mut pm, EVENTS), 0);
    }

    #[test]
    fn a_pressed_button_travels() {
        let (mut old, _, _) = rig();
        old.press_power_button();
        put(&mut old, SLEEP_CONTROL, 3 << 2);
        let (_, irq, asked) = rig();
        irq.set(true);
        let payload = state::Payload::pack("", &old.save());
        let saved: SavedAcpiPm = payload.unpack().unwrap();
        let mut new = AcpiPm::restore(&saved, irq.clone(), asked).unwrap();
        assert_eq!(get(&mut new, SLEEP_CONTROL), 3 << 2);
        assert_eq!(get(&mut new, EVENTS), EVENT_POWER_BUTTON);
        assert!(!irq.level());
    }

    #[test]
    fn states_that_cannot_be_are_refused() {
        for saved in
            [SavedAcpiPm { sleep_type: 8, events: 0 }, SavedAcpiPm { sleep_type: 0, events: 2 }]
        {
            let (_, irq, asked) = rig();
            assert!(AcpiPm::restore(&saved, irq, asked).is_err(), "{saved:?}");
        }
    }

    #[test]
    fn a_reset_forgets_the_button() {
        let (mut pm, irq, _) = rig();
        pm.press_power_button();
        pm.reset();
        assert!(!irq.level());
        assert_eq!(get(&mut pm, EVENTS), 0);
    }
}
