//! What a file is, as far as its first pages say.

use crate::buffer::Buffer;
use crate::header::HeaderPage;
use crate::origin::{Opened, Origin};
use crate::places::{CLAIM, COMMIT, FIRST, HEADER, PAGE, SECTIONS};
use crate::record::{Claim, Commit};
use crate::section::{self, Section};
use crate::{Damage, ReadError, checksum};
use memory::PAGE_SIZE;

/// Whether a snapshot is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It has no mark of completeness.
    Missing,
    /// It is complete, as of this time in nanoseconds since 1970 (UTC).
    Complete(u64),
}

/// What a file is: also of one that is incomplete, or that a later version wrote.
#[derive(Debug, Clone)]
pub struct Peek {
    /// Its header.
    pub page: HeaderPage,
    /// Whether it is complete; or what is wrong with the mark.
    pub mark: Result<Mark, Damage>,
    /// Who continued its guest; or what is wrong with the record.
    pub claim: Result<Option<Claim>, Damage>,
    /// What is in it apart from pages; or what is wrong with the table.
    pub sections: Result<Vec<Section>, Damage>,
    /// Length of the file in bytes.
    pub size: u64,
    /// Bytes that the file takes on disk.
    pub allocated: u64,
}

impl Peek {
    /// Looks at a file.
    ///
    /// # Errors
    /// [`ReadError`] when it cannot be read, or is no snapshot whose header is sound.
    pub fn at(origin: Origin) -> Result<Self, ReadError> {
        Self::of(&Opened::open(origin, false)?)
    }

    pub(crate) fn of(file: &Opened) -> Result<Self, ReadError> {
        let damaged = |damage| ReadError::Damaged { name: file.name.clone(), damage };
        let (size, allocated) = file.size()?;
        let length = size.saturating_sub(file.storage.place(0));
        if length < FIRST {
            return Err(damaged(Damage::NoMagic));
        }
        let mut first = Buffer::new(FIRST / PAGE_SIZE);
        file.read("reading its first pages", first.as_mut_slice(), HEADER)?;
        let part = |at: u64| {
            let at = usize::try_from(at).expect("it is among the first pages");
            &first.as_slice()[at..at + PAGE]
        };
        let page = HeaderPage::decode(part(HEADER)).map_err(damaged)?;
        let mark = Commit::decode(part(COMMIT)).and_then(|commit| match commit {
            None => Ok(Mark::Missing),
            Some(commit) => {
                let is_of_this = commit.snapshot == page.snapshot
                    && commit.header == checksum::of(part(HEADER))
                    && commit.sections == checksum::of(part(SECTIONS));
                let mark = is_of_this.then_some(Mark::Complete(commit.completed));
                mark.ok_or(Damage::Checksum("the header or the table of sections"))
            }
        });
        let claim = Claim::decode(part(CLAIM), page.snapshot);
        let reach = page.pages_offset.checked_add(page.room());
        let sections = match reach {
            Some(reach) => section::decode(part(SECTIONS), (page.pages_offset, reach), length),
            None => Err(Damage::Nonsense("the header", "its pages have no end".to_owned())),
        };
        Ok(Self { page, mark, claim, sections, size, allocated })
    }
}
