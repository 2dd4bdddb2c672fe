//! The boot information of a PVH kernel (Xen `public/arch-x86/hvm/start_info.h`).

use super::BootError;
use super::error::memory_error;
use super::initrd::Module;
use super::layout::{CMDLINE, MEMORY_MAP, MODULE_LIST, MemoryMap, START_INFO};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

const MAGIC: u32 = 0x336e_c578;
/// Version 1 has the memory map.
const VERSION: u32 = 1;

/// Writes start info, module list and memory map.
pub(super) fn write_start_info<M: GuestMemoryBackend>(
    memory: &M,
    map: &MemoryMap,
    initrd: Option<Module>,
    rsdp: u64,
) -> Result<(), BootError> {
    let ranges = map.ranges();
    let entries = u32::try_from(ranges.len()).expect("a handful");
    let info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if initrd.is_some() { MODULE_LIST } else { 0 },
        cmdline_paddr: CMDLINE.into(),
        rsdp_paddr: rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: entries,
        ..Default::default()
    };
    let failed = memory_error("the PVH start info");
    memory.write_obj(info, GuestAddress(START_INFO.into())).map_err(&failed)?;
    if let Some(Module { address, length }) = initrd {
        let module = hvm_modlist_entry { paddr: address, size: length, ..Default::default() };
        memory.write_obj(module, GuestAddress(MODULE_LIST)).map_err(&failed)?;
    }
    let mut at = MEMORY_MAP;
    for range in ranges {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.length,
            type_: range.kind as u32,
            reserved: 0,
        };
        memory.write_obj(entry, GuestAddress(at)).map_err(&failed)?;
        at += size_of::<hvm_memmap_table_entry>() as u64;
    }
    Ok(())
}
