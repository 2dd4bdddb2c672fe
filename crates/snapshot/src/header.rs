//! The header page: what a file is, for any version of the program.

use crate::bytes::{array_at, is_sealed, put, put_text, seal, text_at, u32_at, u64_at};
use crate::checksum::CRC_32C;
use crate::places::PAGE;
use crate::{Damage, WriteError};
use memory::{Backing, Layout, PAGE_SIZE, Region};
use uuid::Uuid;

/// The first bytes of a snapshot. Not text, and no transfer that takes it for text leaves it whole.
pub(crate) const MAGIC: [u8; 8] = *b"\x89WHIMB\x1a\n";
/// The version of the format that this build writes, and the newest that it restores.
pub const VERSION: u32 = 1;
/// A required feature: RAM is not in the file but in a memory file, which a section names.
const APART: u64 = 1;
/// The required features that this build knows.
const KNOWN: u64 = APART;
/// x86-64, in the numbers that ELF has for architectures (`EM_X86_64`).
const X86_64: u32 = 62;

/// Most regions that the header has room for.
const MOST_REGIONS: usize = 64;
/// Most bytes of a name.
const NAME_ROOM: usize = 260;
/// Most bytes of a builder's version.
const BUILDER_ROOM: usize = 132;

// Where the fields are. They stay there in every later version.
const CHECKSUM: usize = 8;
const FORMAT: usize = 12;
const REQUIRED: usize = 16;
const OPTIONAL: usize = 24;
const ARCHITECTURE: usize = 32;
const PAGE_BYTES: usize = 36;
const KIND: usize = 40;
const PAGE_CHECKSUM: usize = 44;
const BACKING: usize = 48;
const REGION_COUNT: usize = 52;
const TAKEN: usize = 56;
const MACHINE: usize = 64;
const SNAPSHOT: usize = 80;
const PAGES_OFFSET: usize = 96;
const RAM_BYTES: usize = 104;
const NAME: usize = 128;
const BUILDER: usize = 512;
const REGIONS: usize = 1024;
const REGION_BYTES: usize = 24;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One guest that does not run any more: to be continued once.
    Save,
    /// A copy of a guest that goes on, or may.
    Snapshot,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Snapshot => "snapshot",
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Save => 1,
            Self::Snapshot => 2,
        }
    }

    fn of(number: u32) -> Option<Self> {
        [Self::Save, Self::Snapshot].into_iter().find(|kind| kind.number() == number)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a snapshot says of itself first of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the file is for.
    pub kind: Kind,
    /// UUID of the machine.
    pub machine: Uuid,
    /// Name of the machine, at most 256 bytes.
    pub name: String,
    /// Identity of this one snapshot.
    pub snapshot: Uuid,
    /// When it was begun, in nanoseconds since 1970 (UTC).
    pub taken: u64,
    /// Version of the program that wrote it, at most 128 bytes.
    pub builder: String,
    /// Where the guest sees its RAM: exactly what [`memory::Layout`] gives for its size.
    pub regions: Vec<Region>,
    /// What backed the RAM when it was saved. It may be restored onto any other.
    pub backing: Backing,
    /// RAM is not in the file: it stays in a memory file of its own.
    pub apart: bool,
}

impl Header {
    /// Size of RAM in bytes.
    #[must_use]
    pub fn ram(&self) -> u64 {
        self.regions.iter().fold(0, |sum, region| sum.saturating_add(region.length))
    }

    /// Bytes that are kept in the file for RAM.
    pub(crate) fn room(&self) -> u64 {
        if self.apart { 0 } else { self.ram() }
    }

    /// Where the guest has a page of RAM's file; the end of the address space for one that it has
    /// not.
    #[must_use]
    pub fn address_of(&self, page: u64) -> u64 {
        let offset = page.saturating_mul(PAGE_SIZE);
        let region = self
            .regions
            .iter()
            .find(|region| offset >= region.offset && offset - region.offset < region.length);
        region.map_or(u64::MAX, |region| offset - region.offset + region.address)
    }

