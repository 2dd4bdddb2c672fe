//! An I/O APIC in user space: 24 pins to messages for the local APICs.
//!
//! KVM keeps the local APICs in the kernel (split irqchip) and leaves this part to us: an
//! interrupt leaves it as a message ([`MsiSink::deliver`]), and KVM reports the end of a
//! level-triggered one as an exit (`KVM_EXIT_IOAPIC_EOI`, Linux `Documentation/virt/kvm/api.rst`),
//! which it does only for vectors that it finds in the routing table ([`IoApic::routes`]).
//!
//! Registers follow the Intel 82093AA data sheet and, for the EOI register of version 0x20, the
//! I/O APIC chapter of the ICH9 data sheet. Two facts of the 82093AA decide what there is to save:
//! an edge on a masked pin is lost, and a level acts for as long as it lasts. So beside the
//! registers only the levels of the lines are state.

mod entry;
mod saved;

pub use entry::MsiMessage;
pub use saved::SavedIoApic;

use crate::bus::BusDevice;
use crate::irq::IrqLine;
use crate::lock;
use entry::Entry;
use std::sync::{Arc, Mutex};

/// Guest-physical address of the register window.
pub const BASE: u64 = 0xfec0_0000;
/// Length of the register window in bytes.
pub const LENGTH: u64 = 0x1000;
/// Number of pins; pin *n* is global system interrupt *n*.
pub const PINS: u8 = 24;
/// APIC id after reset, and in the MADT.
pub const ID: u8 = 0;

const VERSION: u32 = 0x20;

mod offset {
    pub const SELECT: u64 = 0x00;
    pub const WINDOW: u64 = 0x10;
    pub const EOI: u64 = 0x40;
}

mod index {
    pub const ID: u8 = 0x00;
    pub const VERSION: u8 = 0x01;
    pub const ARBITRATION: u8 = 0x02;
    pub const TABLE: u8 = 0x10;
}

/// Where messages go: in a machine, KVM.
pub trait MsiSink: Send + Sync {
    /// Delivers an interrupt (`KVM_SIGNAL_MSI`).
    fn deliver(&self, message: MsiMessage);
    /// The pins whose end of interrupt we need to hear of are now these
    /// (`KVM_SET_GSI_ROUTING`). Called before a message of theirs is delivered.
    fn routes_changed(&self, routes: &[Route]);
}

/// A level-triggered pin as the kernel's interrupt routing table needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Global system interrupt, which is the pin's number.
    pub gsi: u32,
    /// What the pin sends.
    pub message: MsiMessage,
}

/// The I/O APIC.
pub struct IoApic {
    id: u8,
    select: u8,
    /// Bit *n*: the line at pin *n* is active.
    lines: u32,
    entries: [Entry; PINS as usize],
    sink: Arc<dyn MsiSink>,
}

impl IoApic {
    /// An I/O APIC as it is after power-on: every pin masked.
    #[must_use]
    pub fn new(sink: Arc<dyn MsiSink>) -> Self {
        Self { id: ID, select: 0, lines: 0, entries: [Entry::RESET; PINS as usize], sink }
    }

    /// Back to power-on. The lines are the devices' and stay as they are.
    pub fn reset(&mut self) {
        let had_routes = !self.routes().is_empty();
        *self = Self { lines: self.lines, ..Self::new(self.sink.clone()) };
        if had_routes {
            self.sink.routes_changed(&[]);
        }
    }

