//! Memory that the host can hand out at once.
//!
//! Where the host is a virtual machine, memory that it has not used for a while may have to be fetched
//! from outside first, ten times slower than what was used just now; whoever comes first would pay.

use crate::BenchError;
use memory::{Backing, GuestRam, HUGE_2M, PageRange};
use std::thread;

/// The part of the memory that is available, of which no more than this is written.
const PART: u64 = 2;

/// What is less than a machine can have is not worth it.
const LEAST: u64 = 16 << 20;

/// Writes so many bytes of memory, as far as there are, and gives them back.
pub fn warm(bytes: u64) -> Result<(), BenchError> {
    let text = std::fs::read_to_string("/proc/meminfo")
        .map_err(BenchError::io("cannot read /proc/meminfo"))?;
    let size = bytes.min(available(&text) / PART) / HUGE_2M * HUGE_2M;
    if size < LEAST {
        return Ok(());
    }
    let ram = GuestRam::new(size, Backing::Small)?;
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let share = ram.pages().div_ceil(threads);
    thread::scope(|scope| {
        let write = |first: u64| {
            let ram = &ram;
            scope.spawn(move || {
                (first..ram.pages().min(first + share)).try_for_each(|page| {
                    ram.slice(PageRange::new(page, 1)).map(|slice| slice.copy_from(&[1_u8]))
                })
            })
        };
        let all: Vec<_> = (0..threads).map(|index| write(index * share)).collect();
        all.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result.map_err(BenchError::io("writing memory")),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_written_and_given_back_as_far_as_there_is_any() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:      4 kB\n"), 4096);
        assert_eq!(available(""), 0);
        warm(32 << 20).unwrap();
        warm(0).unwrap();
    }
}