    /// The header page that says this.
    pub(crate) fn page(&self, pages_offset: u64) -> Result<Vec<u8>, WriteError> {
        let refuse = |what: String| Err(WriteError::Header(what));
        match Layout::new(self.ram(), PAGE_SIZE) {
            Ok(layout) if layout.regions() == self.regions => {}
            Ok(_) => return refuse("its regions are not how RAM of that size is laid out".into()),
            Err(error) => return refuse(error.to_string()),
        }
        let mut page = vec![0; PAGE];
        put(&mut page, 0, &MAGIC);
        put(&mut page, FORMAT, &VERSION.to_le_bytes());
        put(&mut page, REQUIRED, &(u64::from(self.apart) * APART).to_le_bytes());
        put(&mut page, ARCHITECTURE, &X86_64.to_le_bytes());
        put(&mut page, PAGE_BYTES, &4096u32.to_le_bytes());
        put(&mut page, KIND, &self.kind.number().to_le_bytes());
        put(&mut page, PAGE_CHECKSUM, &CRC_32C.to_le_bytes());
        put(&mut page, BACKING, &backing_number(self.backing).to_le_bytes());
        put(&mut page, TAKEN, &self.taken.to_le_bytes());
        put(&mut page, MACHINE, self.machine.as_bytes());
        put(&mut page, SNAPSHOT, self.snapshot.as_bytes());
        put(&mut page, PAGES_OFFSET, &pages_offset.to_le_bytes());
        put(&mut page, RAM_BYTES, &self.ram().to_le_bytes());
        if !put_text(&mut page, NAME, NAME_ROOM, &self.name) {
            return refuse("the machine's name is longer than 256 bytes".into());
        }
        if !put_text(&mut page, BUILDER, BUILDER_ROOM, &self.builder) {
            return refuse("the builder's version is longer than 128 bytes".into());
        }
        let count = u32::try_from(self.regions.len()).unwrap_or(u32::MAX);
        put(&mut page, REGION_COUNT, &count.to_le_bytes());
        for (at, region) in (REGIONS..).step_by(REGION_BYTES).zip(&self.regions) {
            put(&mut page, at, &region.address.to_le_bytes());
            put(&mut page, at + 8, &region.offset.to_le_bytes());
            put(&mut page, at + 16, &region.length.to_le_bytes());
        }
        seal(&mut page, CHECKSUM);
        Ok(page)
    }
}

fn backing_number(backing: Backing) -> u32 {
    match backing {
        Backing::Small => 0,
        Backing::Transparent => 1,
        Backing::Huge2M => 2,
        Backing::Huge1G => 3,
    }
}

fn backing_of(number: u32) -> Option<Backing> {
    Backing::ALL.into_iter().find(|backing| backing_number(*backing) == number)
}

/// The header page as it stands in the file: readable whatever version wrote it. Numbers of which
/// this build knows no meaning are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderPage {
    /// Version of the format.
    pub version: u32,
    /// Features that a reader must know, one bit each.
    pub required: u64,
    /// Features that a reader may pass over, one bit each.
    pub optional: u64,
    /// Architecture, in ELF's numbers.
    pub architecture: u32,
    /// Bytes of a page.
    pub page_size: u32,
    /// What the file is for, if it is one of the kinds that this build knows.
    pub kind: Option<Kind>,
    /// Number of the algorithm of the pages' checksums.
    pub checksum: u32,
    /// What backed the RAM, if this build knows of it.
    pub backing: Option<Backing>,
    /// When it was begun, in nanoseconds since 1970 (UTC).
    pub taken: u64,
    /// UUID of the machine.
    pub machine: Uuid,
    /// Identity of this one snapshot.
    pub snapshot: Uuid,
    /// Where pages begin, in bytes from the start of the snapshot.
    pub pages_offset: u64,
    /// Size of RAM in bytes.
    pub ram: u64,
    /// Name of the machine.
    pub name: String,
    /// Version of the program that wrote it.
    pub builder: String,
    /// Where the guest sees its RAM.
    pub regions: Vec<Region>,
}

