//! Reading what is in the file apart from pages.

use crate::apart::Apart;
use crate::buffer::Buffer;
use crate::bytes::{u32_at, u64_at};
use crate::origin::Opened;
use crate::places::{BLOCK_PAGES, Lengths, PAGE};
use crate::section::{Section, SectionKind};
use crate::{Damage, ReadError, checksum};
use memory::{PAGE_SIZE, PageRange, PageSet};
use std::collections::BTreeMap;
use std::ops::Range;

/// Pages that are read at once.
const PIECE: u64 = 256;
/// Pages of a hole for which it is worth while to read in two pieces.
const HOLE: u64 = 16;

static ZEROES: [u8; PAGE] = [0; PAGE];

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

    /// Reads a section piece by piece, hands out the pieces, and checks it in the end. Where the file
    /// has holes nothing is read: most of a large guest's bitmaps are.
    fn each_piece(&self, section: &Section, mut take: impl FnMut(&[u8])) -> Result<(), ReadError> {
        let mut sum = checksum::Running::new();
        let mut buffer = Buffer::new(PIECE.min(section.length.div_ceil(PAGE_SIZE)));
        let mut done = 0;
        while done < section.length {
            let pages = self.pages_with_data(section, done / PAGE_SIZE);
            while done < section.length.min(pages.start * PAGE_SIZE) {
                let zeroes = &ZEROES[..index((section.length - done).min(PAGE_SIZE))];
                sum.update(zeroes);
                take(zeroes);
                done += zeroes.len() as u64;
            }
            while done < section.length.min(pages.end * PAGE_SIZE) {
                let count = (pages.end - done / PAGE_SIZE).min(buffer.pages());
                let bytes = &mut buffer.as_mut_slice()[..index(count * PAGE_SIZE)];
                self.file.read("reading a section", bytes, section.offset + done)?;
                let bytes = &bytes[..index((section.length - done).min(count * PAGE_SIZE))];
                sum.update(bytes);
                take(bytes);
                done += bytes.len() as u64;
            }
        }
        if sum.value() == section.checksum {
            return Ok(());
        }
        Err(self.damaged(Damage::Checksum(section.kind.as_str())))
    }

    /// The next pages of a section that have to be read, from this one on. Small holes are read over.
    fn pages_with_data(&self, section: &Section, from: u64) -> Range<u64> {
        let last = section.length.div_ceil(PAGE_SIZE);
        let data = |from: u64| {
            let at = |byte: u64| section.offset.saturating_add(byte);
            let found = self.file.storage.data(at(from * PAGE_SIZE), at(section.length))?;
            let (start, end) = (found.start - section.offset, found.end - section.offset);
            Some(start / PAGE_SIZE..end.div_ceil(PAGE_SIZE).max(start / PAGE_SIZE + 1))
        };
        let Some(mut pages) = data(from) else { return last..last };
        while let Some(next) = data(pages.end).filter(|next| next.start - pages.end < HOLE) {
            pages.end = next.end;
        }
        pages
    }

    /// All bytes of a section that has at most `most`, checked. They are within the file, but that may
    /// have holes, and so says nothing of what may be allocated.
    pub(crate) fn read(&self, kind: SectionKind, most: u64) -> Result<Vec<u8>, ReadError> {
        let section = self.find(kind)?;
        if section.length > most {
            return Err(self.nonsense(kind, "it is longer than such a section can be"));
        }
        let mut all = Vec::new();
        self.each_piece(section, |bytes| all.extend_from_slice(bytes))?;
        Ok(all)
    }

    /// The memory file in which RAM is, said in at most so many bytes.
    pub(crate) fn apart(&self, most: u64) -> Result<Apart, ReadError> {
        let kind = SectionKind::MemoryFile;
        let bytes = self.read(kind, most)?;
        Apart::decode(&bytes).ok_or_else(|| self.nonsense(kind, "it names no file"))
    }

    /// A section whose length follows from the size of RAM.
    fn exact(&self, kind: SectionKind, length: u64) -> Result<&Section, ReadError> {
        let section = self.find(kind)?;
        if section.length == length {
            return Ok(section);
        }
        Err(self.nonsense(kind, "its length does not follow from the size of RAM"))
    }

    /// The set in a bitmap. Takes memory only for the parts that have anything.
    pub(crate) fn set(&self, kind: SectionKind, lengths: &Lengths) -> Result<PageSet, ReadError> {
        let section = self.exact(kind, lengths.bitmap)?;
        let mut set = PageSet::new(lengths.pages);
        let mut start = 0;
        let mut last = 0;
        self.each_piece(section, |bytes| {
            if bytes.iter().any(|byte| *byte != 0) {
                let word = |at| u64_at(bytes, at);
                let words: Vec<u64> = (0..bytes.len()).step_by(8).map(word).collect();
                set.insert_bitmap(start, &words);
            }
            start += bytes.len() as u64 * 8;
            last = u64_at(bytes, bytes.len() - 8);
        })?;
        let beyond = start - lengths.pages;
        if last.leading_zeros() < u32::try_from(beyond).unwrap_or(u32::MAX) {
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
        self.exact(SectionKind::Index, lengths.index)?;
        let index_of_blocks = self.read(SectionKind::Index, lengths.index)?;
        let table = self.exact(SectionKind::Checksums, lengths.table)?;
        let mut sums = Sums::new();
        let mut buffer = Buffer::new(PIECE.min(lengths.blocks));
        for run in blocks_of(present, lengths.blocks) {
            let mut at = run.start;
            while at < run.end() {
                let count = (run.end() - at).min(buffer.pages());
                let bytes = &mut buffer.as_mut_slice()[..index(count * PAGE_SIZE)];
                self.file.read("reading the checksums", bytes, table.offset + at * PAGE_SIZE)?;
                for (number, block) in (at..).zip(bytes.chunks_exact(PAGE)) {
                    if checksum::of(block) != u32_at(&index_of_blocks, index(number * 4)) {
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

/// A place in what is in memory.
fn index(at: u64) -> usize {
    usize::try_from(at).expect("what is in memory has an index")
}

/// The checksum of a page that is present.
pub(crate) fn sum_of(sums: &Sums, page: u64) -> u32 {
    sums.get(&(page / BLOCK_PAGES)).map_or(0, |block| block[index(page % BLOCK_PAGES)])
}
