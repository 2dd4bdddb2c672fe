//! What part of a processor a thread gets, and whether that is next to nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// All polite threads of one process together that get less than this part of one processor are
/// starved, if they wanted more.
const LEAST_SHARE: u32 = 8;

/// What the kernel counts of a thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// On a processor.
    pub(crate) ran: Duration,
    /// On a run queue.
    pub(crate) waited: Duration,
}

impl Times {
    /// What came since.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            ran: self.ran.saturating_sub(before.ran),
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

/// Whether a thread, one of so many, that got this in the time was waiting for processors most of
/// it and got less than its part of the least share.
pub(crate) fn starved(got: Times, elapsed: Duration, threads: u32) -> bool {
    got.waited > elapsed / 2 && got.ran < elapsed / LEAST_SHARE / threads
}

/// Reads nanoseconds on a processor and on a run queue: Linux
/// `Documentation/scheduler/sched-stats.rst`, `/proc/<pid>/schedstat`.
pub(crate) fn read(statistics: &File) -> Option<Times> {
    let mut buffer = [0; 96];
    let count = statistics.read_at(&mut buffer, 0).ok()?;
    let text = std::str::from_utf8(&buffer[..count]).ok()?;
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().ok());
    let mut next = || numbers.next().flatten().map(Duration::from_nanos);
    Some(Times { ran: next()?, waited: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn got(ran: u64, waited: u64) -> Times {
        Times { ran: Duration::from_millis(ran), waited: Duration::from_millis(waited) }
    }

    #[test]
    fn a_thread_that_waits_for_a_processor_and_gets_none_is_starved() {
        assert!(starved(got(10, 980), SECOND, 2));
    }

    #[test]
    fn a_thread_that_waits_for_the_link_is_not() {
        assert!(!starved(got(10, 100), SECOND, 2));
    }

    #[test]
    fn threads_that_share_a_processor_are_not() {
        assert!(!starved(got(125, 875), SECOND, 2));
        assert!(!starved(got(63, 930), SECOND, 16));
    }
}
