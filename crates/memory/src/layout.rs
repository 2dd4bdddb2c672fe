//! Where the guest sees its RAM.

use crate::{PAGE_SIZE, PageRange};

/// Guest-physical address at which RAM below 4 GiB ends and the hole for devices begins.
pub const PCI_HOLE: u64 = 0xc000_0000;
/// Guest-physical address at which the RAM that does not fit below the hole goes on.
pub const HIGH_RAM: u64 = 0x1_0000_0000;

const LEAST: u64 = 16 << 20;

/// A run of RAM that is contiguous for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Guest-physical address of its first byte.
    pub address: u64,
    /// Offset in the RAM file of its first byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

impl Region {
    /// The pages of the RAM file that the region covers.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        PageRange::new(self.offset / PAGE_SIZE, self.length / PAGE_SIZE)
    }
}

/// Why RAM cannot be laid out as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Less than the smallest machine.
    #[error("{0} bytes of RAM are too few: a machine has at least 16 MiB")]
    TooSmall(u64),
    /// Not a whole number of pages.
    #[error("{size} bytes of RAM are not a multiple of the page size of {page} bytes")]
    Uneven {
        /// The size asked for, in bytes.
        size: u64,
        /// The page size it has to be a multiple of, in bytes.
        page: u64,
    },
    /// More than a processor can address.
    #[error("{0} bytes of RAM are more than the 64 TiB that a machine can have")]
    TooLarge(u64),
}

/// The layout of a machine's RAM: below the PCI hole first, then from 4 GiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    size: u64,
    regions: Vec<Region>,
}

impl Layout {
    /// Lays out `size` bytes made of pages of `page` bytes.
    ///
    /// # Errors
    /// [`LayoutError`] when the size is out of bounds or no whole number of pages.
    pub fn new(size: u64, page: u64) -> Result<Self, LayoutError> {
        if size < LEAST {
            return Err(LayoutError::TooSmall(size));
        }
        if size > 64 << 40 {
            return Err(LayoutError::TooLarge(size));
        }
        if !size.is_multiple_of(page) {
            return Err(LayoutError::Uneven { size, page });
        }
        let low = size.min(PCI_HOLE);
        let mut regions = vec![Region { address: 0, offset: 0, length: low }];
        if size > low {
            regions.push(Region { address: HIGH_RAM, offset: low, length: size - low });
        }
        Ok(Self { size, regions })
    }

    /// Size of RAM in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Size of RAM in pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.size / PAGE_SIZE
    }

    /// The regions, by rising address and offset.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The page at this guest-physical address, if RAM is there.
    #[must_use]
    pub fn page_at(&self, address: u64) -> Option<u64> {
        let region =
            self.regions.iter().find(|r| address >= r.address && address - r.address < r.length)?;
        Some((address - region.address + region.offset) / PAGE_SIZE)
    }

    /// The guest-physical address of a page, if there is such a page.
    #[must_use]
    pub fn address_of(&self, page: u64) -> Option<u64> {
        let offset = page.checked_mul(PAGE_SIZE)?;
        let region =
            self.regions.iter().find(|r| offset >= r.offset && offset - r.offset < r.length)?;
        Some(offset - region.offset + region.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ram_leaves_the_hole_free_and_every_page_has_one_address() {
        let layout = Layout::new(5 << 30, PAGE_SIZE).unwrap();
        assert_eq!(layout.regions().len(), 2);
        assert_eq!(layout.page_at(PCI_HOLE - 1), Some(PCI_HOLE / PAGE_SIZE - 1));
        assert_eq!(layout.page_at(PCI_HOLE), None);
        assert_eq!(layout.page_at(HIGH_RAM - 1), None);
        assert_eq!(layout.page_at(HIGH_RAM), Some(PCI_HOLE / PAGE_SIZE));
        for page in [0, PCI_HOLE / PAGE_SIZE - 1, PCI_HOLE / PAGE_SIZE, layout.pages() - 1] {
            assert_eq!(layout.page_at(layout.address_of(page).unwrap()), Some(page));
        }
        assert_eq!(layout.address_of(layout.pages()), None);
        assert_eq!(layout.address_of(u64::MAX), None);
    }

    #[test]
    fn a_size_that_cannot_be_is_refused() {
        assert!(matches!(Layout::new(15 << 20, PAGE_SIZE), Err(LayoutError::TooSmall(_))));
        assert!(matches!(Layout::new((16 << 20) + 1, PAGE_SIZE), Err(LayoutError::Uneven { .. })));
        assert!(matches!(Layout::new(u64::MAX, PAGE_SIZE), Err(LayoutError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn every_page_has_one_address_whatever_the_size(
            size in prop_oneof![
                (4096u64..1 << 34).prop_map(|pages| pages * PAGE_SIZE),
                (0u64..9).prop_map(|pages| PCI_HOLE + pages * PAGE_SIZE),
                (0u64..9).prop_map(|pages| (64 << 40) - pages * PAGE_SIZE),
            ],
            at in prop_oneof![any::<u64>(), 0u64..1 << 40, (0u64..9).prop_map(|n| u64::MAX - n)],
            near in 0u64..4,
        ) {
            let layout = Layout::new(size, PAGE_SIZE).unwrap();
            let regions = layout.regions();
            prop_assert_eq!(regions.iter().map(|r| r.length).sum::<u64>(), size);
            let hole = PCI_HOLE / PAGE_SIZE;
            for page in [at, near, hole + near, hole.wrapping_sub(near), layout.pages() - 1 - near] {
                match layout.address_of(page) {
                    Some(address) => {
                        prop_assert!(page < layout.pages());
                        prop_assert!(!(PCI_HOLE..HIGH_RAM).contains(&address));
                        prop_assert_eq!(layout.page_at(address), Some(page));
                        prop_assert_eq!(layout.page_at(address + 4095), Some(page));
                    }
                    None => prop_assert!(page >= layout.pages()),
                }
            }
            if let Some(page) = layout.page_at(at) {
                let start = layout.address_of(page).unwrap();
                prop_assert!(start <= at && at - start < PAGE_SIZE);
            }
        }

        #[test]
        fn any_size_is_laid_out_or_refused(size in any::<u64>(), page in any::<u64>()) {
            if let Ok(layout) = Layout::new(size, page) {
                prop_assert!((16 << 20..=64 << 40).contains(&layout.size()));
                prop_assert!(size.is_multiple_of(page));
            }
        }
    }
}
