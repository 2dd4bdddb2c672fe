//! Reading a snapshot.

use crate::apart::{self, Apart};
use crate::buffer::Buffer;
use crate::header::Header;
use crate::origin::{Opened, Origin, io};
use crate::peek::{Mark, Peek};
use crate::places::{Lengths, MOST_SECTION, PAGE};
use crate::record::Claim;
use crate::section::SectionKind;
use crate::tables::{Sums, Tables, sum_of};
use crate::{Damage, ReadError, checksum};
use memory::{HUGE_2M, PAGE_SIZE, PageRange, PageSet, RamImage};

/// Pages that are read at once, at most.
const PART: usize = 1024;

/// An open snapshot: complete, with all that it says of itself checked. Pages are checked as they are
/// read.
#[derive(Debug)]
pub struct Reader {
    pub(crate) file: Opened,
    pub(crate) header: Header,
    pub(crate) pages_offset: u64,
    /// Where the last byte is that is needed, in the file.
    needed: u64,
    description: Vec<u8>,
    state: Vec<u8>,
    present: PageSet,
    recent: PageSet,
    sums: Sums,
    apart: Option<Apart>,
    trusts: bool,
    pub(crate) claim: Result<Option<Claim>, Damage>,
}

impl Reader {
    /// Opens a snapshot and checks everything but its pages. With `direct` pages are read around the
    /// page cache, where the file system can. The file is opened for reading only.
    ///
    /// # Errors
    /// [`ReadError`]: it cannot be read, is no snapshot, is incomplete, is damaged, or is one that
    /// this build does not restore.
    pub fn open(origin: Origin, direct: bool) -> Result<Self, ReadError> {
        let file = Opened::open(origin, direct)?;
        let Peek { page, mark, claim, sections, size, .. } = Peek::of(&file)?;
        let damaged = |damage| ReadError::Damaged { name: file.name.clone(), damage };
        let header = page.header().map_err(damaged)?;
        match mark.map_err(damaged)? {
            Mark::Missing => return Err(ReadError::Incomplete(file.name)),
            Mark::Complete(_) => {}
        }
        let nonsense = |what: &str| damaged(Damage::Nonsense("the header", what.to_owned()));
        if !page.pages_offset.is_multiple_of(HUGE_2M) {
            return Err(nonsense("its pages begin at no multiple of 2 MiB"));
        }
        let reach = page.pages_offset.checked_add(page.room()).filter(|_| page.pages_offset > 0);
        let Some(reach) = reach else { return Err(nonsense("its pages cannot lie there")) };
        let needed = file.storage.place(reach);
        if size < needed {
            return Err(ReadError::Truncated { name: file.name, needed, found: size });
        }
        let sections = sections.map_err(damaged)?;
        let lengths = Lengths::of(page.ram);
        let tables = Tables { file: &file, sections: &sections };
        let apart = header.apart.then(|| tables.apart(apart::MOST)).transpose()?;
        let (present, recent, sums) = match &apart {
            // None of RAM is in the file.
            Some(_) => (PageSet::new(lengths.pages), PageSet::new(lengths.pages), Sums::new()),
            None => {
                let present = tables.set(SectionKind::Presence, &lengths)?;
                let sums = tables.sums(&present, &lengths)?;
                (present, tables.recent(&lengths)?, sums)
            }
        };
        let description = tables.read(SectionKind::Description, MOST_SECTION)?;
        let state = tables.read(SectionKind::State, MOST_SECTION)?;
        Ok(Self {
            header,
            pages_offset: page.pages_offset,
            needed,
            description,
            state,
            present,
            recent,
            sums,
            apart,
            trusts: false,
            claim,
            file,
        })
    }

    /// Takes pages as they are from now on, without comparing them with their checksums: to measure
    /// what comparing costs. A guest is not to run on what nobody has verified.
    #[must_use]
    pub fn trusting(self) -> Self {
        Self { trusts: true, ..self }
    }

    /// What the snapshot is of.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The machine's description, as it was written.
    #[must_use]
    pub fn description(&self) -> &[u8] {
        &self.description
    }

    /// The machine's state, as it was written.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// The memory file in which RAM is, where it is not in this file: then no page is.
    #[must_use]
    pub fn apart(&self) -> Option<&Apart> {
        self.apart.as_ref()
    }

