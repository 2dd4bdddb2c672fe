//! What ACPI says: how many processors there are, and how to power off
//!
//! ACPI 6.5: 5.2.5 RSDP, 5.2.8 XSDT, 5.2.9 FADT, 5.2.12 MADT.

use crate::cpu;

/// A register that ACPI describes (generic address structure, 5.2.3.2)
#[derive(Clone, Copy)]
pub enum Register {
    /// In memory
    Memory(u64),
    /// An I/O port
    Port(u16),
}

impl Register {
    /// Writes a byte to it
    pub fn write(self, value: u8) {
        match self {
            // SAFETY: the firmware says that the register is there
            Self::Memory(address) => unsafe { (address as *mut u8).write_volatile(value) },
            Self::Port(port) => cpu::outb(port, value),
        }
    }
}

/// What the guests need of it
#[derive(Clone, Copy, Default)]
pub struct Acpi {
    /// Enabled processors
    pub processors: u64,
    /// Sleep control register of hardware-reduced ACPI (4.8.3.7)
    pub sleep: Option<Register>,
    /// Reset register and the value that resets (4.8.3.6)
    pub reset: Option<(Register, u8)>,
}

impl Acpi {
    /// Reads the tables, as far as they are there
    ///
    /// # Safety
    /// `rsdp` must be 0 or what the loader passed.
    pub unsafe fn read(rsdp: u64) -> Self {
        let mut acpi = Self::default();
        // SAFETY: the firmware's tables lie in memory below 4 GiB, which is mapped
        unsafe {
            if rsdp == 0 || bytes(rsdp, 8) != b"RSD PTR " {
                return acpi;
            }
            let (root, width) = match bytes(rsdp, 36)[15] {
                0 | 1 => (u64::from(u32_at(bytes(rsdp, 36), 16)), 4),
                _ => (u64_at(bytes(rsdp, 36), 24), 8),
            };
            for entry in table(root).get(36..).unwrap_or_default().chunks_exact(width) {
                let address = if width == 4 { u32_at(entry, 0).into() } else { u64_at(entry, 0) };
                let table = table(address);
                match table.get(..4) {
                    Some(b"APIC") => acpi.processors = processors(table),
                    Some(b"FACP") => {
                        acpi.sleep = register(table, 244);
                        acpi.reset = register(table, 116).map(|reset| (reset, table[128]));
                    }
                    _ => {}
                }
            }
        }
        acpi
    }
}

/// Counts what a MADT lists as enabled: local APIC (type 0) or x2APIC (type 9)
fn processors(madt: &[u8]) -> u64 {
    let (mut count, mut rest) = (0, madt.get(44..).unwrap_or_default());
    while let [kind, length, ..] = *rest {
        let Some((entry, next)) = rest.split_at_checked(usize::from(length).max(2)) else { break };
        let flags = match kind {
            0 if entry.len() >= 8 => entry[4],
            9 if entry.len() >= 16 => entry[8],
            _ => 0,
        };
        count += u64::from(flags & 1);
        rest = next;
    }
    count
}

fn register(table: &[u8], offset: usize) -> Option<Register> {
    let structure = table.get(offset..offset + 12)?;
    let address = u64_at(structure, 4);
    match structure[0] {
        _ if address == 0 => None,
        0 => Some(Register::Memory(address)),
        1 => u16::try_from(address).ok().map(Register::Port),
        _ => None,
    }
}

/// # Safety
/// A table with ACPI's common header must lie there.
unsafe fn table(address: u64) -> &'static [u8] {
    // SAFETY: by the caller
    unsafe { bytes(address, u32_at(bytes(address, 8), 4) as usize) }
}

/// # Safety
/// The memory must be mapped and constant.
unsafe fn bytes(address: u64, length: usize) -> &'static [u8] {
    // SAFETY: by the caller
    unsafe { core::slice::from_raw_parts(address as *const u8, length) }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    (0..4).rev().fold(0, |value, i| value << 8 | u32::from(bytes[offset + i]))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset + 4)) << 32 | u64::from(u32_at(bytes, offset))
}
