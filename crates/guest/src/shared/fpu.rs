//! Known content for the floating-point and vector registers
//!
//! In the formats of FXSAVE64 and, where there is AVX, of XSAVE64 (Intel SDM
//! volume 1, 10.5.1 and 13.4).

use super::pattern;

/// Bytes of an image: enough for AVX-512
const SIZE: usize = 2816;
const LEGACY: usize = 512;

/// Registers of the legacy area: xmm0 to 15, st0 to 7, MXCSR, x87 control word
const REGISTERS: usize = 26;
const MXCSR: usize = 24;
const CONTROL: usize = 25;

/// State components that are used if they are there (their bits in XCR0): upper
/// halves of ymm0 to 15; k0 to 7; upper halves of zmm0 to 15; zmm16 to 31
const COMPONENTS: [u32; 4] = [2, 5, 6, 7];
const LEGACY_MASK: u64 = 0b11;
/// The bits of AVX-512, which come together
const AVX512_MASK: u64 = 0b1110_0000;

/// Which registers there are, and where they are in an image
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// State components for XRSTOR and XSAVE; 0 if there are FXRSTOR and FXSAVE only
    mask: u64,
    /// Offset and size of each of [`COMPONENTS`], bytes
    extents: [(usize, usize); COMPONENTS.len()],
}

impl Vectors {
    /// SSE and x87 alone
    pub const LEGACY: Self = Self { mask: 0, extents: [(0, 0); COMPONENTS.len()] };

    /// What a processor has, by its CPUID: EAX to EDX of a leaf and a subleaf
    /// (leaves 1 and 0xd)
    #[must_use]
    pub fn of_processor(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> Self {
        const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;
        let mut layout = Self::LEGACY;
        if cpuid(1, 0)[2] & XSAVE_AND_AVX != XSAVE_AND_AVX {
            return layout;
        }
        let mut supported = u64::from(cpuid(0xd, 0)[0]);
        if supported & AVX512_MASK != AVX512_MASK {
            supported &= !AVX512_MASK;
        }
        layout.mask = LEGACY_MASK;
        for (component, extent) in COMPONENTS.into_iter().zip(&mut layout.extents) {
            let [size, offset, ..] = cpuid(0xd, component).map(|word| word as usize);
            if supported & 1 << component != 0 && offset >= LEGACY + 64 && offset + size <= SIZE {
                *extent = (offset, size);
                layout.mask |= 1 << component;
            }
        }
        layout
    }

    /// The state components in use, as bits of XCR0; 0 without XSAVE
    #[must_use]
    pub const fn mask(&self) -> u64 {
        self.mask
    }

    /// The 64-bit words beyond the legacy area: number and offset
    fn words(&self) -> impl Iterator<Item = (usize, usize)> {
        COMPONENTS.into_iter().zip(self.extents).flat_map(|(component, (offset, size))| {
            (0..size / 8).map(move |word| ((component as usize) << 8 | word, offset + 8 * word))
        })
    }
}

/// The registers' content in memory
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Image([u8; SIZE]);

impl Image {
    /// All zero: to be saved into
    #[must_use]
    pub const fn zeroed() -> Self {
        Self([0; SIZE])
    }

    /// Fills the image with what belongs to a seed
    pub fn fill(&mut self, layout: &Vectors, seed: u64) {
        self.0[..LEGACY].fill(0);
        self.0[4] = 0xff; // all eight x87 registers are in use
        for register in 0..REGISTERS {
            let (at, size) = place(register);
            let value = bytes(value(seed, register));
            self.0[at..at + size].copy_from_slice(&value[..size]);
        }
        // The header: the components that are not in their initial state
        self.0[LEGACY..LEGACY + 8].copy_from_slice(&layout.mask.to_le_bytes());
        for (number, at) in layout.words() {
            self.0[at..at + 8].copy_from_slice(&pattern::word(seed, number).to_le_bytes());
        }
    }

    /// The first register that is not what belongs to a seed, and of what it
    /// should be and what it is the lower halves, or the upper ones if the lower
    /// are the same
    ///
    /// Numbers are those of the legacy registers, or from 256 on 256 times the
    /// state component plus the index of the 64-bit word in it.
    #[must_use]
    pub fn compare(&self, layout: &Vectors, seed: u64) -> Option<(usize, u64, u64)> {
        let legacy = (0..REGISTERS).find_map(|register| {
            let (at, size) = place(register);
            let (expected, found) = (value(seed, register), halves(&self.0[at..at + size]));
            let half = (0..2).find(|&half| expected[half] != found[half])?;
            Some((register, expected[half], found[half]))
        });
        legacy.or_else(|| {
            layout.words().find_map(|(number, at)| {
                let (expected, [found, _]) =
                    (pattern::word(seed, number), halves(&self.0[at..at + 8]));
                (expected != found).then_some((number, expected, found))
            })
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

/// Offset and size of a legacy register in the image
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

    /// As a processor with AVX-512 answers
    fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
        match (leaf, subleaf) {
            (1, 0) => [0, 0, 1 << 26 | 1 << 28, 0],
            (0xd, 0) => [0x2e7, 0, 0, 0],
            (0xd, 2) => [256, 576, 0, 0],
            (0xd, 5) => [64, 1088, 0, 0],
            (0xd, 6) => [512, 1152, 0, 0],
            (0xd, 7) => [1024, 1664, 0, 0],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_layout_follows_cpuid() {
        assert_eq!(Vectors::of_processor(cpuid).mask(), 0xe7);
        let without_avx = |leaf, subleaf| if leaf == 1 { [0; 4] } else { cpuid(leaf, subleaf) };
        assert_eq!(Vectors::of_processor(without_avx), Vectors::LEGACY);
        let without_avx512 = |leaf, subleaf| match (leaf, subleaf) {
            (0xd, 0) => [0x7, 0, 0, 0],
            (0xd, 5..) => [0; 4],
            _ => cpuid(leaf, subleaf),
        };
        assert_eq!(Vectors::of_processor(without_avx512).mask(), 0x7);
    }

    #[test]
    fn no_component_lies_outside_the_image() {
        let wild = |leaf, subleaf| match (leaf, subleaf) {
            (0xd, 1..) => [u32::MAX, u32::MAX, 0, 0],
            _ => cpuid(leaf, subleaf),
        };
        assert_eq!(Vectors::of_processor(wild).mask(), LEGACY_MASK);
    }

    #[test]
    fn every_register_is_compared() {
        for layout in [Vectors::LEGACY, Vectors::of_processor(cpuid)] {
            let mut image = Image::zeroed();
            image.fill(&layout, 5);
            assert_eq!(image.compare(&layout, 5), None);
            assert!(image.compare(&layout, 6).is_some());
            let legacy = (0..REGISTERS).map(|register| (register, place(register)));
            let further = layout.words().map(|(number, at)| (number, (at, 8)));
            for (register, (at, size)) in legacy.chain(further) {
                for byte in [at, at + size - 1] {
                    let mut wrong = image.clone();
                    wrong.0[byte] ^= 0x80;
                    let (found, expected, got) = wrong.compare(&layout, 5).unwrap();
                    assert!(found == register && expected != got);
                }
            }
        }
        assert_eq!(Vectors::of_processor(cpuid).words().count(), 32 + 8 + 64 + 128);
    }
}
