//! The clock that every processor has, whoever runs on it

use core::arch::asm;

/// The time-stamp counter
#[inline(always)]
#[must_use]
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter. The fence keeps the reading where it stands.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack)) }
    u64::from(high) << 32 | u64::from(low)
}
