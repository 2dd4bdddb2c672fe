//! RAM in huge pages, for the tests of the crate and beside it.

use memory::{Backing, GuestRam, RamError};

/// So many bytes of it; the host is asked for more huge pages where it has too few.
pub fn ram_in_huge_pages(size: u64) -> GuestRam {
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    for _ in 0..100 {
        match GuestRam::new(size, Backing::Huge2M) {
            Err(RamError::HugePages { advice, .. }) => {
                std::fs::write(pool, advice.to_string())
                    .expect("this test needs huge pages, and may not ask for them");
            }
            ram => return ram.unwrap(),
        }
        // Others take them too, and give them back.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("this test needs huge pages, and the host has none");
}
