//! Comparing two snapshots.

use crate::checksum;
use crate::places::PAGE;
use crate::reader::Reader;
use memory::{PageRange, PageSet};

impl Reader {
    /// The pages in which another snapshot differs, by the checksums of both: nothing is read. Of
    /// pages that differ, one in four thousand million goes unnoticed. A page that one of the two does
    /// not have counts as zero.
    #[must_use]
    pub fn differences(&self, other: &Self) -> PageSet {
        let pages = self.present().pages().max(other.present().pages());
        let zero = checksum::of(&[0; PAGE]);
        let mut differ = PageSet::new(pages);
        for side in [self, other] {
            for page in side.present().runs().flat_map(|run| run.start..run.end()) {
                let sum = |reader: &Self| reader.sum(page).unwrap_or(zero);
                if sum(self) != sum(other) {
                    differ.insert(PageRange::new(page, 1));
                }
            }
        }
        differ
    }
}
