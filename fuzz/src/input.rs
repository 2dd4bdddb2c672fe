//! Choices out of bytes.

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    4095,
    4096,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 52,
    1 << 60,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Reads choices from an input. One that has ended goes on with zeroes.
#[derive(Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Reads from these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether there are no more bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    /// A yes or no.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number of 16 bits.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number, often one near an edge.
    pub fn number(&mut self) -> u64 {
        let how = self.byte();
        match usize::from(how) {
            at @ 0..12 => EDGES[at],
            at @ 12..24 => EDGES[at - 12].wrapping_add(1),
            at @ 24..36 => EDGES[at - 24].wrapping_sub(1),
            36..128 => u64::from(self.byte()),
            128..192 => u64::from(self.short()),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// A number of 32 bits, often one near an edge.
    pub fn number32(&mut self) -> u32 {
        let number = self.number();
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// Some bytes: a length of 16 bits, and so many as there are.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.short()).min(self.rest.len());
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        bytes
    }

    /// A short text.
    pub fn text(&mut self) -> String {
        let length = usize::from(self.byte() % 32).min(self.rest.len());
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}
