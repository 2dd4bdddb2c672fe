//! The guest's own code, constants and tables: they never change

use rt::cpu::PAGE;
use rt::shared::pattern;

const MAX_PAGES: usize = 128;

unsafe extern "C" {
    static image_start: u8;
    static tables_end: u8;
}

/// The checksum of each page
pub struct Image {
    sums: [u64; MAX_PAGES],
}

impl Image {
    /// The image as it is now
    pub fn new() -> Self {
        let mut sums = [0; MAX_PAGES];
        for (address, slot) in pages().zip(&mut sums) {
            *slot = sum(address);
        }
        Self { sums }
    }

    /// Tells `fault` of each page that changed: address, old and new checksum
    pub fn check(&mut self, mut fault: impl FnMut(u64, u64, u64)) {
        for (address, known) in pages().zip(&mut self.sums) {
            let now = sum(address);
            if now != *known {
                fault(address as u64, *known, now);
                *known = now;
            }
        }
    }
}

fn pages() -> impl Iterator<Item = usize> {
    (&raw const image_start as usize..&raw const tables_end as usize).step_by(PAGE)
}

fn sum(address: usize) -> u64 {
    // SAFETY: a page of the image; nothing writes to it
    let words = unsafe { &*(address as *const pattern::Page) };
    words
        .iter()
        .fold(0, |sum: u64, &word| (sum ^ word).wrapping_mul(pattern::FACTOR).rotate_left(29))
}