    /// Sets the level of the line at a pin. Pins that do not exist are not connected.
    pub fn set_line(&mut self, pin: u8, active: bool) {
        if pin >= PINS {
            return;
        }
        let bit = 1 << pin;
        let rising = active && self.lines & bit == 0;
        if active {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        let entry = self.entries[usize::from(pin)];
        if entry.is_level() {
            self.serve_level(pin);
        } else if rising && !entry.is_masked() {
            self.sink.deliver(entry.message());
        }
    }

    /// A local APIC has ended the interrupt of this vector.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..PINS {
            let entry = &mut self.entries[usize::from(pin)];
            if entry.is_level() && entry.remote_irr() && entry.vector() == vector {
                entry.set_remote_irr(false);
                self.serve_level(pin);
            }
        }
    }

    /// The level-triggered pins. KVM must know them before any of their messages is delivered, so
    /// whoever restores an I/O APIC programs these.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        (0..PINS).filter_map(|pin| self.route(pin)).collect()
    }

    /// A masked pin keeps its route: an interrupt that was delivered before it was masked still
    /// has to be ended.
    fn route(&self, pin: u8) -> Option<Route> {
        let entry = self.entries[usize::from(pin)];
        // Vectors below 16 are not valid; an entry that was never filled in has vector 0.
        (entry.is_level() && entry.vector() >= 16)
            .then(|| Route { gsi: u32::from(pin), message: entry.message() })
    }

    /// Delivers a level-triggered interrupt if the line asks for one and none is in service.
    fn serve_level(&mut self, pin: u8) {
        let entry = &mut self.entries[usize::from(pin)];
        let asked = self.lines & (1 << pin) != 0;
        if asked && !entry.is_masked() && !entry.remote_irr() {
            entry.set_remote_irr(true);
            self.sink.deliver(entry.message());
        }
    }

    fn read_window(&self) -> u32 {
        match self.select {
            index::ID | index::ARBITRATION => u32::from(self.id) << 24,
            index::VERSION => (u32::from(PINS) - 1) << 16 | VERSION,
            select => match entry_of(select) {
                Some((pin, high)) => self.entries[usize::from(pin)].half(high),
                None => 0,
            },
        }
    }

    fn write_window(&mut self, value: u32) {
        match self.select {
            index::ID => self.id = (value >> 24).to_le_bytes()[0] & 0x0f,
            select => {
                if let Some((pin, high)) = entry_of(select) {
                    self.write_entry(pin, high, value);
                }
            }
        }
    }

    fn write_entry(&mut self, pin: u8, high: bool, value: u32) {
        let before = self.route(pin);
        self.entries[usize::from(pin)].set_half(high, value);
        if self.route(pin) != before {
            self.sink.routes_changed(&self.routes());
        }
        if self.entries[usize::from(pin)].is_level() {
            self.serve_level(pin);
        }
    }
}

/// The pin, and whether the upper half, that an index register value selects.
fn entry_of(select: u8) -> Option<(u8, bool)> {
    let at = select.checked_sub(index::TABLE)?;
    (at < 2 * PINS).then_some((at / 2, at % 2 == 1))
}

impl BusDevice for IoApic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            offset::SELECT => u32::from(self.select),
            offset::WINDOW => self.read_window(),
            _ => 0,
        };
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        for (byte, value) in bytes.iter_mut().zip(data) {
            *byte = *value;
        }
        let value = u32::from_le_bytes(bytes);
        match offset {
            offset::SELECT => self.select = bytes[0],
            offset::WINDOW => self.write_window(value),
            offset::EOI => self.end_of_interrupt(bytes[0]),
            _ => {}
        }
    }
}

/// A device's wire to a pin.
#[derive(Debug, Clone)]
pub struct Pin {
    ioapic: Arc<Mutex<IoApic>>,
    pin: u8,
}

impl Pin {
    /// The wire to pin `pin` of `ioapic`.
    #[must_use]
    pub fn new(ioapic: Arc<Mutex<IoApic>>, pin: u8) -> Self {
        Self { ioapic, pin }
    }
}

impl IrqLine for Pin {
    fn set(&self, active: bool) {
        lock(&self.ioapic).set_line(self.pin, active);
    }
}

impl std::fmt::Debug for IoApic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.save().fmt(f)
    }
}

#[cfg(test)]
mod tests;
