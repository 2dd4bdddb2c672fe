//! ELF kernels with a PVH entry point.

use super::layout::{KERNEL_RAM, MemoryMap};
use super::{BootError, Image};
use vm_memory::GuestMemoryBackend;

/// First bytes of an ELF file.
pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
/// Far more than any kernel has; bounds the work that a file can ask for.
const MOST_PROGRAM_HEADERS: u16 = 256;
/// Notes are short: build ids, entry points.
const MOST_NOTE_BYTES: u64 = 64 << 10;

const CLASS_64: u8 = 2;
const DATA_LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen `public/elfnote.h`).
const NOTE_PHYS32_ENTRY: u32 = 18;

/// A kernel that is in guest RAM.
pub(super) struct Loaded {
    /// Guest-physical address of the first instruction.
    pub entry: u32,
    /// First guest-physical address behind the kernel.
    pub end: u64,
}

/// A program header: what part of the file goes where.
#[derive(Debug, Clone, Copy)]
struct Segment {
    /// Where in the file the header itself is.
    header: u64,
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.address.saturating_add(self.memory_size)
    }
}

/// Checks the whole file, then copies its segments.
pub(super) fn load<M: GuestMemoryBackend>(
    memory: &M,
    map: &MemoryMap,
    image: &Image,
) -> Result<Loaded, BootError> {
    let segments = program_headers(image)?;
    let entry = pvh_entry(image, &segments)?;
    let loads = loadable(map, image, &segments)?;
    if !loads.iter().any(|s| s.address <= entry.into() && u64::from(entry) < s.end()) {
        return Err(bad(image, 0, format!("its PVH entry {entry:#x} is in none of its segments")));
    }
    for segment in &loads {
        image.copy_to(memory, segment.address, segment.offset, segment.file_size)?;
    }
    let end = loads.iter().map(Segment::end).max().unwrap_or(KERNEL_RAM);
    Ok(Loaded { entry, end })
}

fn bad(image: &Image, offset: u64, reason: impl Into<String>) -> BootError {
    BootError::BadElf { file: image.name().to_owned(), offset, reason: reason.into() }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads the ELF header and the program headers (System V gABI, chapters 4 and 5).
fn program_headers(image: &Image) -> Result<Vec<Segment>, BootError> {
    let mut header = [0; HEADER_SIZE];
    image.read_at(0, &mut header)?;
    if header[4] != CLASS_64 || header[5] != DATA_LITTLE_ENDIAN {
        return Err(bad(image, 4, "it is not a 64-bit little-endian file"));
    }
    let machine = u16_at(&header, 18);
    if machine != MACHINE_X86_64 {
        return Err(bad(image, 18, format!("it is for machine {machine}, not for x86_64 (62)")));
    }
    let (table, size, count) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
    if size != PROGRAM_HEADER_SIZE {
        return Err(bad(image, 54, format!("its program headers are {size} bytes, not 56")));
    }
    if count == 0 || count > MOST_PROGRAM_HEADERS {
        return Err(bad(image, 56, format!("it has {count} program headers; 1 to 256 are read")));
    }
    let mut bytes = vec![0; usize::from(size) * usize::from(count)];
    image.read_at(table, &mut bytes)?;
    let headers = bytes.chunks_exact(usize::from(size)).enumerate();
    Ok(headers
        .map(|(i, h)| Segment {
            header: table + (i * usize::from(size)) as u64,
            kind: u32_at(h, 0),
            offset: u64_at(h, 8),
            address: u64_at(h, 24),
            file_size: u64_at(h, 32),
            memory_size: u64_at(h, 40),
            align: u64_at(h, 48),
        })
        .collect())
}

/// The segments to be loaded, by rising address, each checked and none over another.
fn loadable(
    map: &MemoryMap,
    image: &Image,
    segments: &[Segment],
) -> Result<Vec<Segment>, BootError> {
    let is_load = |s: &&Segment| s.kind == PT_LOAD && s.memory_size > 0;
    let mut loads: Vec<Segment> = segments.iter().filter(is_load).copied().collect();
    for s in &loads {
        if s.file_size > s.memory_size {
            let reason = "a segment has more bytes in the file than in memory";
            return Err(bad(image, s.header, reason));
        }
        image.check(s.offset, s.file_size)?;
        if s.address < KERNEL_RAM {
            let reason = format!(
                "a segment goes to {:#x}; below 1 MiB is the boot information's place",
                s.address
            );
            return Err(bad(image, s.header, reason));
        }
        if !map.is_kernel_ram(s.address, s.memory_size) {
            return Err(BootError::OutsideRam {
                file: image.name().to_owned(),
                address: s.address,
                length: s.memory_size,
                end: map.low_end(),
            });
        }
    }
    loads.sort_by_key(|s| s.address);
    if let Some(pair) = loads.windows(2).find(|pair| pair[0].end() > pair[1].address) {
        return Err(bad(image, pair[1].header, "a segment overlaps another one in memory"));
    }
    Ok(loads)
}

/// The 32-bit entry point that the PVH note names.
fn pvh_entry(image: &Image, segments: &[Segment]) -> Result<u32, BootError> {
    for segment in segments.iter().filter(|s| s.kind == PT_NOTE) {
        if segment.file_size > MOST_NOTE_BYTES {
            let reason = format!("its notes are {} bytes; 64 KiB are read", segment.file_size);
            return Err(bad(image, segment.header, reason));
        }
        let size = usize::try_from(segment.file_size).expect("at most 64 KiB");
        let mut notes = vec![0; size];
        image.read_at(segment.offset, &mut notes)?;
        if let Some(entry) = find_entry_note(image, segment, &notes)? {
            return Ok(entry);
        }
    }
    Err(bad(
        image,
        0,
        "it has no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY): use a kernel built with CONFIG_PVH, \
         or its bzImage (vmlinuz)",
    ))
}

fn find_entry_note(
    image: &Image,
    segment: &Segment,
    notes: &[u8],
) -> Result<Option<u32>, BootError> {
    // The gABI aligns a note's parts to the word size, toolchains to 4 unless the segment says 8.
    let align = if segment.align == 8 { 8 } else { 4 };
    let mut at = 0;
    while notes.len() - at >= 12 {
        let note = &notes[at..];
        let broken = || bad(image, segment.offset + at as u64, "a note is longer than its segment");
        let size = |field| usize::try_from(u32_at(note, field)).map_err(|_| broken());
        let (name_size, desc_size) = (size(0)?, size(4)?);
        let name_end = 12usize.checked_add(name_size).ok_or_else(broken)?;
        let desc = name_end.checked_next_multiple_of(align).ok_or_else(broken)?;
        let desc_end = desc.checked_add(desc_size).ok_or_else(broken)?;
        if desc_end > note.len() {
            return Err(broken());
        }
        if &note[12..name_end] == b"Xen\0" && u32_at(note, 8) == NOTE_PHYS32_ENTRY {
            let here = segment.offset + (at + desc) as u64;
            let entry = match desc_size {
                4 => u64::from(u32_at(note, desc)),
                8 => u64_at(note, desc),
                _ => return Err(bad(image, here, "its PVH entry is neither 4 nor 8 bytes")),
            };
            let entry = u32::try_from(entry);
            return entry.map(Some).map_err(|_| bad(image, here, "its PVH entry is above 4 GiB"));
        }
        at += desc_end.next_multiple_of(align).min(note.len());
    }
    Ok(None)
}
