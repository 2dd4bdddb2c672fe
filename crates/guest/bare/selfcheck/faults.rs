//! Counting and reporting faults

use core::sync::atomic::{AtomicU64, Ordering};
use rt::shared::report::{Fault, Hex, Kind};
use rt::station::Station;

/// Faults since the start, on all processors
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Faults that are printed whatever their number
const ALWAYS: u64 = 16;
/// Beyond these, one is printed so often, nanoseconds
const INTERVAL: u64 = 100_000_000;

/// Faults since the start
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Counts a fault, and prints it unless there are too many
pub fn report(station: &mut Station, kind: Kind, address: u64, expected: u64, found: u64) {
    /// When one was last printed
    static PRINTED: AtomicU64 = AtomicU64::new(0);
    let before = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = station.machine.time.now();
    if before >= ALWAYS && now < PRINTED.load(Ordering::Relaxed) + INTERVAL {
        return;
    }
    PRINTED.store(now, Ordering::Relaxed);
    let fault = Fault {
        kind,
        addr: Hex(address),
        expected: Hex(expected),
        found: Hex(found),
        cpu: station.cpu.id as u64,
        t: now,
    };
    station.print(|_| fault);
}
