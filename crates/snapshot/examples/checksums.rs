//! How fast pages are summed, in and out of the processor's cache, beside how fast they are copied.
//!
//! `cargo run --release -p whimbrel-snapshot --example checksums`

use crc_fast::CrcAlgorithm;
use std::hint::black_box;
use std::time::Instant;

const PAGE: usize = 4096;
const TOTAL: usize = 1 << 30;

fn measure(what: &str, mut page: impl FnMut(&[u8])) {
    for (place, length) in [("256 KiB, in cache", 256 << 10), ("512 MiB, in memory", 512 << 20)] {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
        let mut rates: Vec<f64> = (0..5)
            .map(|_| {
                let start = Instant::now();
                for _ in 0..TOTAL / length {
                    bytes.chunks(PAGE).for_each(&mut page);
                }
                TOTAL as f64 / start.elapsed().as_secs_f64() / 1e9
            })
            .collect();
        rates.sort_by(f64::total_cmp);
        println!(
            "{what:<34} {place:<20} {:5.1} GB/s ({:.1} to {:.1})",
            rates[2], rates[0], rates[4]
        );
    }
}

fn main() {
    let summed = |algorithm| {
        move |bytes: &[u8]| {
            black_box(crc_fast::checksum(algorithm, bytes));
        }
    };
    measure("CRC-32C", summed(CrcAlgorithm::Crc32Iscsi));
    measure("CRC-32 (IEEE)", summed(CrcAlgorithm::Crc32IsoHdlc));
    measure("CRC-64 (NVMe)", summed(CrcAlgorithm::Crc64Nvme));
    let mut copy = [0; PAGE];
    measure("copying the page", |bytes| {
        copy.copy_from_slice(bytes);
        black_box(&copy);
    });
}
