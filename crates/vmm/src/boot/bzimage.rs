//! bzImage kernels by the 64-bit boot protocol (Linux `Documentation/arch/x86/boot.rst`).

use super::error::memory_error;
use super::initrd::{self, Module};
use super::layout::{CMDLINE, CMDLINE_MAX, KERNEL_RAM, MemoryMap, PAGE_TABLES, ZERO_PAGE};
use super::{BootError, Entry, Image, registers, write_cmdline};
use linux_loader::loader::bootparam::{
    LOADED_HIGH, XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header,
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend};

const HEADER: u64 = 0x1f1;
const BOOT_FLAG: u64 = 0x1fe;
const MAGIC_OFFSET: u64 = 0x202;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// 2.12 brought `xloadflags`, which tell of the 64-bit entry: Linux 3.8.
const LEAST_VERSION: u16 = 0x020c;
/// The 64-bit entry is this far into the kernel.
const ENTRY_64: u64 = 0x200;
const SECTOR: u64 = 512;
/// "Undefined" boot loader: numbers are given out by the kernel's maintainers.
const LOADER_UNDEFINED: u8 = 0xff;
/// Two-mebibyte pages map the first 4 GiB.
const DIRECTORIES: u64 = 4;

/// What the header says, checked.
#[derive(Debug)]
struct Plan {
    header: setup_header,
    /// Offset and length in the file of what is loaded.
    offset: u64,
    length: u64,
    /// Guest-physical address it is loaded to.
    address: u64,
    /// Bytes from there on that the kernel uses before it reads the memory map.
    run_size: u64,
}

/// Checks the whole header, then copies the kernel and writes what it is to be told.
pub(super) fn load<M: GuestMemoryBackend>(
    memory: &M,
    map: &MemoryMap,
    image: &Image,
    initrd: Option<&Image>,
    cmdline: &str,
    rsdp: u64,
) -> Result<Entry, BootError> {
    let plan = plan(image)?;
    if !map.is_kernel_ram(plan.address, plan.run_size) {
        return Err(BootError::OutsideRam {
            file: image.name().to_owned(),
            address: plan.address,
            length: plan.run_size,
            end: map.low_end(),
        });
    }
    image.copy_to(memory, plan.address, plan.offset, plan.length)?;

    let most = usize::try_from(plan.header.cmdline_size).unwrap_or(CMDLINE_MAX);
    write_cmdline(memory, cmdline, most.min(CMDLINE_MAX))?;
    let ceiling = map.low_end().min(u64::from(plan.header.initrd_addr_max) + 1);
    let floor = plan.address + plan.run_size;
    let module = initrd.map(|initrd| initrd::load(memory, initrd, floor, ceiling)).transpose()?;

    let params = zero_page(&plan, map, module, rsdp);
    memory.write_obj(params, GuestAddress(ZERO_PAGE)).map_err(memory_error("the zero page"))?;
    write_page_tables(memory)?;
    registers::write_gdt(memory)?;
    Ok(Entry::Linux64 { entry: plan.address + ENTRY_64, boot_params: ZERO_PAGE })
}

