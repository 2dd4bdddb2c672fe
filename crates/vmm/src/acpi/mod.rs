//! The ACPI tables, through which a guest learns of its processors and devices.
//!
//! Hardware-reduced ACPI (ACPI 6.5 section 4.1): no fixed hardware but sleep and reset registers,
//! no PIC, no PIT, no SCI. Everything lies in one block below 1 MiB, where a guest that is not
//! told of the root pointer also looks for it.

mod dsdt;

use crate::boot::layout;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use devices::{acpi_pm, ioapic};

const OEM: [u8; 6] = *b"WHMBRL";
const OEM_TABLE: [u8; 8] = *b"WHIMBREL";
const OEM_REVISION: u32 = 1;
/// Integers of AML code are 64 bits wide from revision 2 of the DSDT on.
const DSDT_REVISION: u8 = 2;
const LOCAL_APIC: u32 = 0xfee0_0000;

/// IA-PC boot architecture flags (ACPI 6.5 table 5.10): what a guest must not look for. No bit
/// says that there is a keyboard controller or a legacy device, so there is none.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// Tables start at multiples of this, as the root pointer must.
const ALIGN: u64 = 16;

/// All tables of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Guest-physical address of the root pointer (RSDP).
    pub rsdp: u64,
    /// Guest-physical address that [`bytes`](Self::bytes) belong at.
    pub address: u64,
    /// The tables.
    pub bytes: Vec<u8>,
}

/// Builds the tables of a machine whose processors have these local APIC ids, in the order of
/// their numbers.
#[must_use]
pub fn build(apic_ids: &[u8]) -> Tables {
    let mut block = Block { bytes: vec![0; Rsdp::len()] };
    let dsdt = block.add(&dsdt());
    let fadt = block.add(&fadt(dsdt));
    let madt = block.add(&madt(apic_ids));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = block.add(&xsdt);
    let mut root = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    block.bytes[..root.len()].copy_from_slice(&root);
    Tables { rsdp: layout::ACPI, address: layout::ACPI, bytes: block.bytes }
}

/// The block as it grows; the root pointer's place is at its start.
struct Block {
    bytes: Vec<u8>,
}

impl Block {
    /// Appends a table and says at which guest-physical address it will be.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        while !(self.bytes.len() as u64).is_multiple_of(ALIGN) {
            self.bytes.push(0);
        }
        let address = layout::ACPI + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        address
    }
}

fn dsdt() -> Sdt {
    let mut code = Vec::new();
    dsdt::write(&mut code);
    let mut table = Sdt::new(*b"DSDT", 36, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&code);
    table
}

fn fadt(dsdt: u64) -> impl Aml {
    let port =
        |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    // The two button flags say that there are no fixed-hardware buttons.
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Wbinvd);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    fadt.reset_reg = port(acpi_pm::RESET);
    fadt.reset_value = acpi_pm::RESET_VALUE;
    fadt.sleep_control_reg = port(acpi_pm::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(acpi_pm::SLEEP_STATUS);
    fadt.finalize()
}

fn madt(apic_ids: &[u8]) -> MADT {
    let address = LocalInterruptController::Address(LOCAL_APIC);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, address);
    for (number, id) in (0..=u8::MAX).zip(apic_ids) {
        madt.add_structure(ProcessorLocalApic::new(number, *id, EnabledStatus::Enabled));
    }
    let base = u32::try_from(ioapic::BASE).expect("below 4 GiB");
    madt.add_structure(IoApic::new(ioapic::ID, base, 0));
    madt
}

#[cfg(test)]
mod tests;
