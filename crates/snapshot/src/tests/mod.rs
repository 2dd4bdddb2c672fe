//! What a snapshot promises, shown on files.

mod apart;
mod claims;
mod corruption;
mod differences;
mod full;
mod kills;
mod reserved;
mod round_trip;

use crate::header::tests::header;
use crate::{
    Buffer, LaneTotals, Origin, Reader, Target, WriteError, WriteOptions, Writer, Written,
};
use memory::{Backing, GuestRam, PAGE_SIZE, PageRange, PageSet};
use std::path::Path;
use std::sync::Arc;

/// The smallest RAM that there is.
pub(crate) const RAM: u64 = 16 << 20;
pub(crate) const DESCRIPTION: &[u8] = b"what it looks like";
pub(crate) const STATE: &[u8] = b"how it is";
pub(crate) const BUFFERED: WriteOptions = WriteOptions { direct: false };

/// A page that is not zero, and unlike any other.
pub(crate) fn contents(page: u64, salt: u64) -> Vec<u8> {
    let mut word = (page << 20 | salt) ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word
    };
    (0..512).flat_map(|_| next().to_le_bytes()).collect()
}

pub(crate) fn ram() -> GuestRam {
    GuestRam::new(RAM, Backing::Small).unwrap()
}

pub(crate) fn fill(ram: &GuestRam, page: u64, bytes: &[u8]) {
    ram.slice(PageRange::new(page, 1)).unwrap().copy_from(bytes);
}

/// RAM with something in these pages.
pub(crate) fn ram_with(pages: &[u64]) -> GuestRam {
    let ram = ram();
    pages.iter().for_each(|page| fill(&ram, *page, &contents(*page, 0)));
    ram
}

pub(crate) fn at(path: &Path) -> Target {
    Target::Path { path: path.to_owned(), offset: 0, force: false }
}

pub(crate) fn over(path: &Path) -> Target {
    Target::Path { path: path.to_owned(), offset: 0, force: true }
}

pub(crate) fn from(path: &Path) -> Origin {
    Origin::Path { path: path.to_owned(), offset: 0 }
}

pub(crate) fn begin(target: Target, options: &WriteOptions) -> Result<Arc<Writer>, WriteError> {
    Writer::create(target, header(RAM), DESCRIPTION, options)
}

/// Writes all of RAM.
pub(crate) fn save(
    target: Target,
    ram: &GuestRam,
    options: &WriteOptions,
) -> Result<Written, WriteError> {
    let writer = begin(target, options)?;
    let mut lane = writer.lane();
    let all = PageRange::new(0, ram.pages());
    let mut next = 0;
    for run in ram.touched(all).unwrap() {
        if run.start > next {
            lane.absent(PageRange::new(next, run.start - next))?;
        }
        lane.write(ram, run)?;
        next = run.end();
    }
    lane.flush()?;
    writer.finish(STATE, &PageSet::new(ram.pages()))?;
    writer.commit()
}

pub(crate) fn open(path: &Path) -> Reader {
    Reader::open(from(path), false).unwrap()
}

/// Whether what is in the file is what is in RAM.
pub(crate) fn assert_same(reader: &Reader, ram: &GuestRam) {
    let mut buffer = Buffer::new(64);
    let mut expected = vec![0; 64 * 4096];
    for start in (0..ram.pages()).step_by(64) {
        let range = PageRange::new(start, 64);
        buffer.as_mut_slice().fill(0x55);
        reader.read(range, &mut buffer).unwrap();
        ram.read(range, &mut expected).unwrap();
        let page = (start..).zip(buffer.as_slice().chunks(4096).zip(expected.chunks(4096)));
        for (page, (found, expected)) in page {
            assert!(found == expected, "page {page} is another one");
        }
    }
    assert_eq!(reader.description(), DESCRIPTION);
    assert_eq!(reader.state(), STATE);
    assert_eq!(reader.present().pages() * PAGE_SIZE, RAM);
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().into_string().unwrap()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}
