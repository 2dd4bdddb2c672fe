//! What the loader says at start: Xen's `public/arch-x86/hvm/start_info.h`

use crate::ram::Regions;

const MAGIC: u32 = 0x336e_c578;
const TYPE_RAM: u32 = 1;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    // from version 1 on
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// The part of the start info that the guests use
pub struct Boot {
    /// The command line, copied
    pub command_line: &'static str,
    /// Address of ACPI's root pointer, or 0
    pub rsdp: u64,
    /// The RAM
    pub ram: Regions,
}

static mut COMMAND_LINE: [u8; 2048] = [0; 2048];

impl Boot {
    /// Reads the start info
    ///
    /// # Safety
    /// `address` must be what the loader passed, and the call the first and only one.
    pub unsafe fn read(address: usize) -> Self {
        // SAFETY: by the PVH protocol this lies in memory below 4 GiB
        let info = unsafe { &*(address as *const StartInfo) };
        assert!(info.magic == MAGIC && info.version >= 1);
        let mut ram = Regions::none();
        // SAFETY: as above
        let map = unsafe {
            core::slice::from_raw_parts(
                info.memory_map as *const MemoryMapEntry,
                info.memory_map_entries as usize,
            )
        };
        for entry in map.iter().filter(|entry| entry.kind == TYPE_RAM) {
            ram.push(entry.address..entry.address + entry.size);
        }
        // SAFETY: nobody else uses the buffer; the loader's string ends with a zero byte
        let command_line = unsafe {
            let copy = &raw mut COMMAND_LINE;
            let copy = &mut *copy;
            let source = info.command_line as *const u8;
            let mut length = 0;
            while !source.is_null() && length < copy.len() && *source.add(length) != 0 {
                copy[length] = *source.add(length);
                length += 1;
            }
            &copy[..length]
        };
        // What is not text is no parameter either
        Self {
            command_line: core::str::from_utf8(command_line).unwrap_or(""),
            rsdp: info.rsdp,
            ram,
        }
    }
}
