//! The table of sections: what else is in the file, and where.

use crate::Damage;
use crate::bytes::{is_sealed, put, seal, u32_at, u64_at};
use crate::places::{FIRST, PAGE};
use memory::PAGE_SIZE;

const MAGIC: [u8; 8] = *b"WHIMSECT";
const CHECKSUM: usize = 8;
const COUNT: usize = 12;
const ENTRIES: usize = 16;
const ENTRY: usize = 32;
/// As many as the page has room for.
const MOST: usize = (PAGE - ENTRIES) / ENTRY;
/// A reader that does not know the section must refuse the file.
const REQUIRED: u32 = 1;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// Description of the machine.
    Description,
    /// State of the machine.
    State,
    /// A bit for each page that is in the file.
    Presence,
    /// A checksum for each block of the checksum table.
    Index,
    /// The checksum table.
    Checksums,
    /// A bit for each page that was touched last.
    Recent,
    /// The memory file in which RAM is, where it is not here.
    MemoryFile,
    /// Something that this build does not know.
    Other(u32),
}

impl SectionKind {
    const KNOWN: [Self; 7] = [
        Self::Description,
        Self::State,
        Self::Presence,
        Self::Index,
        Self::Checksums,
        Self::Recent,
        Self::MemoryFile,
    ];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Description => "description",
            Self::State => "state",
            Self::Presence => "presence",
            Self::Index => "checksum-index",
            Self::Checksums => "checksums",
            Self::Recent => "recent",
            Self::MemoryFile => "memory-file",
            Self::Other(_) => "unknown",
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Description => 1,
            Self::State => 2,
            Self::Presence => 3,
            Self::Index => 4,
            Self::Checksums => 5,
            Self::Recent => 6,
            Self::MemoryFile => 7,
            Self::Other(number) => number,
        }
    }

    fn of(number: u32) -> Self {
        let known = Self::KNOWN.into_iter().find(|kind| kind.number() == number);
        known.unwrap_or(Self::Other(number))
    }
}

/// A part of the file other than pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// Whether a reader that does not know it must refuse the file.
    pub required: bool,
    /// Where it begins, in bytes from the start of the snapshot.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// CRC-32C of its bytes; zero for the checksum table, whose blocks have theirs in the index.
    pub checksum: u32,
}

/// The page that holds the table.
pub(crate) fn encode(sections: &[Section]) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    put(&mut page, 0, &MAGIC);
    let count = u32::try_from(sections.len()).unwrap_or(u32::MAX);
    put(&mut page, COUNT, &count.to_le_bytes());
    for (at, section) in (ENTRIES..).step_by(ENTRY).zip(sections) {
        put(&mut page, at, &section.kind.number().to_le_bytes());
        put(&mut page, at + 4, &(u32::from(section.required) * REQUIRED).to_le_bytes());
        put(&mut page, at + 8, &section.offset.to_le_bytes());
        put(&mut page, at + 16, &section.length.to_le_bytes());
        put(&mut page, at + 24, &section.checksum.to_le_bytes());
    }
    seal(&mut page, CHECKSUM);
    page
}