impl HeaderPage {
    /// Reads the first page of a file.
    pub(crate) fn decode(page: &[u8]) -> Result<Self, Damage> {
        if page[..MAGIC.len()] != MAGIC {
            return Err(Damage::NoMagic);
        }
        if !is_sealed(page, CHECKSUM) {
            return Err(Damage::Checksum("the header"));
        }
        let wrong = |what: &'static str| Damage::Nonsense("the header", what.to_owned());
        let count = usize::try_from(u32_at(page, REGION_COUNT))
            .ok()
            .filter(|count| *count <= MOST_REGIONS)
            .ok_or_else(|| wrong("it has more regions than there is room for"))?;
        let region = |at| Region {
            address: u64_at(page, at),
            offset: u64_at(page, at + 8),
            length: u64_at(page, at + 16),
        };
        let text = |at, room, what| text_at(page, at, room).map(str::to_owned).ok_or(wrong(what));
        Ok(Self {
            version: u32_at(page, FORMAT),
            required: u64_at(page, REQUIRED),
            optional: u64_at(page, OPTIONAL),
            architecture: u32_at(page, ARCHITECTURE),
            page_size: u32_at(page, PAGE_BYTES),
            kind: Kind::of(u32_at(page, KIND)),
            checksum: u32_at(page, PAGE_CHECKSUM),
            backing: backing_of(u32_at(page, BACKING)),
            taken: u64_at(page, TAKEN),
            machine: Uuid::from_bytes(array_at(page, MACHINE)),
            snapshot: Uuid::from_bytes(array_at(page, SNAPSHOT)),
            pages_offset: u64_at(page, PAGES_OFFSET),
            ram: u64_at(page, RAM_BYTES),
            name: text(NAME, NAME_ROOM, "the machine's name is no text")?,
            builder: text(BUILDER, BUILDER_ROOM, "the builder's version is no text")?,
            regions: (REGIONS..).step_by(REGION_BYTES).take(count).map(region).collect(),
        })
    }

    /// Bytes that are kept in the file for RAM.
    pub(crate) fn room(&self) -> u64 {
        if self.required & APART == 0 { self.ram } else { 0 }
    }

    /// The architecture in a word.
    #[must_use]
    pub fn architecture(&self) -> String {
        match self.architecture {
            X86_64 => "x86_64".to_owned(),
            183 => "aarch64".to_owned(),
            243 => "riscv64".to_owned(),
            other => format!("number {other}"),
        }
    }