    /// The pages that are in the file. The others are zero, unless RAM is [elsewhere](Self::apart).
    #[must_use]
    pub fn present(&self) -> &PageSet {
        &self.present
    }

    /// The pages that were touched last; empty when nothing is said of them.
    #[must_use]
    pub fn recent(&self) -> &PageSet {
        &self.recent
    }

    /// Whether pages are read around the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.file.storage.is_direct()
    }

    /// Where in the file a page of RAM's file lies, in bytes.
    #[must_use]
    pub fn place_of(&self, page: u64) -> u64 {
        self.file.storage.place(self.pages_offset.saturating_add(page.saturating_mul(PAGE_SIZE)))
    }

    /// Its pages as what RAM can begin as, without a copy. What is mapped from them is not checked.
    ///
    /// # Errors
    /// [`ReadError`]: they do not begin at the start of a page of the file, or the host has no
    /// descriptors left.
    pub fn image(&self) -> Result<RamImage, ReadError> {
        self.check_here()?;
        let file = &self.file;
        let failed = |source| io(&file.name, "preparing to map its pages", source);
        let fd = rustix::io::fcntl_dupfd_cloexec(file.storage.file(), 0);
        let fd = fd.map_err(|e| failed(e.into()))?;
        RamImage::new(fd, file.name.clone(), self.place_of(0), self.present.clone()).map_err(failed)
    }

    /// Reads pages into the beginning of `buffer`, and checks each. Absent ones come as zeroes.
    ///
    /// # Errors
    /// [`ReadError`]; then what is in the buffer is not to be used.
    pub fn read(&self, range: PageRange, buffer: &mut Buffer) -> Result<(), ReadError> {
        self.read_by_parts(range, buffer, &mut || ())
    }

    /// The same, and calls `came` whenever a part of at most 4 MiB has come.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub fn read_by_parts(
        &self,
        range: PageRange,
        buffer: &mut Buffer,
        came: &mut dyn FnMut(),
    ) -> Result<(), ReadError> {
        self.check_here()?;
        let pages = self.present.pages();
        if !range.is_within(pages) || range.count > buffer.pages() {
            return Err(ReadError::OutOfRange { name: self.file.name.clone(), range, pages });
        }
        let bytes = buffer.as_mut_slice();
        let index =
            |page: u64| usize::try_from(page - range.start).expect("within the buffer") * PAGE;
        let mut next = range.start;
        for run in self.present.runs_in(range) {
            bytes[index(next)..index(run.start)].fill(0);
            next = run.end();
            for start in (run.start..next).step_by(PART) {
                let pages = PageRange::new(start, (next - start).min(PART as u64));
                let part = &mut bytes[index(start)..index(pages.end())];
                self.file.read("reading pages", part, self.pages_offset + pages.offset())?;
                if !self.trusts {
                    for (page, contents) in (start..).zip(part.chunks_exact(PAGE)) {
                        self.check(page, contents)?;
                    }
                }
                came();
            }
        }
        bytes[index(next)..index(range.end())].fill(0);
        Ok(())
    }

    /// Whether RAM is in this file, so that what is not in it is zero.
    ///
    /// # Errors
    /// [`ReadError::Apart`].
    pub fn check_here(&self) -> Result<(), ReadError> {
        match &self.apart {
            None => Ok(()),
            Some(Apart { path, .. }) => {
                Err(ReadError::Apart { name: self.file.name.clone(), path: path.clone() })
            }
        }
    }

    /// The checksum of a page, if it is in the file.
    pub(crate) fn sum(&self, page: u64) -> Option<u32> {
        self.present.contains(page).then(|| sum_of(&self.sums, page))
    }

    fn check(&self, page: u64, contents: &[u8]) -> Result<(), ReadError> {
        let (expected, found) = (sum_of(&self.sums, page), checksum::of(contents));
        if expected == found {
            return Ok(());
        }
        let offset = self.place_of(page);
        Err(ReadError::BadPage { name: self.file.name.clone(), page, offset, found, expected })
    }

    /// Whether the file still has all its bytes, and is still what its path leads to.
    ///
    /// # Errors
    /// [`ReadError::Truncated`] or [`ReadError::Replaced`].
    pub fn check_identity(&self) -> Result<(), ReadError> {
        self.file.check(self.needed)
    }
}
