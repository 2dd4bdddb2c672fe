//! Memory that the kernel can move to and from storage directly.

use memory::PAGE_SIZE;

const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE, "pages are counted in bytes of memory, too");

/// Whole pages of memory, aligned as `O_DIRECT` needs it.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Where in `bytes` the aligned part begins.
    start: usize,
    length: usize,
}

impl Buffer {
    /// A buffer of `pages` pages, all zero.
    ///
    /// # Panics
    /// When so many pages are more than the address space has.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        let length = usize::try_from(pages)
            .ok()
            .and_then(|pages| pages.checked_mul(PAGE))
            .expect("the caller asks for no more than it can address");
        let bytes = vec![0; length + PAGE - 1];
        let start = bytes.as_ptr().align_offset(PAGE);
        Self { bytes, start, length }
    }

    /// A buffer that begins with these bytes, and is zero from there to the end of the page.
    pub(crate) fn holding(bytes: &[u8]) -> Self {
        let mut buffer = Self::new((bytes.len() as u64).div_ceil(PAGE_SIZE));
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        buffer
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    /// The bytes, to be changed.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }

    /// How many pages it has room for.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.length as u64 / PAGE_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_as_long_as_asked() {
        for pages in [0, 1, 3, 256] {
            let mut buffer = Buffer::new(pages);
            assert!(buffer.as_slice().as_ptr().addr().is_multiple_of(PAGE));
            assert_eq!(buffer.as_slice().len() as u64, pages * PAGE_SIZE);
            assert_eq!(buffer.pages(), pages);
            buffer.as_mut_slice().fill(7);
            let moved = buffer;
            assert!(moved.as_slice().iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn what_it_holds_is_followed_by_zeroes() {
        let buffer = Buffer::holding(&[1, 2, 3]);
        assert_eq!(buffer.pages(), 1);
        assert_eq!(buffer.as_slice()[..4], [1, 2, 3, 0]);
        assert_eq!(Buffer::holding(&[]).pages(), 0);
    }
}