    /// The header, if this build may restore what has it.
    ///
    /// # Errors
    /// [`Damage`]: what it is that this build does not know, or what cannot be.
    pub fn header(&self) -> Result<Header, Damage> {
        if self.version != VERSION {
            return Err(Damage::Newer(self.version));
        }
        if let unknown @ 1.. = self.required & !KNOWN {
            return Err(Damage::Features(unknown));
        }
        if self.architecture != X86_64 {
            return Err(Damage::Architecture(self.architecture()));
        }
        let wrong = |what: String| Damage::Nonsense("the header", what);
        if u64::from(self.page_size) != PAGE_SIZE {
            return Err(wrong(format!("its pages have {} bytes", self.page_size)));
        }
        if self.checksum != CRC_32C {
            return Err(wrong(format!("its checksums are of unknown kind {}", self.checksum)));
        }
        let kind = self.kind.ok_or_else(|| wrong("it is of an unknown kind".to_owned()))?;
        let backing =
            self.backing.ok_or_else(|| wrong("its RAM had pages of an unknown kind".to_owned()))?;
        let layout = Layout::new(self.ram, PAGE_SIZE).map_err(|e| wrong(e.to_string()))?;
        if layout.regions() != self.regions {
            return Err(wrong("its regions are not how RAM of its size is laid out".to_owned()));
        }
        Ok(Header {
            kind,
            machine: self.machine,
            name: self.name.clone(),
            snapshot: self.snapshot,
            taken: self.taken,
            builder: self.builder.clone(),
            regions: self.regions.clone(),
            backing,
            apart: self.required & APART != 0,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header for RAM of this size.
    pub(crate) fn header(ram: u64) -> Header {
        Header {
            kind: Kind::Save,
            machine: Uuid::from_u128(1),
            name: "a guest".to_owned(),
            snapshot: Uuid::from_u128(2),
            taken: 3,
            builder: "0.1.0".to_owned(),
            regions: Layout::new(ram, PAGE_SIZE).unwrap().regions().to_vec(),
            backing: Backing::Small,
            apart: false,
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |change: fn(&mut Header)| {
            let mut header = header(16 << 20);
            change(&mut header);
            matches!(header.page(2 << 20), Err(WriteError::Header(_)))
        };
        assert!(refused(|header| header.name = "n".repeat(257)));
        assert!(refused(|header| header.builder = "b".repeat(129)));
        assert!(refused(|header| header.regions[0].address = 4096));
        assert!(refused(|header| header.regions.clear()));
        assert!(!refused(|header| header.name = "n".repeat(256)));
    }

    fn changed(at: usize, value: u32) -> HeaderPage {
        let mut page = header(16 << 20).page(2 << 20).unwrap();
        put(&mut page, at, &value.to_le_bytes());
        seal(&mut page, CHECKSUM);
        HeaderPage::decode(&page).unwrap()
    }

    #[test]
    fn a_newer_file_says_what_it_is_and_is_refused() {
        let newer = changed(FORMAT, 2);
        assert_eq!(newer.name, "a guest");
        assert_eq!(newer.header(), Err(Damage::Newer(2)));
        assert_eq!(changed(REQUIRED + 4, 0x80).header(), Err(Damage::Features(1 << 39)));
        assert!(changed(OPTIONAL, 0x80).header().is_ok());
        assert_eq!(
            changed(ARCHITECTURE, 183).header(),
            Err(Damage::Architecture("aarch64".into()))
        );
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for at in [PAGE_BYTES, KIND, PAGE_CHECKSUM, BACKING, RAM_BYTES, REGIONS, REGIONS + 16] {
            let refused = changed(at, 77).header();
            assert!(matches!(refused, Err(Damage::Nonsense(..))), "{at}: {refused:?}");
        }
    }

    proptest! {
        #[test]
        fn every_header_reads_as_it_was_written(
            name in ".{0,64}", builder in ".{0,32}", taken: u64, ids: (u128, u128),
            ram in 4096u64..1 << 24, save: bool, pages_offset: u64, apart: bool,
        ) {
            let header = Header {
                kind: if save { Kind::Save } else { Kind::Snapshot },
                machine: Uuid::from_u128(ids.0),
                snapshot: Uuid::from_u128(ids.1),
                name, builder, taken, apart,
                backing: if save { Backing::Huge2M } else { Backing::Huge1G },
                ..header(ram * PAGE_SIZE)
            };
            let page = HeaderPage::decode(&header.page(pages_offset).unwrap()).unwrap();
            prop_assert_eq!(page.pages_offset, pages_offset);
            prop_assert_eq!(page.header(), Ok(header));
        }

        #[test]
        fn any_page_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), PAGE)) {
            let mut bytes = bytes;
            put(&mut bytes, 0, &MAGIC);
            prop_assert_eq!(HeaderPage::decode(&bytes), Err(Damage::Checksum("the header")));
            seal(&mut bytes, CHECKSUM);
            let _ = HeaderPage::decode(&bytes).map(|page| page.header());
        }
    }
}
