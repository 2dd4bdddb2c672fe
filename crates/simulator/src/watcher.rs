//! Whoever is told of a motion: what it hears must make sense.

use crate::book::Book;
use motion::fill::{FillReport, Outage};
use motion::{Observer, Report, Status};
use std::sync::{Mutex, MutexGuard};

pub struct Watcher {
    book: Book,
    who: &'static str,
    heard: Mutex<Heard>,
}

struct Heard {
    running: bool,
    status: Status,
    finished: u32,
    outages: u32,
    filled: u32,
}

impl Watcher {
    /// Watches a motion whose guest runs, or does not.
    pub fn new(book: Book, who: &'static str, running: bool) -> Self {
        let heard =
            Mutex::new(Heard { running, status: Status::None, finished: 0, outages: 0, filled: 0 });
        Self { book, who, heard }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("nobody panics while holding it")
    }

    /// What it believes.
    pub fn believes_running(&self) -> bool {
        self.heard().running
    }

    /// How often it heard of an end.
    pub fn ends(&self) -> u32 {
        self.heard().finished
    }

    /// How often it heard that pages cannot be had, and that all have come.
    pub fn filling(&self) -> (u32, u32) {
        let heard = self.heard();
        (heard.outages, heard.filled)
    }

    fn runs(&self, runs: bool) {
        let before = std::mem::replace(&mut self.heard().running, runs);
        let told = if runs { "resumed" } else { "stopped" };
        self.book.check(before != runs, || format!("the {} says {told} twice", self.who));
    }
}

impl Observer for Watcher {
    fn status(&self, status: Status) {
        let before = std::mem::replace(&mut self.heard().status, status);
        self.book.note(|| format!("the {} is {status}, was {before}", self.who));
    }

    fn pass(&self, _: u32) {}

    fn stopped(&self) {
        self.runs(false);
    }

    fn resumed(&self) {
        self.runs(true);
    }

    fn handover(&self, _: &str, _: &'static str) {}

    fn finished(&self, report: &Report) {
        let status = report.status.0;
        self.book.check(status.is_terminal(), || format!("the {} ends {status}", self.who));
        self.heard().finished += 1;
    }

    fn outage(&self, outage: &Outage) {
        self.book.note(|| format!("the {}'s page at {:#x} cannot be had", self.who, outage.offset));
        self.heard().outages += 1;
    }

    fn filled(&self, _: &FillReport) {
        self.book.note(|| format!("all of the {}'s pages have come", self.who));
        self.heard().filled += 1;
    }
}
