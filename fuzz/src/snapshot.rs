//! Snapshot files of which parts have been overwritten.

use crate::allocation;
use crate::input::Input;
use memory::{Backing, GuestRam, Layout, PAGE_SIZE, PageRange, PageSet};
use snapshot::{
    Apart, Buffer, Header, Kind, Origin, Peek, ReadError, Reader, Target, WriteOptions, Writer,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use uuid::Uuid;

const RAM: u64 = 16 << 20;
const PAGE: usize = 4096;
const STATE: &[u8] = b"a state";
const DESCRIPTION: &[u8] = b"a description";
/// Pages of RAM that are in the file.
const PAGES: [u64; 4] = [0, 1, 1024, 4095];
/// No file is made longer: what a length claims then is what its file has.
const LONGEST: u64 = 64 << 20;

/// A file, and what it was when it was sound.
struct Sound {
    file: File,
    length: u64,
    header: Header,
    /// Its pages that are not zero, by their offset in the file.
    pages: BTreeMap<u64, Vec<u8>>,
}

/// Overwrites parts of a sound snapshot, mends its checksums if the input wants it, and reads it.
///
/// # Panics
/// When something is read that was not written, of a file whose checksums were not mended.
pub fn run(data: &[u8]) {
    static SOUND: [OnceLock<Sound>; 2] = [OnceLock::new(), OnceLock::new()];
    let mut input = Input::new(data);
    let how = input.byte();
    let (is_mended, is_apart) = (how & 1 != 0, how & 2 != 0);
    let sound = SOUND[usize::from(is_apart)].get_or_init(|| Sound::new(is_apart));
    sound.overwrite(&mut input);
    if is_mended {
        sound.mend();
    }
    allocation::bounded(data.len(), || sound.check(is_mended));
    sound.restore();
}

impl Sound {
    /// With RAM in it, or in a memory file that it names.
    fn new(is_apart: bool) -> Self {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = rustix::fs::memfd_create("snapshot", flags).expect("memory is left");
        let file = File::from(file);
        let header = Header {
            kind: Kind::Save,
            machine: Uuid::from_u128(1),
            name: "fuzzed".to_owned(),
            snapshot: Uuid::from_u128(2),
            taken: 3,
            builder: "0.1.0".to_owned(),
            regions: Layout::new(RAM, PAGE_SIZE).expect("16 MiB are allowed").regions().to_vec(),
            backing: Backing::Small,
            apart: is_apart,
        };
        let target =
            Target::Descriptor { file: copy(&file), direct: None, offset: 0, name: "fd".into() };
        let writer =
            Writer::create(target, header.clone(), DESCRIPTION, &WriteOptions { direct: false })
                .expect("memory takes it");
        if is_apart {
            writer.finish_apart(STATE, &memory_file()).expect("memory takes it");
        } else {
            write_pages(&writer);
        }
        writer.commit().expect("memory takes it");
        let length = file.metadata().expect("it is open").len();
        let mut pages = BTreeMap::new();
        let mut page = vec![0; PAGE];
        for at in (0..length).step_by(PAGE) {
            file.read_exact_at(&mut page, at).expect("it is that long");
            if page.iter().any(|byte| *byte != 0) {
                pages.insert(at, page.clone());
            }
        }
        Self { file, length, header, pages }
    }

    /// Does what the input says.
    fn overwrite(&self, input: &mut Input<'_>) {
        let mut places: Vec<u64> = self.pages.keys().copied().collect();
        // The claim, which is zero.
        places.push(8192);
        while !input.is_empty() {
            let how = input.byte();
            let page = places[usize::from(input.byte()) % places.len()];
            let at = page + u64::from(input.short()) % PAGE_SIZE;
            let number;
            let bytes: &[u8] = match how % 8 {
                0 => input.bytes(),
                1 => {
                    self.file.set_len(input.number() % LONGEST).expect("memory is left");
                    continue;
                }
                2..5 => {
                    number = input.number().to_le_bytes();
                    &number
                }
                5 => {
                    number = input.number().to_le_bytes();
                    &number[..4]
                }
                _ => {
                    number = [input.byte(); 8];
                    &number[..1]
                }
            };
            // Within the page: what lies behind it stays what it was.
            let room = usize::try_from(page + PAGE_SIZE - at).unwrap_or(PAGE);
            let bytes = &bytes[..bytes.len().min(room)];
            self.file.write_all_at(bytes, at).expect("memory is left");
        }
    }

    /// Makes header, table, sections and mark fit each other, as an attacker would.
    fn mend(&self) {
        let mut first = vec![0; 4 * PAGE];
        // Of a file that is too short nothing can be mended.
        if self.file.read_exact_at(&mut first, 0).is_err() {
            return;
        }
        let (header, rest) = first.split_at_mut(PAGE);
        let (mark, rest) = rest.split_at_mut(PAGE);
        let (_, table) = rest.split_at_mut(PAGE);
        for entry in table[16..].chunks_exact_mut(32) {
            let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight"));
            let (kind, offset, length) = (entry[0], word(8), word(16));
            let Ok(length) = usize::try_from(length.min(1 << 20)) else { continue };
            let mut bytes = vec![0; length];
            // The checksum table has none of its own.
            if kind != 5 && self.file.read_exact_at(&mut bytes, offset).is_ok() {
                entry[24..28].copy_from_slice(&crc_fast::crc32_iscsi(&bytes).to_le_bytes());
            }
        }
        seal(table);
        seal(header);
        mark[32..36].copy_from_slice(&crc_fast::crc32_iscsi(header).to_le_bytes());
        mark[36..40].copy_from_slice(&crc_fast::crc32_iscsi(table).to_le_bytes());
        mark[16..32].copy_from_slice(&header[80..96]);
        seal(mark);
        self.file.write_all_at(&first, 0).expect("memory is left");
    }

    fn origin(&self) -> Origin {
        Origin::Descriptor { file: copy(&self.file), direct: None, offset: 0, name: "fd".into() }
    }

    fn check(&self, is_mended: bool) {
        let peek = Peek::at(self.origin());
        let Ok(reader) = Reader::open(self.origin(), false) else { return };
        assert!(peek.is_ok(), "a file is read that says nothing of itself");
        let mut buffer = Buffer::new(16);
        let mut sound = 0;
        for run in reader.present().runs() {
            for page in run.start..run.end() {
                let is_read = reader.read(PageRange::new(page, 1), &mut buffer).is_ok();
                let bytes = &buffer.as_slice()[..PAGE];
                let is_written = PAGES.contains(&page) && bytes == contents(page);
                assert!(!is_read || is_mended || is_written, "page {page} is another one");
                sound += u64::from(is_read);
            }
        }
        let faults = reader.verify(1, &|_| ()).len() as u64;
        assert_eq!(sound + faults, reader.present().count());
        if reader.apart().is_some() {
            // What is elsewhere is never taken for zero.
            let read = reader.read(PageRange::new(0, 1), &mut buffer);
            assert!(matches!(read, Err(ReadError::Apart { .. })), "{read:?}");
            assert!(reader.check_absent().is_err() && reader.image().is_err());
            assert_eq!(reader.present().count(), 0);
        }
        assert!(reader.read(PageRange::new(reader.present().pages(), 1), &mut buffer).is_err());
        let _ = (reader.claim(), reader.check_identity());
        if !is_mended {
            assert_eq!(reader.header(), &self.header);
            assert_eq!((reader.state(), reader.description()), (STATE, DESCRIPTION));
            let (apart, pages) = match self.header.apart {
                true => (Some(memory_file()), 0),
                false => (None, PAGES.len() as u64),
            };
            assert_eq!((reader.apart(), reader.present().count()), (apart.as_ref(), pages));
            assert!(reader.claim().is_none(), "nobody has claimed it");
        }
    }

    fn restore(&self) {
        self.file.set_len(0).expect("memory is left");
        self.file.set_len(self.length).expect("memory is left");
        for (at, page) in &self.pages {
            self.file.write_all_at(page, *at).expect("memory is left");
        }
    }
}

/// Writes all that is in a file that has its RAM.
fn write_pages(writer: &Arc<Writer>) {
    let ram = GuestRam::new(RAM, Backing::Small).expect("memory is left");
    let mut lane = writer.lane();
    for page in PAGES {
        let range = PageRange::new(page, 1);
        ram.slice(range).expect("it is RAM's").copy_from(&contents(page));
        lane.write(&ram, range).expect("memory takes it");
    }
    lane.flush().expect("memory takes it");
    let mut recent = PageSet::new(RAM / PAGE_SIZE);
    recent.insert(PageRange::new(1, 2));
    writer.finish(STATE, &recent).expect("memory takes it");
}

/// What names the memory file that has RAM.
fn memory_file() -> Apart {
    Apart { identity: Uuid::from_u128(3), generation: 4, path: "/pmem/ram".into() }
}

fn copy(file: &File) -> OwnedFd {
    file.try_clone().expect("descriptors are left").into()
}

/// What is in a page.
fn contents(page: u64) -> [u8; PAGE] {
    std::array::from_fn(|at| page.wrapping_add(at as u64).to_le_bytes()[0] | 1)
}

/// The checksum at 8, of the page with zeroes there.
fn seal(page: &mut [u8]) {
    page[8..12].fill(0);
    let sum = crc_fast::crc32_iscsi(page);
    page[8..12].copy_from_slice(&sum.to_le_bytes());
}
