//! How threads that move pages compete with the guest for processors.
//!
//! While the guest runs, a thread that copies its RAM takes the place of a vCPU wherever no
//! processor is free, and a turn of the scheduler is some milliseconds: a stall that the guest
//! sees. So such threads are *polite*: they run at a lower priority, mostly on what the vCPUs leave.
//! Where the vCPUs of this and other machines leave nothing a motion would never end, so polite
//! threads watch what they get, and where that is next to nothing *prompt* ones, which compete as
//! equals, do their work from then on. When the guest is stopped there is nobody to be polite to.
//!
//! A thread that has lowered its priority may not raise it again without privileges
//! (`setpriority(2)`, `RLIMIT_NICE`): that is why one thread hands over to another.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How a thread competes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Manner {
    /// On what others leave.
    #[default]
    Polite,
    /// As an equal.
    Prompt,
}

/// A lower priority, `setpriority(2)`: beside a thread of the usual one it gets one part in ten. Lower
/// still spares the guest hardly more, and a thread that is preempted while it holds a lock, of ours
/// or of the kernel, holds up others for as long as it waits.
const LOWER: i32 = 10;
/// How long a thread watches before it judges.
const WINDOW: Duration = Duration::from_millis(250);
/// All polite threads of one process together that get less than this part of one processor are
/// starved, if they wanted more.
const LEAST_SHARE: u32 = 8;

/// What a polite thread has seen of the scheduler.
#[derive(Debug)]
pub struct Courtesy {
    statistics: File,
    threads: u32,
    since: Instant,
    before: Times,
}

/// What the kernel counts of a thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Times {
    ran: Duration,
    waited: Duration,
}

impl Courtesy {
    /// Makes the calling thread polite, one of so many. `None` where the kernel does not tell what
    /// it gets then (`CONFIG_SCHED_INFO`): whoever is polite must notice that it starves.
    #[must_use]
    pub fn begin(threads: usize) -> Option<Self> {
        let statistics = File::open("/proc/thread-self/schedstat").ok()?;
        let before = read(&statistics)?;
        // 0, which `None` stands for, is the calling thread.
        rustix::process::setpriority_process(None, LOWER).ok()?;
        let threads = u32::try_from(threads).unwrap_or(u32::MAX).max(1);
        Some(Self { statistics, threads, since: Instant::now(), before })
    }

    /// Whether it gets next to nothing. Judges a few times a second, of the time since.
    pub fn is_starved(&mut self) -> bool {
        let elapsed = self.since.elapsed();
        if elapsed < WINDOW {
            return false;
        }
        let Some(now) = read(&self.statistics) else { return true };
        let ran = now.ran.saturating_sub(self.before.ran);
        let waited = now.waited.saturating_sub(self.before.waited);
        self.since = Instant::now();
        self.before = now;
        starved(Times { ran, waited }, elapsed, self.threads)
    }
}

/// Whether a thread, one of so many, that got this in the time was waiting for processors most of
/// it and got less than its part of the least share.
fn starved(got: Times, elapsed: Duration, threads: u32) -> bool {
    got.waited > elapsed / 2 && got.ran < elapsed / LEAST_SHARE / threads
}

/// Reads nanoseconds on a processor and on a run queue: Linux
/// `Documentation/scheduler/sched-stats.rst`, `/proc/<pid>/schedstat`.
fn read(statistics: &File) -> Option<Times> {
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

    #[test]
    fn the_kernel_says_what_a_thread_got() {
        std::thread::spawn(|| {
            let mut courtesy = Courtesy::begin(1).expect("CONFIG_SCHED_INFO");
            assert_eq!(rustix::process::getpriority_process(None).unwrap(), LOWER);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(5) {}
            let now = read(&courtesy.statistics).unwrap();
            assert!(now.ran > Duration::ZERO);
            assert!(!courtesy.is_starved(), "nobody judges that soon");
        })
        .join()
        .unwrap();
    }
}
