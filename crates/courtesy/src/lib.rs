//! How threads that move pages compete with the guest for processors.
//!
//! While the guest runs, a thread that copies its RAM takes the place of a vCPU wherever no
//! processor is free, and a turn of the scheduler is some milliseconds: a stall that the guest
//! sees. So such threads are *polite*: they run at a lower priority, mostly on what the vCPUs leave,
//! and take short turns, which they end by themselves: the kernel looks whose turn it is only at
//! its tick, every 4 ms at 250 Hz.
//!
//! Where the vCPUs of this and other machines leave nothing a motion would never end, so polite
//! threads watch what they get, and where that is next to nothing *prompt* ones, which compete as
//! equals, do their work from then on. When the guest is stopped there is nobody to be polite to.
//!
//! A thread that has lowered its priority may not raise it again without privileges
//! (`setpriority(2)`, `RLIMIT_NICE`): that is why one thread hands over to another.

mod awake;
mod share;
mod slice;

pub use self::awake::Awake;
use share::Times;
use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

/// A lower priority, `setpriority(2)`: beside a thread of the usual one it gets one part in ten. Lower
/// still spares the guest hardly more, and a thread that is preempted while it holds a lock, of ours
/// or of the kernel, holds up others for as long as it waits.
const LOWER: i32 = 10;
/// How long a turn is to be: a guest does not notice it, and it is long beside what it costs to end it.
const TURN: Duration = Duration::from_micros(200);
/// How long a thread watches before it judges.
const WINDOW: Duration = Duration::from_millis(250);

/// What a polite thread has seen of the scheduler.
#[derive(Debug)]
pub struct Courtesy {
    statistics: File,
    threads: u32,
    since: Instant,
    before: Times,
    /// When the turn began; `None` where turns cannot be made short.
    turn: Option<Instant>,
}

impl Courtesy {
    /// Makes the calling thread polite, and those that it starts from now on; one of so many. `None`
    /// where the kernel does not tell what it gets then (`CONFIG_SCHED_INFO`): whoever is polite must
    /// notice that it starves.
    #[must_use]
    pub fn begin(threads: usize) -> Option<Self> {
        let statistics = File::open("/proc/thread-self/schedstat").ok()?;
        let before = share::read(&statistics)?;
        // 0, which `None` stands for, is the calling thread.
        rustix::process::setpriority_process(None, LOWER).ok()?;
        let turn = slice::request(TURN).then(Instant::now);
        let threads = u32::try_from(threads).unwrap_or(u32::MAX).max(1);
        Some(Self { statistics, threads, since: Instant::now(), before, turn })
    }

    /// Whether the thread has had its turn, and is to let others run: by [`give_way`](Self::give_way), or
    /// `thread::yield_now`. To be asked often, and with nothing held that others wait for.
    pub fn has_had_its_turn(&mut self) -> bool {
        let had = self.turn.is_some_and(|begun| begun.elapsed() >= TURN / 2);
        if had {
            self.turn = Some(Instant::now());
        }
        had
    }

    /// Lets others run if the thread has had its turn.
    pub fn give_way(&mut self) {
        if self.has_had_its_turn() {
            thread::yield_now();
            self.turn = Some(Instant::now());
        }
    }

    /// Whether it gets next to nothing. Judges a few times a second, of the time since.
    pub fn is_starved(&mut self) -> bool {
        let elapsed = self.since.elapsed();
        if elapsed < WINDOW {
            return false;
        }
        let Some(now) = share::read(&self.statistics) else { return true };
        let got = now.since(self.before);
        self.since = Instant::now();
        self.before = now;
        share::starved(got, elapsed, self.threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_a_thread_got() {
        std::thread::spawn(|| {
            let mut courtesy = Courtesy::begin(1).expect("CONFIG_SCHED_INFO");
            assert_eq!(rustix::process::getpriority_process(None).unwrap(), LOWER);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(5) {}
            let now = share::read(&courtesy.statistics).unwrap();
            assert!(now.ran > Duration::ZERO);
            assert!(!courtesy.is_starved(), "nobody judges that soon");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_turn_that_is_over_is_over_once() {
        std::thread::spawn(|| {
            let mut courtesy = Courtesy::begin(1).expect("CONFIG_SCHED_INFO");
            courtesy.turn = Some(Instant::now().checked_sub(TURN).unwrap());
            assert!(courtesy.has_had_its_turn());
            courtesy.turn = None;
            assert!(!courtesy.has_had_its_turn(), "no turns where they cannot be made short");
        })
        .join()
        .unwrap();
    }
}
