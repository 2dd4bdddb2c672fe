//! Code at the address where a PC's firmware would begin.
//!
//! Linux on hardware-reduced ACPI wants to restart through EFI, whether there is EFI or not, and
//! then goes back to real mode and jumps to the firmware's entry (`arch/x86/kernel/reboot.c`,
//! `BOOT_EFI` and `BOOT_BIOS`). There is no firmware here, but an entry that resets the machine.

use super::BootError;
use super::error::memory_error;
use super::layout::RESET_VECTOR;
use devices::acpi_pm;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// The code, for 16-bit real mode: `mov al, RESET_VALUE; mov dx, RESET; out dx, al`, then for ever
/// `hlt`.
fn code() -> [u8; 9] {
    let [low, high] = acpi_pm::RESET.to_le_bytes();
    [0xb0, acpi_pm::RESET_VALUE, 0xba, low, high, 0xee, 0xf4, 0xeb, 0xfd]
}

/// Writes it.
pub(super) fn write<M: GuestMemoryBackend>(memory: &M) -> Result<(), BootError> {
    let address = GuestAddress(RESET_VECTOR);
    memory.write_slice(&code(), address).map_err(memory_error("the restart code"))
}
