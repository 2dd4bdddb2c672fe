//! Direct kernel boot: from image files to a vCPU's first register values, without firmware.
//!
//! Two kinds of kernel are known: ELF with a PVH note (the Xen "x86/HVM direct boot ABI",
//! `docs/misc/pvh.pandoc`), and bzImage by the 64-bit boot protocol (Linux
//! `Documentation/arch/x86/boot.rst`). Images are hostile input: every offset, length and address
//! in them is checked against the file and against RAM before anything is copied, and whatever is
//! wrong is a [`BootError`] that says where in the file it is.

mod bzimage;
mod elf;
mod error;
mod image;
mod initrd;
pub mod layout;
mod pvh;
mod registers;
mod reset;

pub use error::BootError;
pub use image::Image;
pub use registers::initial_registers;

use error::memory_error;
use layout::MemoryMap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// How the first vCPU enters the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode without paging.
    Pvh {
        /// Guest-physical address of the first instruction.
        entry: u32,
        /// Guest-physical address of the start info structure.
        start_info: u32,
    },
    /// 64-bit mode with RAM below 4 GiB mapped one to one.
    Linux64 {
        /// Guest-physical address of the first instruction.
        entry: u64,
        /// Guest-physical address of the zero page.
        boot_params: u64,
    },
}

/// Puts kernel, initrd, command line and boot information into guest RAM.
///
/// RAM must be all zero where nothing is loaded, as it is when new: what a kernel expects to be
/// cleared is not written, so that memory which is never used is never touched either. `rsdp` is
/// the guest-physical address of the ACPI tables' root.
///
/// # Errors
/// [`BootError`] when an image is malformed or does not fit. RAM may then hold part of it.
pub fn load<M: GuestMemoryBackend>(
    memory: &M,
    kernel: &Image,
    initrd: Option<&Image>,
    cmdline: &str,
    rsdp: u64,
) -> Result<Entry, BootError> {
    let map = MemoryMap::of(memory);
    reset::write(memory)?;
    let mut magic = [0; 4];
    kernel.read_at(0, &mut magic)?;
    if magic == elf::MAGIC {
        let loaded = elf::load(memory, &map, kernel)?;
        write_cmdline(memory, cmdline, layout::CMDLINE_MAX)?;
        let module = initrd
            .map(|initrd| initrd::load(memory, initrd, loaded.end, map.low_end()))
            .transpose()?;
        pvh::write_start_info(memory, &map, module, rsdp)?;
        return Ok(Entry::Pvh { entry: loaded.entry, start_info: layout::START_INFO });
    }
    bzimage::load(memory, &map, kernel, initrd, cmdline, rsdp)
}

/// Writes the command line, ended by a zero.
fn write_cmdline<M: GuestMemoryBackend>(
    memory: &M,
    cmdline: &str,
    most: usize,
) -> Result<(), BootError> {
    if cmdline.len() > most {
        return Err(BootError::CmdlineTooLong { length: cmdline.len(), most });
    }
    if let Some(at) = cmdline.bytes().position(|b| b == 0) {
        return Err(BootError::CmdlineHasZero { at });
    }
    let address = GuestAddress(layout::CMDLINE.into());
    memory
        .write_slice(cmdline.as_bytes(), address)
        .and_then(|()| memory.write_obj(0u8, GuestAddress(address.0 + cmdline.len() as u64)))
        .map_err(memory_error("the command line"))
}

#[cfg(test)]
mod tests;