/// Reads the page that holds the table. `pages` is where the pages of RAM lie, from and to, and `end`
/// where the file ends.
pub(crate) fn decode(page: &[u8], pages: (u64, u64), end: u64) -> Result<Vec<Section>, Damage> {
    let wrong = |what: String| Damage::Nonsense("the table of sections", what);
    if page[..MAGIC.len()] != MAGIC {
        return Err(wrong("it is not there".to_owned()));
    }
    if !is_sealed(page, CHECKSUM) {
        return Err(Damage::Checksum("the table of sections"));
    }
    let count = usize::try_from(u32_at(page, COUNT))
        .ok()
        .filter(|count| *count <= MOST)
        .ok_or_else(|| wrong("it has more sections than there is room for".to_owned()))?;
    let section = |at| Section {
        kind: SectionKind::of(u32_at(page, at)),
        required: u32_at(page, at + 4) & REQUIRED != 0,
        offset: u64_at(page, at + 8),
        length: u64_at(page, at + 16),
        checksum: u32_at(page, at + 24),
    };
    let sections: Vec<Section> = (ENTRIES..).step_by(ENTRY).take(count).map(section).collect();
    // Nothing may lie over anything else, least of all over the pages.
    let mut taken = vec![(0, FIRST), pages];
    for (index, section) in sections.iter().enumerate() {
        let name = section.kind.as_str();
        if sections[..index].iter().any(|other| other.kind == section.kind) {
            return Err(wrong(format!("it has two sections of kind {name}")));
        }
        if let (SectionKind::Other(number), true) = (section.kind, section.required) {
            return Err(Damage::Section(number));
        }
        // A section takes whole pages, so that it can be read with O_DIRECT.
        let reach = section.offset.checked_add(section.length);
        let reach = reach.and_then(|reach| reach.checked_next_multiple_of(PAGE_SIZE));
        let Some(reach) = reach.filter(|_| section.offset.is_multiple_of(PAGE_SIZE)) else {
            return Err(wrong(format!("section {name} cannot lie there")));
        };
        if reach > end {
            return Err(Damage::CutOff(name));
        }
        if taken.iter().any(|(from, to)| section.offset < *to && *from < reach) {
            return Err(wrong(format!("section {name} overlaps with something else")));
        }
        taken.push((section.offset, reach));
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGES: (u64, u64) = (2 << 20, 18 << 20);
    const END: u64 = 20 << 20;

    fn section(kind: u32, required: bool, offset: u64, length: u64) -> Section {
        Section { kind: SectionKind::of(kind), required, offset, length, checksum: 7 }
    }

    fn read(sections: &[Section]) -> Result<Vec<Section>, Damage> {
        decode(&encode(sections), PAGES, END)
    }

    #[test]
    fn sections_read_as_they_were_written() {
        let sections = [
            section(1, true, FIRST, 5),
            section(2, true, PAGES.1, 2 << 20),
            section(99, false, 1 << 20, 0),
        ];
        assert_eq!(read(&sections).unwrap(), sections);
    }

    #[test]
    fn an_unknown_section_is_passed_over_unless_it_is_required() {
        assert!(read(&[section(99, false, FIRST, 5)]).is_ok());
        assert_eq!(read(&[section(99, true, FIRST, 5)]), Err(Damage::Section(99)));
    }

    #[test]
    fn what_lies_overlaps_or_overflows_is_refused() {
        let cases = [
            section(1, true, 0, 5),
            section(1, true, SECTIONS_END - 4096, 5),
            section(1, true, FIRST + 1, 5),
            section(1, true, PAGES.0 - 4096, 4097),
            section(1, true, PAGES.0 + 4096, 1),
            section(1, true, PAGES.1 - 4096, 1 << 20),
            section(1, true, PAGES.1, (2 << 20) + 1),
            section(1, true, u64::MAX - 4095, 4096),
            section(1, true, 4096, u64::MAX),
        ];
        for case in cases {
            assert!(
                matches!(read(&[case]), Err(Damage::Nonsense(..) | Damage::CutOff(_))),
                "{case:?}"
            );
        }
        let one = section(1, true, FIRST, 4097);
        assert!(read(&[one, section(2, true, FIRST + 4096, 1)]).is_err());
        assert!(read(&[one, section(1, true, FIRST + 8192, 1)]).is_err());
        assert!(read(&[one, section(2, true, FIRST + 8192, 1)]).is_ok());
    }

    const SECTIONS_END: u64 = FIRST;

    proptest! {
        #[test]
        fn any_page_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), PAGE), count in 0u32..200) {
            let mut bytes = bytes;
            put(&mut bytes, 0, &MAGIC);
            prop_assert!(decode(&bytes, PAGES, END).is_err());
            put(&mut bytes, COUNT, &count.to_le_bytes());
            seal(&mut bytes, CHECKSUM);
            if let Ok(sections) = decode(&bytes, PAGES, END) {
                prop_assert!(sections.iter().all(|section| section.offset + section.length <= END));
            }
        }
    }
}
