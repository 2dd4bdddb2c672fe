//! Ranges of RAM

use core::ops::Range;

const MAX: usize = 16;

/// Ranges of guest-physical addresses, ascending as the loader gave them
#[derive(Clone)]
pub struct Regions {
    ranges: [Range<u64>; MAX],
    count: usize,
}

impl Regions {
    /// None
    pub const fn none() -> Self {
        Self { ranges: [const { 0..0 }; MAX], count: 0 }
    }

    /// Adds what is in a range of whole pages; ranges beyond the sixteenth are
    /// left out
    pub fn push(&mut self, range: Range<u64>) {
        let whole = range.start.next_multiple_of(4096)..range.end & !4095;
        if !whole.is_empty() && self.count < MAX {
            self.ranges[self.count] = whole;
            self.count += 1;
        }
    }

    /// The ranges
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges[..self.count].iter().cloned()
    }

    /// Bytes in all
    pub fn size(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// What of these lies in `bounds`
    pub fn within(&self, bounds: Range<u64>) -> Self {
        let mut part = Self::none();
        for range in self.iter() {
            part.push(range.start.max(bounds.start)..range.end.min(bounds.end));
        }
        part
    }

    /// Takes the first `size` bytes (whole pages) out, as far as there are so many
    pub fn take(&mut self, size: u64) -> Self {
        let (mut taken, mut left) = (Self::none(), size.next_multiple_of(4096));
        for range in &mut self.ranges[..self.count] {
            let length = left.min(range.end - range.start);
            taken.push(range.start..range.start + length);
            range.start += length;
            left -= length;
        }
        taken
    }

    /// Address of the page with this index, counted through all ranges
    pub fn page(&self, index: u64) -> u64 {
        let mut offset = index * 4096;
        for range in self.iter() {
            let length = range.end - range.start;
            if offset < length {
                return range.start + offset;
            }
            offset -= length;
        }
        panic!();
    }
}
