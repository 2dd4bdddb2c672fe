//! A process's life: it can end between any two things that it does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Names a process. Never used twice in a run.
pub type Pid = u32;

/// Shared by everything that acts for one process. Once it is dead nothing that it does happens,
/// though its code may run on to the end of the step.
#[derive(Debug)]
pub struct Life {
    pub pid: Pid,
    /// 0 or 1.
    pub host: usize,
    dead: AtomicBool,
    /// It dies instead of doing this many things; 0 is never.
    countdown: AtomicU64,
    /// How far its thread is ahead of the world's clock, in nanoseconds: what it is doing takes time.
    ahead: AtomicU64,
}

impl Life {
    pub fn new(pid: Pid, host: usize) -> Self {
        let (dead, countdown) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { pid, host, dead, countdown, ahead: AtomicU64::new(0) }
    }

    /// One thing is to be done. False when it must not happen.
    pub fn acts(&self) -> bool {
        if self.is_dead() {
            return false;
        }
        match self.countdown.load(Ordering::Relaxed) {
            0 => true,
            1 => {
                self.dead.store(true, Ordering::Relaxed);
                false
            }
            more => {
                self.countdown.store(more - 1, Ordering::Relaxed);
                true
            }
        }
    }

    /// It does `things` more things, and dies.
    pub fn dies_after(&self, things: u64) {
        self.countdown.store(things + 1, Ordering::Relaxed);
    }

    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// What it does takes this long, in nanoseconds.
    pub fn takes(&self, time: u64) {
        self.ahead.fetch_add(time, Ordering::Relaxed);
    }

    pub fn ahead(&self) -> u64 {
        self.ahead.load(Ordering::Relaxed)
    }

    /// The world's clock catches up.
    pub fn caught_up(&self) -> u64 {
        self.ahead.swap(0, Ordering::Relaxed)
    }
}
