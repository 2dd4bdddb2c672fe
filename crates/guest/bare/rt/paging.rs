//! Mapping of RAM above the first 4 GiB, which `boot.s` has mapped

use crate::ram::Regions;

const MAPPED: u64 = 4 << 30;
/// One page of directory pointers reaches so far
pub const REACH: u64 = 512 << 30;
const TABLE: u64 = 0x27;
const LEAF: u64 = 0xe7;

unsafe extern "C" {
    static mut pdpt: [u64; 512];
}

/// Maps all of `ram` below [`REACH`], taking the tables from its start
///
/// # Safety
/// `ram` must be unused memory, its start mapped already; one call only.
pub unsafe fn map(ram: &mut Regions) {
    let end = ram.iter().map(|range| range.end).max().unwrap_or(0).min(REACH);
    let mut gigabyte = MAPPED;
    while gigabyte < end {
        let table = ram.take(4096).page(0);
        // SAFETY: the caller gave the memory; each entry is filled before it is linked
        unsafe {
            let entries = &mut *(table as *mut [u64; 512]);
            for (address, entry) in (gigabyte..).step_by(2 << 20).zip(entries) {
                *entry = address | LEAF;
            }
            (&raw mut pdpt)
                .cast::<u64>()
                .add((gigabyte >> 30) as usize)
                .write_volatile(table | TABLE);
        }
        gigabyte += 1 << 30;
    }
}
