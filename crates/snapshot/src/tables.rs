//! Reading what is in the file apart from pages.

use crate::buffer::Buffer;
use crate::bytes::u32_at;
use crate::origin::Opened;
use crate::places::{BLOCK_PAGES, Lengths, PAGE};
use crate::section::{Section, SectionKind};
use crate::{Damage, ReadError, checksum};
use memory::{PAGE_SIZE, PageRange, PageSet};
use std::collections::BTreeMap;

/// Blocks of the checksum table that are read at once.
const PIECE: u64 = 256;

/// Finds sections, and reads them.
#[derive(Debug)]
pub(crate) struct Tables<'a> {
    pub file: &'a Opened,
    pub sections: &'a [Section],
}

/// Checksums of the pages that are present, by block.
pub(crate) type Sums = BTreeMap<u64, Box<[u32]>>;

impl Tables<'_> {
    fn damaged(&self, damage: Damage) -> ReadError {
        ReadError::Damaged { name: self.file.name.clone(), damage }
    }

    fn nonsense(&self, kind: SectionKind, what: &str) -> ReadError {
        self.damaged(Damage::Nonsense(
            "the table of sections",
            format!("{}: {what}", kind.as_str()),
        ))
    }

    /// The section of this kind.
    fn find(&self, kind: SectionKind) -> Result<&Section, ReadError> {
        let found = self.sections.iter().find(|section| section.kind == kind);
        found.ok_or_else(|| self.nonsense(kind, "the section is missing"))
    }

    /// All bytes of a section, checked. The table of sections was: they are within the file.
    pub(crate) fn read(&self, kind: SectionKind, most: u64) -> Result<Vec<u8>, ReadError> {
        let section = self.find(kind)?;
        if section.length > most {
            return Err(self.nonsense(kind, "it is longer than such a section can be"));
        }
        let mut buffer = Buffer::new(section.length.div_ceil(PAGE_SIZE));
        self.file.read("reading a section", self.within(section, &mut buffer), section.offset)?;
        let length = usize::try_from(section.length).expect("the buffer is as long");
        let bytes = &buffer.as_slice()[..length];
        if checksum::of(bytes) != section.checksum {
            return Err(self.damaged(Damage::Checksum(kind.as_str())));
        }
        Ok(bytes.to_vec())
    }

    /// A section whose length follows from the size of RAM.
    fn read_exact(&self, kind: SectionKind, length: u64) -> Result<Vec<u8>, ReadError> {
        if self.find(kind)?.length != length {
            return Err(self.nonsense(kind, "its length does not follow from the size of RAM"));
        }
        self.read(kind, length)
    }

    /// The set in a bitmap.
    pub(crate) fn set(&self, kind: SectionKind, lengths: &Lengths) -> Result<PageSet, ReadError> {
        let bytes = self.read_exact(kind, lengths.bitmap)?;
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("a chunk of eight bytes")))
            .collect();
        let mut set = PageSet::new(lengths.pages);
        set.insert_bitmap(0, &words);
        if set.words() != words {
            return Err(self.nonsense(kind, "it has pages beyond the last"));
        }
        Ok(set)
    }

    /// The set of pages that were touched last; empty where nothing is said of them.
    pub(crate) fn recent(&self, lengths: &Lengths) -> Result<PageSet, ReadError> {
        match self.find(SectionKind::Recent) {
            Ok(_) => self.set(SectionKind::Recent, lengths),
            Err(_) => Ok(PageSet::new(lengths.pages)),
        }
    }

    /// The checksums of the pages of `present`. Of the others nothing is read.
    pub(crate) fn sums(&self, present: &PageSet, lengths: &Lengths) -> Result<Sums, ReadError> {
        let index = self.read_exact(SectionKind::Index, lengths.index)?;
        let table = self.find(SectionKind::Checksums)?;
        if table.length != lengths.table {
            let what = "its length does not follow from the size of RAM";
            return Err(self.nonsense(SectionKind::Checksums, what));
        }
        let mut sums = Sums::new();
        let mut buffer = Buffer::new(PIECE.min(lengths.blocks));
        for run in blocks_of(present, lengths.blocks) {
            let mut at = run.start;
            while at < run.end() {
                let count = (run.end() - at).min(buffer.pages());
                let bytes = usize::try_from(count * PAGE_SIZE).expect("the buffer is as long");
                let bytes = &mut buffer.as_mut_slice()[..bytes];
                self.file.read("reading the checksums", bytes, table.offset + at * PAGE_SIZE)?;
                for (number, block) in (at..).zip(bytes.chunks_exact(PAGE)) {
                    let entry = usize::try_from(number * 4).expect("the index is in memory");
                    if checksum::of(block) != u32_at(&index, entry) {
                        return Err(self.damaged(Damage::Checksum("the checksum table")));
                    }
                    let of_pages = (0..PAGE).step_by(4).map(|at| u32_at(block, at)).collect();
                    sums.insert(number, of_pages);
                }
                at += count;
            }
        }
        Ok(sums)
    }

    /// As much of the buffer as the file has of the section: the end of its last page may be missing
    /// at the end of the file.
    fn within<'b>(&self, section: &Section, buffer: &'b mut Buffer) -> &'b mut [u8] {
        // In whole pages, for O_DIRECT; a file that ends within the last one is read up to there.
        let reach = section.offset.next_multiple_of(PAGE_SIZE) + buffer.pages() * PAGE_SIZE;
        let is_whole =
            self.file.size().is_ok_and(|(size, _)| self.file.storage.place(reach) <= size);
        let length = if is_whole { buffer.as_slice().len() as u64 } else { section.length };
        &mut buffer.as_mut_slice()[..usize::try_from(length).expect("the buffer is as long")]
    }
}

/// The runs of blocks in which pages are present.
fn blocks_of(present: &PageSet, blocks: u64) -> Vec<PageRange> {
    let mut set = PageSet::new(blocks);
    for run in present.runs() {
        let first = run.start / BLOCK_PAGES;
        set.insert(PageRange::new(first, run.end().div_ceil(BLOCK_PAGES) - first));
    }
    set.runs().collect()
}

/// The checksum of a page that is present.
pub(crate) fn sum_of(sums: &Sums, page: u64) -> u32 {
    let within = usize::try_from(page % BLOCK_PAGES).expect("a block is small");
    sums.get(&(page / BLOCK_PAGES)).map_or(0, |block| block[within])
}
