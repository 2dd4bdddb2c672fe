//! How long something may take that cannot be broken off.
//!
//! A write to a disk that is gone, or to a file system on a network that is, does not fail: it does
//! not come back. Whoever does it says so first, so that somebody else can see how long it takes.

use crate::clock::{Moment, nanos};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One read or write that takes longer will not come back.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// A disk that takes fewer bytes a second than this counts as one that hangs.
pub(super) const SLOWEST_DISK: u64 = 20 << 20;

/// What one thread is doing, for another one to see.
#[derive(Debug)]
pub(super) struct Patience {
    epoch: Instant,
    at_work: Mutex<Vec<Work>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Work {
    doing: &'static str,
    until: Moment,
}

impl Patience {
    /// Nothing is being done.
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, at_work: Mutex::default() }
    }

    /// Does something that may take so long.
    pub(super) fn during<T>(
        &self,
        doing: &'static str,
        limit: Duration,
        task: impl FnOnce() -> T,
    ) -> T {
        let work = Work { doing, until: self.now().after(limit) };
        self.at_work().push(work);
        let result = task();
        let mut at_work = self.at_work();
        if let Some(at) = at_work.iter().position(|other| *other == work) {
            at_work.swap_remove(at);
        }
        result
    }

    /// What takes longer than it may.
    pub(super) fn exceeded(&self) -> Option<&'static str> {
        let now = self.now();
        self.at_work().iter().find(|work| work.until < now).map(|work| work.doing)
    }

    fn now(&self) -> Moment {
        Moment(nanos(self.epoch.elapsed()))
    }

    fn at_work(&self) -> MutexGuard<'_, Vec<Work>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_seen_while_it_is_done_and_not_after() {
        let patience = Patience::new(Instant::now());
        assert_eq!(patience.exceeded(), None);
        patience.during("waiting", Duration::ZERO, || {
            std::thread::sleep(Duration::from_millis(1));
            assert_eq!(patience.exceeded(), Some("waiting"));
            patience.during("more", LIMIT, || ());
            assert_eq!(patience.exceeded(), Some("waiting"));
        });
        assert_eq!(patience.exceeded(), None);
    }
}
