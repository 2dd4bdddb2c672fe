//! What the kernel says of a process: its time on processors and its memory.

use crate::BenchError;
use std::fs;
use std::time::Duration;

/// What the kernel counts processor time in for user space, on every architecture that matters:
/// `USER_HZ` (Linux `include/asm-generic/param.h`).
const TICK: Duration = Duration::from_millis(10);

/// Time on processors so far, in user and kernel mode, of all threads of a process, those that have
/// ended too. To 10 ms.
pub fn cpu_time(pid: u32) -> Result<Duration, BenchError> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(BenchError::io(format!("cannot read {path}")))?;
    ticks(&text)
        .map(|ticks| TICK.saturating_mul(ticks))
        .ok_or_else(|| BenchError::Raw(format!("{path} is not as proc(5) says")))
}

/// `utime` and `stime`, the 14th and 15th field. The second is the program's name in brackets, which
/// may hold anything.
fn ticks(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u32>().ok();
    Some(next()? + next()?)
}

/// Memory of a process by its share of it (PSS), without the mappings whose name holds `except`, in
/// bytes.
pub fn memory(pid: u32, except: &str) -> Result<u64, BenchError> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).map_err(BenchError::io(format!("cannot read {path}")))?;
    Ok(share(&text, except))
}

fn share(smaps: &str, except: &str) -> u64 {
    let mut counts = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if let Some(key) = first.strip_suffix(':') {
            let value = || line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
            if key == "Pss" && counts {
                sum += value().unwrap_or(0) << 10;
            }
        } else {
            counts = !line.contains(except);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4 10 0 0 0 120 34 0 0 20 0 3 0";
        assert_eq!(ticks(stat), Some(154));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn the_guests_memory_does_not_count() {
        let smaps = "55d0-55d1 r-xp 00000000 08:01 1 /usr/bin/vmm\n\
                     Size:  8 kB\nPss:  8 kB\nPss_Dirty: 4 kB\nVmFlags: rd ex\n\
                     7f00-7f01 rw-s 00000000 00:01 2 /memfd:ram (deleted)\n\
                     Pss: 999 kB\n\
                     7f02-7f03 rw-p 00000000 00:00 0\n\
                     Pss: 3 kB\n";
        assert_eq!(share(smaps, "/memfd:ram"), 11 << 10);
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let pid = std::process::id();
        cpu_time(pid).unwrap();
        assert!(memory(pid, "/memfd:none").unwrap() > 64 << 10);
    }
}
