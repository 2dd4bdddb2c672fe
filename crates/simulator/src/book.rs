//! What happened, and what must not have.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Written by everything in one world.
#[derive(Debug, Clone, Default)]
pub struct Book(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    now: u64,
    tracing: bool,
    lines: Vec<String>,
    wrong: Option<String>,
}

impl Book {
    /// One that keeps a trace, or only what is wrong.
    pub fn new(tracing: bool) -> Self {
        let book = Self::default();
        book.pages().tracing = tracing;
        book
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        // What was written before a panic is what one wants to read after it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_time(&self, now: u64) {
        self.pages().now = now;
    }

    pub fn time(&self) -> u64 {
        self.pages().now
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        let mut pages = self.pages();
        if pages.tracing {
            let at = stamp(pages.now);
            pages.lines.push(format!("{at} {}", line()));
        }
    }

    /// An invariant does not hold. The first one counts.
    pub fn wrong(&self, what: impl Into<String>) {
        let mut pages = self.pages();
        if pages.wrong.is_none() {
            let what = what.into();
            let at = stamp(pages.now);
            pages.lines.push(format!("{at} WRONG: {what}"));
            pages.wrong = Some(what);
        }
    }

    pub fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong(what());
        }
    }

    pub fn is_wrong(&self) -> bool {
        self.pages().wrong.is_some()
    }

    pub fn verdict(&self) -> Option<String> {
        self.pages().wrong.clone()
    }

    pub fn trace(&self) -> String {
        self.pages().lines.join("\n")
    }
}

/// A moment as people read it.
pub fn stamp(now: u64) -> String {
    format!("{:>4}.{:06} ms", now / 1_000_000, now % 1_000_000)
}
