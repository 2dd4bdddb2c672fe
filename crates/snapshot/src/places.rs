//! Where everything lies in the file.

use crate::WriteError;
use memory::{HUGE_2M, PAGE_SIZE};

/// Bytes of a page, as an index.
pub(crate) const PAGE: usize = 4096;

// Pages at fixed places, in bytes from the start of the snapshot.
pub(crate) const HEADER: u64 = 0;
pub(crate) const COMMIT: u64 = 4096;
pub(crate) const CLAIM: u64 = 8192;
pub(crate) const SECTIONS: u64 = 12288;
/// The first byte that a section may have.
pub(crate) const FIRST: u64 = 16384;

/// Pages of RAM whose checksums share one page of the table.
pub(crate) const BLOCK_PAGES: u64 = PAGE_SIZE / 4;

/// Up to the next whole page.
pub(crate) fn padded(length: u64) -> u64 {
    length.next_multiple_of(PAGE_SIZE)
}

/// Lengths of what follows from the size of RAM, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Pages of RAM.
    pub pages: u64,
    /// Blocks of the checksum table.
    pub blocks: u64,
    /// A bit for each page, in words of 64.
    pub bitmap: u64,
    /// A checksum for each block.
    pub index: u64,
    /// A block for each [`BLOCK_PAGES`].
    pub table: u64,
}

impl Lengths {
    /// For `ram` bytes of RAM, which are at most 64 TiB.
    pub(crate) fn of(ram: u64) -> Self {
        let pages = ram / PAGE_SIZE;
        let blocks = pages.div_ceil(BLOCK_PAGES);
        Self {
            pages,
            blocks,
            bitmap: pages.div_ceil(64) * 8,
            index: blocks * 4,
            table: blocks * PAGE_SIZE,
        }
    }
}

/// Where this build puts the sections. A reader goes by the table of sections instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub lengths: Lengths,
    pub ram: u64,
    pub presence: u64,
    pub recent: u64,
    pub index: u64,
    pub table: u64,
    pub description: u64,
    /// A multiple of 2 MiB.
    pub pages: u64,
    /// Behind the last page of RAM.
    pub state: u64,
}

impl Places {
    /// For `ram` bytes of RAM (at most 64 TiB) and a description of `description` bytes.
    pub(crate) fn of(ram: u64, description: u64) -> Self {
        let lengths = Lengths::of(ram);
        let presence = FIRST;
        let recent = presence + padded(lengths.bitmap);
        let index = recent + padded(lengths.bitmap);
        let table = index + padded(lengths.index);
        let description_at = table + lengths.table;
        let pages = (description_at + padded(description)).next_multiple_of(HUGE_2M);
        let state = pages + ram;
        Self {
            lengths,
            ram,
            presence,
            recent,
            index,
            table,
            description: description_at,
            pages,
            state,
        }
    }

    /// Length of the whole with a state of `state` bytes.
    ///
    /// # Errors
    /// [`WriteError::TooLarge`] when that is beyond what a snapshot of so much RAM may have.
    pub(crate) fn total(&self, state: u64) -> Result<u64, WriteError> {
        let total = self.state.saturating_add(state).next_multiple_of(PAGE_SIZE);
        let most = most_bytes(self.ram);
        let is_bounded = total <= most && state <= MOST_SECTION;
        if is_bounded { Ok(total) } else { Err(WriteError::TooLarge { total, most }) }
    }
}

/// The most bytes that the description of a machine with `ram` bytes of RAM may have in a snapshot:
/// what is left of its bound beside the tables and 2 MiB of state.
#[must_use]
pub fn most_description(ram: u64) -> u64 {
    let tables = Places::of(ram, 0).description;
    let pages = (most_bytes(ram) - ram - (2 << 20)) / HUGE_2M * HUGE_2M;
    (pages - tables).min(MOST_SECTION)
}

/// The most bytes that a description or a state may have, whatever the RAM.
pub(crate) const MOST_SECTION: u64 = 256 << 20;

/// The most bytes that the snapshot of `ram` bytes of RAM may have: 1 % more, or 8 MiB. Without RAM there is
/// nothing that it is to be little beside: it may have what the guest boots from.
pub(crate) fn most_bytes(ram: u64) -> u64 {
    match ram {
        0 => 32 << 20,
        some => some + (some / 100).max(8 << 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_overlaps_and_the_size_is_bounded(
            ram in (16u64 << 20 >> 12)..=(64u64 << 40 >> 12), share in 0u64..=100,
        ) {
            let ram = ram << 12;
            prop_assert!(most_description(ram) > 4 << 20);
            let description = most_description(ram) * share / 100;
            let places = Places::of(ram, description);
            let lengths = places.lengths;
            let parts = [
                (places.presence, lengths.bitmap), (places.recent, lengths.bitmap),
                (places.index, lengths.index), (places.table, lengths.table),
                (places.description, description), (places.pages, ram),
            ];
            let mut end = FIRST;
            for (at, length) in parts {
                prop_assert!(at >= end && at.is_multiple_of(PAGE_SIZE));
                end = at + length;
            }
            prop_assert_eq!(places.state, end);
            prop_assert!(places.pages.is_multiple_of(HUGE_2M));
            prop_assert!(lengths.bitmap * 8 >= lengths.pages);
            prop_assert!(lengths.table / 4 >= lengths.pages);
            prop_assert!(places.total(2 << 20).is_ok());
        }
    }

    #[test]
    fn what_would_make_the_file_too_large_is_refused() {
        let places = Places::of(16 << 20, 100);
        assert!(places.total(6 << 20).is_ok());
        assert!(matches!(places.total((6 << 20) + 1), Err(WriteError::TooLarge { .. })));
    }
}
