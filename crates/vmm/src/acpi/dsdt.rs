//! The DSDT: devices, and the code with which a guest handles the power button.
//!
//! In the source language of ACPI it reads
//!
//! ```text
//! Scope (\_SB) {
//!     Device (COM1) { … UART at its ports, edge-triggered interrupt … }
//!     Device (MBRD) { … the power management ports, so that nobody gives them away … }
//!     Device (PWRB) { … a power button … }
//!     Device (GEDV) {                                   // generic event device
//!         … level-triggered interrupt …
//!         OperationRegion (EVRG, SystemIO, EVENTS, 1)
//!         Field (EVRG, ByteAcc, NoLock, WriteAsZeros) { EVNT, 8 }
//!         Method (_EVT, 1, Serialized) {
//!             Local0 = EVNT                             // reading takes the events
//!             If (Local0 & POWER_BUTTON) { Notify (PWRB, 0x80) }
//!         }
//!     }
//! }
//! Name (\_S5, Package () { S5_SLEEP_TYPE, 0, 0, 0 })
//! ```

use super::aml::{
    And, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO,
    If, Interrupt, Local, Method, Name, Notify, OpRegion, OpRegionSpace, Package, Path,
    ResourceTemplate, Scope, Store, ZERO,
};
use acpi_tables::Aml;
use devices::{acpi_pm, uart};

/// "The power button was pressed" (ACPI 6.5 table 5.171).
const BUTTON_PRESSED: u8 = 0x80;

/// Appends the code.
pub(super) fn write(code: &mut Vec<u8>) {
    Scope::new("\\_SB_".into(), vec![&Com1, &Motherboard, &PowerButton, &EventDevice])
        .to_aml_bytes(code);
    let soft_off = Package::new(vec![&acpi_pm::S5_SLEEP_TYPE, &ZERO, &ZERO, &ZERO]);
    Name::new("\\_S5_".into(), &soft_off).to_aml_bytes(code);
}

fn ports(base: u16, count: u16) -> IO {
    let count = u8::try_from(count).expect("a device here has less than 256 ports");
    IO::new(base, base, 1, count)
}

/// An interrupt that the device consumes, active high and its own.
fn interrupt(gsi: u8, edge_triggered: bool) -> Interrupt {
    Interrupt::new(true, edge_triggered, false, false, gsi.into())
}

struct Com1;
impl Aml for Com1 {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let ports = ports(uart::COM1_PORT, uart::PORTS);
        let irq = interrupt(uart::COM1_IRQ, true);
        Device::new(
            "COM1".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new("_DDN".into(), &"COM1"),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &irq])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

struct Motherboard;
impl Aml for Motherboard {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let ports = ports(acpi_pm::BASE, acpi_pm::PORTS);
        Device::new(
            "MBRD".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

struct PowerButton;
impl Aml for PowerButton {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let id = Name::new("_HID".into(), &EISAName::new("PNP0C0C"));
        Device::new("PWRB".into(), vec![&id]).to_aml_bytes(sink);
    }
}

struct EventDevice;
impl Aml for EventDevice {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let irq = interrupt(acpi_pm::GSI, false);
        let (region, one) = (acpi_pm::EVENTS, 1u8);
        let field = Field::new(
            "EVRG".into(),
            FieldAccessType::Byte,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            vec![FieldEntry::Named(*b"EVNT", 8)],
        );
        let register = Path::new("EVNT");
        let button = Path::new("PWRB");
        let pressed = And::new(&ZERO, &Local(0), &acpi_pm::EVENT_POWER_BUTTON);
        let notify = Notify::new(&button, &BUTTON_PRESSED);
        let take_events = Store::new(&Local(0), &register);
        let if_pressed = If::new(&pressed, vec![&notify]);
        let handler = Method::new("_EVT".into(), 1, true, vec![&take_events, &if_pressed]);
        Device::new(
            "GEDV".into(),
            vec![
                &Name::new("_HID".into(), &"ACPI0013"),
                &Name::new("_UID".into(), &ZERO),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&irq])),
                &OpRegion::new("EVRG".into(), OpRegionSpace::SystemIO, &region, &one),
                &field,
                &handler,
            ],
        )
        .to_aml_bytes(sink);
    }
}
