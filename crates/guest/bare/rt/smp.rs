//! Starting the other processors: local APIC, INIT and start-up IPIs
//!
//! Intel SDM volume 3, 11.4.4 (MP initialization) and 12.6.1 (interrupt command register).

use crate::time::Time;
use core::sync::atomic::{AtomicU64, Ordering};

const APIC: usize = 0xfee0_0000;
const INTERRUPT_COMMAND: usize = 0x300;
/// Shorthand "all but self", level asserted
const ALL_BUT_SELF: u32 = 0b11 << 18 | 1 << 14;
const INIT: u32 = 0b101 << 8;
const START_UP: u32 = 0b110 << 8;
/// Where the start-up code goes: RAM below 1 MiB that nothing uses once the
/// loader's data has been read
const TRAMPOLINE: usize = 0x8000;

/// Bit mask of the processors that run
pub static PRESENT: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

/// Starts all processors and waits until `expected` of them run or, if that is
/// not known, until no more come
///
/// # Safety
/// The loader's data below 1 MiB must not be needed any more; one call only.
pub unsafe fn start(time: &Time, expected: Option<u64>) {
    const WAIT: u64 = 2_000_000_000;
    const SETTLE: u64 = 50_000_000;
    const REPEAT: u64 = 20_000_000;
    if expected == Some(1) {
        return;
    }
    // SAFETY: by the caller
    unsafe {
        let start = &raw const trampoline_start;
        let size = (&raw const trampoline_end).offset_from_unsigned(start);
        core::ptr::copy_nonoverlapping(start, TRAMPOLINE as *mut u8, size);
    }
    command(ALL_BUT_SELF | INIT);
    let (mut sent, mut arrived, mut seen) = (None, time.now(), 1);
    let began = arrived;
    loop {
        let now = time.now();
        let count = u64::from(PRESENT.load(Ordering::Acquire).count_ones());
        if count != seen {
            (seen, arrived) = (count, now);
        }
        let complete = match expected {
            Some(expected) => count >= expected || now > began + WAIT,
            None => now > arrived + SETTLE,
        };
        if complete {
            return;
        }
        // A start-up IPI may come before its processor waits for it; those that
        // run ignore another one
        if sent.is_none_or(|sent| now > sent + REPEAT) {
            command(ALL_BUT_SELF | START_UP | (TRAMPOLINE >> 12) as u32);
            sent = Some(now);
        }
        core::hint::spin_loop();
    }
}

fn command(value: u32) {
    // SAFETY: the local APIC is where reset puts it, and mapped
    unsafe { ((APIC + INTERRUPT_COMMAND) as *mut u32).write_volatile(value) }
}
