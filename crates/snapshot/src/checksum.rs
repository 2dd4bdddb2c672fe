//! Checksums.
//!
//! CRC-32C (RFC 3720, appendix B.4) is the algorithm with number 1, and the only one so far. On a
//! processor with carry-less multiplication it runs at several times the speed of memory, so that
//! nothing is gained by a weaker one; `cargo run --release -p whimbrel-snapshot --example checksums`
//! measures it. A CRC finds every change that is confined to 32 bits, and of any other all but one
//! in four thousand million.

use crc_fast::{CrcAlgorithm, Digest};

/// The number of CRC-32C in a header.
pub(crate) const CRC_32C: u32 = 1;

/// CRC-32C of these bytes.
#[must_use]
pub(crate) fn of(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32C of what comes in pieces.
#[derive(Debug)]
pub(crate) struct Running(Digest);

impl Running {
    pub(crate) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn value(&self) -> u32 {
        narrow(self.0.finalize())
    }
}

fn narrow(sum: u64) -> u32 {
    u32::try_from(sum).expect("a CRC of 32 bits has no more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithm_is_crc_32c() {
        // RFC 3720, appendix B.4; and the check value of every catalogue of CRCs.
        assert_eq!(of(&[0; 32]), 0x8a91_36aa);
        assert_eq!(of(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(of(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn pieces_sum_up_to_the_whole() {
        let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let mut running = Running::new();
        bytes.chunks(777).for_each(|piece| running.update(piece));
        assert_eq!(running.value(), of(&bytes));
    }
}
