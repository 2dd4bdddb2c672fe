//! Known content for the floating-point and vector registers
//!
//! In the format of FXSAVE64 (Intel SDM volume 1, 10.5.1).

use super::pattern;

/// Registers in the image: xmm0 to 15, st0 to 7, MXCSR, x87 control word
pub const REGISTERS: usize = 26;

const MXCSR: usize = 24;
const CONTROL: usize = 25;

/// An FXSAVE64 image
#[derive(Clone)]
#[repr(C, align(16))]
pub struct Image([u8; 512]);

impl Image {
    /// All zero: to be saved into
    #[must_use]
    pub const fn zeroed() -> Self {
        Self([0; 512])
    }

    /// Fills the image with what belongs to a seed
    pub fn fill(&mut self, seed: u64) {
        self.0 = [0; 512];
        self.0[4] = 0xff; // all eight x87 registers are in use
        for register in 0..REGISTERS {
            let (at, size) = place(register);
            let value = bytes(value(seed, register));
            self.0[at..at + size].copy_from_slice(&value[..size]);
        }
    }

    /// The first register that is not what belongs to a seed: its number, and of
    /// what it should be and what it is the lower halves, or the upper ones if
    /// the lower are the same
    #[must_use]
    pub fn compare(&self, seed: u64) -> Option<(usize, u64, u64)> {
        (0..REGISTERS).find_map(|register| {
            let (at, size) = place(register);
            let (expected, found) = (value(seed, register), halves(&self.0[at..at + size]));
            let half = (0..2).find(|&half| expected[half] != found[half])?;
            Some((register, expected[half], found[half]))
        })
    }
}

fn bytes(halves: [u64; 2]) -> [u8; 16] {
    (u128::from(halves[0]) | u128::from(halves[1]) << 64).to_le_bytes()
}

fn halves(bytes: &[u8]) -> [u64; 2] {
    let half = |bytes: &[u8]| bytes.iter().rev().fold(0, |half, &byte| half << 8 | u64::from(byte));
    let (low, high) = bytes.split_at(bytes.len().min(8));
    [half(low), half(high)]
}

/// Offset and size of a register in the image
const fn place(register: usize) -> (usize, usize) {
    match register {
        0..16 => (160 + 16 * register, 16),
        MXCSR => (24, 4),
        CONTROL => (0, 2),
        _ => (32 + 16 * (register - 16), 10),
    }
}

fn value(seed: u64, register: usize) -> [u64; 2] {
    let word = |half| pattern::word(seed, 2 * register + half);
    match register {
        // All exceptions masked; the rounding control is what varies
        MXCSR => [0x1f80 | (word(0) & 3) << 13, 0],
        CONTROL => [0x037f | (word(0) & 3) << 10, 0],
        0..16 => [word(0), word(1)],
        // A normal number: any exponent but the extremes, leading bit of the significand set
        _ => [word(0) | 1 << 63, (word(1) & 0x3fff) + 0x1000],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_is_compared() {
        let mut image = Image::zeroed();
        image.fill(5);
        assert_eq!(image.compare(5), None);
        for register in 0..REGISTERS {
            let (at, size) = place(register);
            for byte in [at, at + size - 1] {
                let mut wrong = image.clone();
                wrong.0[byte] ^= 0x80;
                let (found, expected, got) = wrong.compare(5).unwrap();
                assert!(found == register && expected != got);
            }
        }
        assert!(image.compare(6).is_some());
    }
}
