use super::layout::{ACPI, CMDLINE, KERNEL_RAM, LOW_RAM_END, RangeKind, START_INFO, ZERO_PAGE};
use super::*;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use proptest::prelude::*;
use vm_memory::{ByteValued, GuestMemoryMmap};

type Memory = GuestMemoryMmap<()>;

const MIB: u64 = 1 << 20;
const ENTRY: u32 = 0x10_0010;
const RSDP: u64 = ACPI;

fn ram(mib: usize) -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), mib << 20)]).unwrap()
}

fn read<const N: usize>(memory: &Memory, address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

/// An ELF file: one segment of `code` at 1 MiB, one of zeroes behind it, and a note.
fn elf(code: &[u8], entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, 8, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(u64::from(entry).to_le_bytes());

    let data = 64 + 3 * 56u64;
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01");
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(u64::from(entry).to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    let notes = data + code.len() as u64;
    let mut header = |kind: u32, offset: u64, address: u64, file_size: u64, memory_size: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for word in [offset, address, address, file_size, memory_size, 4] {
            file.extend(word.to_le_bytes());
        }
    };
    header(1, data, KERNEL_RAM, code.len() as u64, 0x1000);
    header(1, data, KERNEL_RAM + 0x2000, 0, 0x1000);
    header(4, notes, 0, note.len() as u64, note.len() as u64);
    file.extend(code);
    file.extend(note);
    file
}

/// A bzImage with `code` of a whole number of 16-byte units.
fn bzimage(code: &[u8]) -> Vec<u8> {
    let header = setup_header {
        setup_sects: 1,
        syssize: u32::try_from(code.len() / 16).unwrap(),
        boot_flag: 0xaa55,
        jump: 0x6aeb,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x020f,
        loadflags: 1,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: 1,
        cmdline_size: 2047,
        setup_data: 0x1234,
        pref_address: 0x100_0000,
        init_size: 0x20_0000,
        ..Default::default()
    };
    let mut file = vec![0; 1024];
    file[0x1f1..][..size_of::<setup_header>()].copy_from_slice(header.as_slice());
    file.extend(code);
    file.extend(b"signature");
    file
}

fn image(bytes: Vec<u8>) -> Image {
    Image::from_bytes("kernel", bytes)
}

fn error(memory: &Memory, kernel: Vec<u8>) -> BootError {
    load(memory, &image(kernel), None, "", RSDP).unwrap_err()
}

fn patched(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn an_elf_kernel_is_loaded_and_told_about_its_machine() {
    let memory = ram(32);
    let initrd = Image::from_bytes("initrd", vec![0xab; 5000]);
    let kernel = image(elf(&[0x90; 300], ENTRY));
    let entry = load(&memory, &kernel, Some(&initrd), "console=ttyS0", RSDP).unwrap();
    assert_eq!(entry, Entry::Pvh { entry: ENTRY, start_info: START_INFO });
    assert_eq!(read::<301>(&memory, KERNEL_RAM)[299..], [0x90, 0]);

    let info: hvm_start_info = memory.read_obj(GuestAddress(START_INFO.into())).unwrap();
    assert_eq!((info.magic, info.version, info.rsdp_paddr), (0x336e_c578, 1, RSDP));
    assert_eq!(&read::<14>(&memory, info.cmdline_paddr), b"console=ttyS0\0");
    assert_eq!(info.nr_modules, 1);
    let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
    assert_eq!((module.paddr, module.size), (32 * MIB - 8192, 5000));
    assert_eq!(read::<5001>(&memory, module.paddr)[4999..], [0xab, 0]);

    let map: Vec<_> = (0..u64::from(info.memmap_entries))
        .map(|i| {
            let at = GuestAddress(info.memmap_paddr + i * 24);
            let entry: hvm_memmap_table_entry = memory.read_obj(at).unwrap();
            (entry.addr, entry.addr + entry.size, entry.type_)
        })
        .collect();
    let reserved = (ACPI, KERNEL_RAM, 2);
    assert_eq!(map, [(0, LOW_RAM_END, 1), reserved, (KERNEL_RAM, 32 * MIB, 1)]);
}

#[test]
fn a_bzimage_is_loaded_and_told_about_its_machine() {
    let memory = ram(64);
    let initrd = Image::from_bytes("initrd", vec![0xab; 4096]);
    let kernel = image(bzimage(&[0x90; 1040]));
    let entry = load(&memory, &kernel, Some(&initrd), "quiet", RSDP).unwrap();
    assert_eq!(entry, Entry::Linux64 { entry: 0x100_0200, boot_params: ZERO_PAGE });
    assert_eq!(read::<1041>(&memory, 0x100_0000)[1039..], [0x90, 0], "the signature stays out");

    let params: boot_params = memory.read_obj(GuestAddress(ZERO_PAGE)).unwrap();
    let setup_header { cmd_line_ptr, ramdisk_image, ramdisk_size, setup_data, header, .. } =
        params.hdr;
    assert_eq!(header, u32::from_le_bytes(*b"HdrS"));
    assert_eq!((cmd_line_ptr, setup_data), (CMDLINE, 0));
    assert_eq!(params.hdr.type_of_loader, 0xff);
    assert_eq!(&read::<6>(&memory, CMDLINE.into()), b"quiet\0");
    assert_eq!((u64::from(ramdisk_image), ramdisk_size), (64 * MIB - 4096, 4096));
    assert_eq!({ params.acpi_rsdp_addr }, RSDP);
    assert_eq!(params.e820_entries, 3);
    let table = params.e820_table;
    let boot_e820_entry { addr, size, r#type } = table[2];
    assert_eq!((addr, addr + size, r#type), (KERNEL_RAM, 64 * MIB, RangeKind::Ram as u32));

    // Every 2 MiB page up to 4 GiB stands for itself.
    let pml4: u64 = memory.read_obj(GuestAddress(layout::PAGE_TABLES)).unwrap();
    for address in [0, 0x20_0000, 0x7fe0_0000, 0xffe0_0000u64] {
        let pdpte: u64 =
            memory.read_obj(GuestAddress((pml4 & !0xfff) + (address >> 30) * 8)).unwrap();
        let slot = (pdpte & !0xfff) + (address >> 21 & 511) * 8;
        assert_eq!(memory.read_obj::<u64>(GuestAddress(slot)).unwrap(), address | 0x83);
    }
    let data: u64 = memory.read_obj(GuestAddress(layout::GDT + 0x18)).unwrap();
    assert_eq!(data, 0x00cf_9300_0000_ffff);
}

#[test]
fn a_guest_that_jumps_to_the_firmware_is_reset() {
    let memory = ram(16);
    load(&memory, &image(elf(&[0x90; 300], ENTRY)), None, "", RSDP).unwrap();
    // mov al, 1; mov dx, 0x601; out dx, al; hlt; jmp -3: at f000:fff0, and within 1 MiB.
    let code = [0xb0, 0x01, 0xba, 0x01, 0x06, 0xee, 0xf4, 0xeb, 0xfd];
    assert_eq!(read::<9>(&memory, (0xf000 << 4) + 0xfff0), code);
}

#[test]
fn what_lies_behind_the_setup_header_is_not_taken_for_part_of_it() {
    let memory = ram(64);
    // A header that ends before `init_size` (0x260): what stands there is code.
    let kernel = patched(bzimage(&[0x90; 1040]), 0x201, &[0x5e]);
    let kernel = patched(kernel, 0x260, &[0xff; 4]);
    load(&memory, &image(kernel), None, "", RSDP).unwrap();
}

#[test]
fn ram_above_the_hole_is_in_the_map() {
    let ranges = [(GuestAddress(0), 32 << 20), (GuestAddress(1 << 32), 16 << 20)];
    let map = MemoryMap::of(&Memory::from_ranges(&ranges).unwrap());
    let last = map.ranges().last().unwrap();
    assert_eq!((last.start, last.length, last.kind), (1 << 32, 16 * MIB, RangeKind::Ram));
    assert_eq!(map.low_end(), 32 * MIB);
}

#[test]
fn what_is_no_kernel_is_called_so() {
    let memory = ram(16);
    for bytes in [vec![b'#'; 8], vec![0; 4096], vec![]] {
        let found = load(&memory, &image(bytes), None, "", RSDP).unwrap_err();
        let by_length = matches!(found, BootError::NotAKernel { .. });
        assert!(by_length || matches!(found, BootError::Truncated { .. }), "{found}");
    }
}

#[test]
fn an_elf_file_that_breaks_a_rule_is_refused_with_the_place() {
    let good = || elf(&[0x90; 300], ENTRY);
    let load_header = 64;
    let cases = [
        ("32-bit", patched(good(), 4, &[1]), 4),
        ("big-endian", patched(good(), 5, &[2]), 4),
        ("another machine", patched(good(), 18, &[183]), 18),
        ("odd header size", patched(good(), 54, &[32]), 54),
        ("no headers", patched(good(), 56, &[0, 0]), 56),
        ("too many headers", patched(good(), 56, &[0xff, 0xff]), 56),
        ("more file than memory", patched(good(), load_header + 40, &[1, 0]), 64),
        ("below 1 MiB", patched(good(), load_header + 24, &0x9000u64.to_le_bytes()), 64),
        ("overlap", patched(good(), load_header + 40, &0x3000u64.to_le_bytes()), 64 + 56),
        ("note too long", patched(good(), 64 + 2 * 56 + 32, &(1u64 << 20).to_le_bytes()), 176),
        ("entry outside", elf(&[0x90; 300], 0x20_0000), 0),
    ];
    for (what, file, place) in cases {
        match error(&ram(16), file) {
            BootError::BadElf { offset, .. } => assert_eq!(offset, place, "{what}"),
            other => panic!("{what}: {other}"),
        }
    }
}

#[test]
fn an_elf_file_without_a_pvh_note_says_what_to_use_instead() {
    let without = patched(elf(&[0x90; 300], ENTRY), 64 + 2 * 56, &[9]);
    assert!(error(&ram(16), without).to_string().contains("CONFIG_PVH"));
}

/// The ELF file with other notes in place of its own.
fn with_notes(notes: &[u8], align: u64) -> Vec<u8> {
    let header = 64 + 2 * 56;
    let size = (notes.len() as u64).to_le_bytes();
    let mut file = patched(elf(&[0x90; 300], ENTRY), header + 32, &size);
    file.truncate(64 + 3 * 56 + 300);
    file.extend(notes);
    patched(file, header + 48, &align.to_le_bytes())
}

fn note(name: &[u8], kind: u8, desc: &[u8], align: usize) -> Vec<u8> {
    let sizes = [name.len(), desc.len()].map(|len| u8::try_from(len).unwrap());
    let mut note = vec![sizes[0], 0, 0, 0, sizes[1], 0, 0, 0, kind, 0, 0, 0];
    note.extend(name);
    note.resize(note.len().next_multiple_of(align), 0);
    note.extend(desc);
    note.resize(note.len().next_multiple_of(align), 0);
    note
}

#[test]
fn the_pvh_note_is_found_among_others_whatever_their_alignment() {
    let entry = ENTRY.to_le_bytes();
    for align in [4, 8] {
        let mut notes = note(b"GNU\0", 18, &[1; 5], align);
        notes.extend(note(b"", 18, &[1; 4], align));
        notes.extend(note(b"Xenon\0", 18, &[1; 3], align));
        notes.extend(note(b"Xen\0", 6, b"linux\0", align));
        notes.extend(note(b"Xen\0", 18, &entry, align));
        let kernel = image(with_notes(&notes, align as u64));
        let loaded = load(&ram(16), &kernel, None, "", RSDP).unwrap();
        assert_eq!(loaded, Entry::Pvh { entry: ENTRY, start_info: START_INFO });
    }
}

#[test]
fn a_pvh_note_that_cannot_be_is_refused() {
    let too_high = note(b"Xen\0", 18, &(1u64 << 32 | u64::from(ENTRY)).to_le_bytes(), 4);
    let odd = note(b"Xen\0", 18, &[0; 6], 4);
    let mut longer_than_its_segment = note(b"Xen\0", 18, &[0; 8], 4);
    longer_than_its_segment.truncate(20);
    let mut endless = note(b"Xen\0", 18, &[0; 8], 4);
    endless[..8].fill(0xff);
    for notes in [too_high, odd, longer_than_its_segment, endless] {
        let error = error(&ram(16), with_notes(&notes, 4));
        assert!(matches!(error, BootError::BadElf { .. }), "{error}");
    }
}

#[test]
fn the_order_of_segments_in_the_file_does_not_matter() {
    let swapped = patched(elf(&[0x90; 300], ENTRY), 64 + 24, &0x10_2000u64.to_le_bytes());
    let swapped = patched(swapped, 64 + 56 + 24, &KERNEL_RAM.to_le_bytes());
    load(&ram(16), &image(swapped), None, "", RSDP).unwrap();
}

#[test]
fn a_bzimage_with_the_number_of_setup_sectors_left_out_has_four() {
    let mut kernel = patched(bzimage(&[0x90; 1040]), 0x1f1, &[0]);
    kernel.splice(1024..1024, [0; 3 * 512]);
    let memory = ram(64);
    load(&memory, &image(kernel), None, "", RSDP).unwrap();
    assert_eq!(read::<1>(&memory, 0x100_0000), [0x90]);
}

#[test]
fn a_bzimage_that_breaks_a_rule_is_refused_with_the_place() {
    let good = || bzimage(&[0x90; 1040]);
    let cases = [
        ("no boot flag", patched(good(), 0x1fe, &[0]), 0x1fe),
        ("old protocol", patched(good(), 0x206, &[0x0b, 0x02]), 0x206),
        ("32-bit only", patched(good(), 0x236, &[0]), 0x236),
        ("zImage", patched(good(), 0x211, &[0]), 0x236),
        ("no code", patched(good(), 0x1f4, &[0; 4]), 0x1f4),
        ("loads low", patched(good(), 0x258, &[0; 8]), 0x258),
        ("loads askew", patched(good(), 0x258, &[1]), 0x258),
    ];
    for (what, file, place) in cases {
        match error(&ram(64), file) {
            BootError::BadBzImage { offset, .. } => assert_eq!(offset, place, "{what}"),
            other => panic!("{what}: {other}"),
        }
    }
}

#[test]
fn a_kernel_that_needs_more_ram_says_how_much() {
    let huge = patched(elf(&[0x90; 300], ENTRY), 64 + 56 + 40, &(1u64 << 40).to_le_bytes());
    assert!(
        matches!(error(&ram(16), huge), BootError::OutsideRam { length, .. } if length == 1 << 40)
    );
    let wrapping = patched(elf(&[0x90; 300], ENTRY), 64 + 56 + 24, &u64::MAX.to_le_bytes());
    assert!(matches!(error(&ram(16), wrapping), BootError::OutsideRam { .. }));
    assert!(matches!(error(&ram(16), bzimage(&[0; 1040])), BootError::OutsideRam { .. }));
    let careless = patched(bzimage(&[0; 2 << 20]), 0x260, &[0; 4]);
    assert!(matches!(error(&ram(17), careless), BootError::OutsideRam { .. }));
}

#[test]
fn a_truncated_file_is_called_truncated() {
    let kernel = elf(&[0x90; 300], ENTRY);
    let cut = kernel[..kernel.len() - 1].to_vec();
    assert!(matches!(error(&ram(16), cut), BootError::Truncated { .. }));
    // The second segment is missing from the file: not even the first one is copied.
    let memory = ram(16);
    let cut = patched(elf(&[0x90; 300], ENTRY), 64 + 56 + 8, &(1u64 << 30).to_le_bytes());
    let cut = patched(cut, 64 + 56 + 32, &[1]);
    assert!(matches!(error(&memory, cut), BootError::Truncated { .. }));
    assert_eq!(read::<1>(&memory, KERNEL_RAM), [0]);
    let mut kernel = bzimage(&[0x90; 4000]);
    kernel.truncate(4096);
    assert!(matches!(error(&ram(64), kernel), BootError::Truncated { .. }));
}

#[test]
fn an_initrd_that_does_not_fit_is_refused_with_the_room_there_is() {
    let memory = ram(16);
    let kernel = image(elf(&[0x90; 300], ENTRY));
    let exact = 15 * MIB - 0x3000;
    let with = |length: u64| {
        let initrd = Image::from_bytes("initrd", vec![1; usize::try_from(length).unwrap()]);
        load(&memory, &kernel, Some(&initrd), "", RSDP)
    };
    assert!(with(exact).is_ok());
    assert!(
        matches!(with(exact + 1), Err(BootError::InitrdTooLarge { room, .. }) if room == exact)
    );
    assert!(matches!(with(17 * MIB), Err(BootError::InitrdTooLarge { .. })));
    assert!(matches!(with(0), Err(BootError::InitrdEmpty { .. })));
}

#[test]
fn an_initrd_stays_below_what_the_kernel_allows() {
    let memory = ram(64);
    let limit = 0x180_0fff_u32;
    let kernel = image(patched(bzimage(&[0x90; 1040]), 0x22c, &limit.to_le_bytes()));
    let initrd = Image::from_bytes("initrd", vec![1; 100]);
    load(&memory, &kernel, Some(&initrd), "", RSDP).unwrap();
    let params: boot_params = memory.read_obj(GuestAddress(ZERO_PAGE)).unwrap();
    assert_eq!({ params.hdr.ramdisk_image }, 0x180_0000);
}

#[test]
fn a_command_line_that_the_kernel_would_cut_off_is_refused() {
    let memory = ram(64);
    for kernel in [elf(&[0x90; 300], ENTRY), bzimage(&[0x90; 1040])] {
        let kernel = image(kernel);
        let with = |line: &str| load(&memory, &kernel, None, line, RSDP);
        memory.write_slice(&[b'y'; 4096], GuestAddress(CMDLINE.into())).unwrap();
        with("ends here").unwrap();
        assert_eq!(&read::<10>(&memory, CMDLINE.into()), b"ends here\0");
        assert!(with(&"x".repeat(2047)).is_ok());
        assert!(matches!(
            with(&"x".repeat(2048)),
            Err(BootError::CmdlineTooLong { length: 2048, most: 2047 })
        ));
        assert!(matches!(with("a\0b"), Err(BootError::CmdlineHasZero { at: 1 })));
    }
    let short = image(patched(bzimage(&[0x90; 1040]), 0x238, &[7, 0, 0, 0]));
    let error = load(&memory, &short, None, "12345678", RSDP).unwrap_err();
    assert!(matches!(error, BootError::CmdlineTooLong { most: 7, .. }));
}

#[test]
fn an_image_comes_from_a_file_or_from_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel");
    std::fs::write(&path, elf(&[0x90; 300], ENTRY)).unwrap();
    load(&ram(16), &Image::open(&path).unwrap(), None, "", RSDP).unwrap();
    assert!(matches!(Image::open(folder.path()), Err(BootError::Open { .. })));
    let missing = Image::open(&folder.path().join("none")).unwrap_err();
    assert!(missing.to_string().contains("none"));

    let (reader, mut writer) = std::io::pipe().unwrap();
    let bytes = elf(&[0x90; 300], ENTRY);
    std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
    load(&ram(16), &Image::open(path.as_ref()).unwrap(), None, "", RSDP).unwrap();
}

/// Changes, each of one byte, most of them in the headers.
fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_elf_file_is_loaded_or_refused(damage in damage(), cut in 0usize..64) {
        let mut file = elf(&[0x90; 64], ENTRY);
        for (at, value) in damage {
            let at = at.index(file.len());
            file[at] = value;
        }
        file.truncate(file.len() - cut);
        let _ = load(&ram(16), &image(file), None, "", RSDP);
    }

    #[test]
    fn a_damaged_bzimage_is_loaded_or_refused(damage in damage(), cut in any::<bool>()) {
        let mut file = bzimage(&[0x90; 1040]);
        for (at, value) in damage {
            file[0x1f1 + at.index(0x7b)] = value;
        }
        if cut {
            file.truncate(1800);
        }
        let initrd = Image::from_bytes("initrd", vec![1; 100]);
        let _ = load(&ram(64), &image(file), Some(&initrd), "quiet", RSDP);
    }

    #[test]
    fn extreme_numbers_in_an_elf_file_are_loaded_or_refused(
        at in 3usize..(64 + 3 * 56) / 8,
        value in prop_oneof![Just(u64::MAX), Just(1 << 63), Just(u64::MAX - 4095), any::<u64>()],
    ) {
        let file = patched(elf(&[0x90; 64], ENTRY), at * 8, &value.to_le_bytes());
        let _ = load(&ram(16), &image(file), None, "", RSDP);
    }
}

#[test]
fn every_truncation_of_a_kernel_is_refused() {
    for file in [elf(&[0x90; 64], ENTRY), bzimage(&[0x90; 1040])] {
        let needed = file.len() - if file[0] == 0x7f { 0 } else { b"signature".len() };
        for length in 0..needed {
            let cut = image(file[..length].to_vec());
            assert!(load(&ram(64), &cut, None, "", RSDP).is_err(), "{length}");
        }
    }
}
