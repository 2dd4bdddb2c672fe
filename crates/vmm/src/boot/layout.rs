//! Where things lie in the guest's physical address space, and what the guest is told about it.
//!
//! ```text
//! 0x0000_1000  GDT for the 64-bit entry
//! 0x0000_2000  PVH start info, module list, memory map
//! 0x0000_7000  zero page (boot_params)
//! 0x0000_9000  page tables for the 64-bit entry: PML4, PDPT, four page directories
//! 0x0002_0000  command line
//! 0x0009_fc00  end of RAM below 640 KiB
//! 0x000e_0000  ACPI tables, reserved
//! 0x000f_fff0  where a PC's firmware begins: code that resets the machine
//! 0x0010_0000  kernel, and RAM from here on
//!     …        initrd, as high as it may be
//! 0xc000_0000  end of RAM below 4 GiB: addresses of devices
//! 0xfec0_0000  I/O APIC
//! 0xfee0_0000  local APICs
//! 0xfffb_c000  pages that KVM needs for itself on some Intel processors
//! 0x1_0000_0000  the rest of RAM
//! ```

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

/// GDT for the 64-bit entry.
pub const GDT: u64 = 0x1000;
/// PVH start info; module list and memory map follow in the same page.
pub const START_INFO: u32 = 0x2000;
/// PVH module list.
pub(super) const MODULE_LIST: u64 = 0x2100;
/// PVH memory map.
pub(super) const MEMORY_MAP: u64 = 0x2200;
/// The zero page.
pub const ZERO_PAGE: u64 = 0x7000;
/// Page tables for the 64-bit entry: six pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// The command line.
pub const CMDLINE: u32 = 0x2_0000;
/// End of RAM below 640 KiB. The last KiB is left to an EBDA, for guests that look for one.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// First byte of the ACPI tables.
pub const ACPI: u64 = 0xe_0000;
/// First byte behind the place for ACPI tables; what follows belongs to the reset vector.
pub const ACPI_END: u64 = 0xf_f000;
/// Where a PC's firmware begins, in real mode at f000:fff0.
pub(super) const RESET_VECTOR: u64 = 0xf_fff0;
/// RAM at and above this address is the kernel's; below it, the loader's.
pub const KERNEL_RAM: u64 = 0x10_0000;

/// The longest command line, without its terminating zero. Linux takes no more than this
/// (`COMMAND_LINE_SIZE` on x86), and cuts a longer one off silently.
pub const CMDLINE_MAX: usize = 2047;

/// Kind of a range of addresses: ACPI 6.5 table 15.4, and the same in PVH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RangeKind {
    /// RAM that the guest may use.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
}

/// A range of addresses as the guest is told about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Guest-physical address of its first byte.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// What it is.
    pub kind: RangeKind,
}

/// The memory map that the guest is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMap {
    low_end: u64,
    ranges: Vec<Range>,
}

impl MemoryMap {
    /// The map of a guest with this RAM, whose first region starts at 0.
    #[must_use]
    pub fn of<M: GuestMemoryBackend>(memory: &M) -> Self {
        let ram = |start, end| Range { start, length: end - start, kind: RangeKind::Ram };
        let mut ranges = vec![
            ram(0, LOW_RAM_END),
            Range { start: ACPI, length: KERNEL_RAM - ACPI, kind: RangeKind::Reserved },
        ];
        let mut low_end = 0;
        for region in memory.iter() {
            let start = region.start_addr().raw_value();
            let end = start + region.len();
            if start == 0 {
                low_end = end;
                ranges.push(ram(KERNEL_RAM, end));
            } else {
                ranges.push(ram(start, end));
            }
        }
        Self { low_end, ranges }
    }

    /// Where RAM that starts at 0 ends.
    #[must_use]
    pub fn low_end(&self) -> u64 {
        self.low_end
    }

    /// The ranges, by rising address.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Whether a kernel may have these addresses.
    pub(super) fn is_kernel_ram(&self, address: u64, length: u64) -> bool {
        let end = address.checked_add(length);
        address >= KERNEL_RAM && end.is_some_and(|end| end <= self.low_end)
    }
}