/// Reads and checks the setup header.
fn plan(image: &Image) -> Result<Plan, BootError> {
    let mut header = setup_header::default();
    let file = || image.name().to_owned();
    let bad = |offset: u64, reason: String| BootError::BadBzImage { file: file(), offset, reason };
    let mut magic = [0; 4];
    // A file too short for a header is no kernel, rather than a truncated one.
    if image.check(HEADER, size_of::<setup_header>() as u64).is_err() {
        let found = format!("the file ends at byte {:#x}", image.length());
        return Err(BootError::NotAKernel { file: file(), offset: MAGIC_OFFSET, found });
    }
    image.read_at(MAGIC_OFFSET, &mut magic)?;
    if u32::from_le_bytes(magic) != MAGIC {
        let found = format!("{:02x?}", magic);
        return Err(BootError::NotAKernel { file: file(), offset: MAGIC_OFFSET, found });
    }
    image.read_at(HEADER, header.as_mut_slice())?;
    forget_what_follows(&mut header);

    let setup_header { boot_flag, version, loadflags, xloadflags, .. } = header;
    if boot_flag != 0xaa55 {
        return Err(bad(BOOT_FLAG, format!("the boot flag is {boot_flag:#06x}, not 0xaa55")));
    }
    if version < LEAST_VERSION {
        let (major, minor) = (version >> 8, version & 0xff);
        let reason = format!(
            "it speaks boot protocol {major}.{minor:02}, and 2.12 is needed: use Linux 3.8 or later"
        );
        return Err(bad(0x206, reason));
    }
    if loadflags & LOADED_HIGH == 0 || xloadflags & XLF_KERNEL_64 == 0 {
        let reason = "it has no 64-bit entry point: use a kernel for x86_64".to_owned();
        return Err(bad(0x236, reason));
    }

    let setup_header { setup_sects, syssize, pref_address, init_size, .. } = header;
    let setup_sectors = if setup_sects == 0 { 4 } else { setup_sects };
    let offset = (u64::from(setup_sectors) + 1) * SECTOR;
    // What follows the protected-mode code in the file is a signature, which is not loaded.
    let length = u64::from(syssize) * 16;
    if length <= ENTRY_64 {
        return Err(bad(0x1f4, format!("its code is {length} bytes, which hold no entry point")));
    }
    image.check(offset, length)?;
    if pref_address < KERNEL_RAM || !pref_address.is_multiple_of(4096) {
        let reason = format!("it wants to be loaded to {pref_address:#x}, which no kernel does");
        return Err(bad(0x258, reason));
    }
    let run_size = u64::from(init_size).max(length);
    Ok(Plan { header, offset, length, address: pref_address, run_size })
}

/// The header ends where the jump at 0x200 goes to; what follows is code and means nothing.
fn forget_what_follows(header: &mut setup_header) {
    let jump = header.jump;
    let end = MAGIC_OFFSET + u64::from(jump >> 8);
    let length = usize::try_from(end - HEADER).expect("at most 0x110");
    if let Some(behind) = header.as_mut_slice().get_mut(length..) {
        behind.fill(0);
    }
}

/// The zero page: the kernel's own header with our answers in it, and the memory map.
fn zero_page(plan: &Plan, map: &MemoryMap, initrd: Option<Module>, rsdp: u64) -> boot_params {
    let mut params = boot_params { hdr: plan.header, acpi_rsdp_addr: rsdp, ..Default::default() };
    let narrow = |value: u64| u32::try_from(value).expect("below the PCI hole");
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.code32_start = narrow(plan.address);
    params.hdr.cmd_line_ptr = CMDLINE;
    params.hdr.setup_data = 0;
    if let Some(Module { address, length }) = initrd {
        params.hdr.ramdisk_image = narrow(address);
        params.hdr.ramdisk_size = narrow(length);
    }
    let mut count = 0;
    let mut table = params.e820_table;
    for (slot, range) in table.iter_mut().zip(map.ranges()) {
        *slot =
            boot_e820_entry { addr: range.start, size: range.length, r#type: range.kind as u32 };
        count += 1;
    }
    params.e820_table = table;
    params.e820_entries = count;
    params
}

/// Maps the first 4 GiB one to one with pages of 2 MiB.
fn write_page_tables<M: GuestMemoryBackend>(memory: &M) -> Result<(), BootError> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let table = |number: u64| PAGE_TABLES + number * 4096;
    let put = |address: u64, entry: u64| {
        memory.write_obj(entry, GuestAddress(address)).map_err(memory_error("page tables"))
    };
    put(table(0), table(1) | PRESENT_WRITABLE)?;
    for directory in 0..DIRECTORIES {
        put(table(1) + directory * 8, table(2 + directory) | PRESENT_WRITABLE)?;
        for page in 0..512 {
            let address = (directory << 30) | (page << 21);
            put(table(2 + directory) + page * 8, address | PRESENT_WRITABLE | LARGE)?;
        }
    }
    Ok(())
}
