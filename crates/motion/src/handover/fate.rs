//! Who goes on with a guest whose RAM two processes share.
//!
//! Messages can be lost, and a process can stand still for as long as it likes. Where both processes
//! have the guest's RAM, neither may go on by what it believes of the other: RAM moves on as soon as
//! one of them runs a single instruction. So one word that both see decides, once and for all, and
//! whoever is to run the guest asks it right before.

use super::Verdict;
use memory::SharedWord;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

const OPEN: u32 = 0;
const KEPT: u32 = 1;
const ENTERED: u32 = 2;

/// What became of a guest that two processes could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is not decided.
    Open,
    /// The process that had it goes on with it.
    Kept,
    /// The process that was to take it over has.
    Entered,
}

/// Decides which of two processes goes on with a guest.
#[derive(Debug)]
pub struct Fate(SharedWord);

impl Fate {
    /// One that is open, and the file with which the other process [opens](Self::open) it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        SharedWord::new().map(|(word, file)| (Self(word), file))
    }

    /// The one that another process made.
    ///
    /// # Errors
    /// When the file is none.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        SharedWord::open(file).map(Self)
    }

    /// The process that has the guest goes on with it, and the other never will. Whether that is so:
    /// from the moment when the other has entered it is not.
    #[must_use]
    pub fn keep(&self) -> bool {
        self.decide(KEPT)
    }

    /// The process that is to take the guest over does so now. Whether it may: once the other has kept
    /// the guest it may not.
    #[must_use]
    pub fn enter(&self) -> bool {
        self.decide(ENTERED)
    }

    /// What the other process would answer if it were asked what became of the guest, which it need not
    /// be: asking is what settles it, since the guest is kept if it still can be.
    #[must_use]
    pub fn settle(&self) -> Verdict {
        match self.keep() {
            true => Verdict::Refused,
            false => Verdict::Committed,
        }
    }

    /// What was decided.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.0.get().load(Ordering::Acquire) {
            OPEN => Outcome::Open,
            ENTERED => Outcome::Entered,
            // Nobody else writes it; and who has the guest's RAM and state already keeps it.
            _ => Outcome::Kept,
        }
    }

    fn decide(&self, wanted: u32) -> bool {
        let word = self.0.get();
        match word.compare_exchange(OPEN, wanted, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(found) => found == wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn whoever_is_first_has_the_guest_for_good() {
        let (old, file) = Fate::new().unwrap();
        let new = Fate::open(file).unwrap();
        assert_eq!(new.outcome(), Outcome::Open);
        assert!(old.keep());
        assert!(!new.enter());
        assert!(old.keep());
        assert_eq!(new.outcome(), Outcome::Kept);

        let (old, _) = Fate::new().unwrap();
        assert!(old.enter());
        assert!(!old.keep());
        assert!(old.enter());
        assert_eq!(old.outcome(), Outcome::Entered);
    }

    #[test]
    fn never_both() {
        for _ in 0..1000 {
            let (old, file) = Fate::new().unwrap();
            let new = Fate::open(file).unwrap();
            let barrier = Barrier::new(2);
            let (kept, entered) = std::thread::scope(|scope| {
                let keeper = scope.spawn(|| {
                    barrier.wait();
                    old.keep()
                });
                barrier.wait();
                let entered = new.enter();
                (keeper.join().unwrap(), entered)
            });
            assert!(kept != entered);
        }
    }
}
