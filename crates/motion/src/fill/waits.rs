//! Who waits for which chunk of RAM, and for how long everybody did.

use super::report::ThreadWaits;
use crate::clock::nanos;
use crate::ram::on_demand::{Latency, LatencyReport};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One thread that waits.
#[derive(Debug)]
struct Waiting {
    thread: u32,
    chunk: u64,
    since: Instant,
}

/// Everybody's waits.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    now: Mutex<Vec<Waiting>>,
    by_thread: Mutex<BTreeMap<u32, ThreadWaits>>,
    latency: Latency,
}

/// Ids are those of threads; more than this are not of ours.
const MOST_THREADS: usize = 1024;

impl Waits {
    /// Asks what is to be done about a fault, and notes who waits if it is to wait for somebody: as one
    /// step, so that whoever brings the chunk finds the note when it is there.
    pub fn ask<T>(
        &self,
        thread: u32,
        chunk: u64,
        since: Instant,
        answer: impl FnOnce() -> (T, bool),
    ) -> T {
        let mut now = lock(&self.now);
        let (answer, waits) = answer();
        if waits {
            now.push(Waiting { thread, chunk, since });
        }
        answer
    }

    /// One thread's wait is over.
    pub fn over_of(&self, thread: u32, since: Instant) {
        let took = since.elapsed();
        self.latency.record(took);
        let mut by_thread = lock(&self.by_thread);
        if by_thread.len() < MOST_THREADS || by_thread.contains_key(&thread) {
            let waits = by_thread.entry(thread).or_default();
            waits.thread = thread;
            waits.count += 1;
            waits.ns += nanos(took);
        }
    }

    /// A chunk that somebody waited for is there.
    pub fn over(&self, chunk: u64) {
        let mut ended = Vec::new();
        lock(&self.now).retain(|waiting| {
            let is_over = waiting.chunk == chunk;
            if is_over {
                ended.push((waiting.thread, waiting.since));
            }
            !is_over
        });
        ended.into_iter().for_each(|(thread, since)| self.over_of(thread, since));
    }

    /// Whoever waits is about to ask again.
    pub fn forget(&self) {
        lock(&self.now).clear();
    }

    /// What there is to say of them.
    pub fn report(&self) -> (LatencyReport, Vec<ThreadWaits>) {
        (self.latency.report(), lock(&self.by_thread).values().copied().collect())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
