//! Telling what happened only once it can be asked for.

use crate::{Observer, Report, Status};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keeps what an observer is to hear until whoever asks about the motion gets answers that agree
/// with it: who hears `completed` and then asks must find it completed.
pub(crate) struct Deferred {
    observer: Arc<dyn Observer>,
    kept: Mutex<Vec<Word>>,
}

enum Word {
    Status(Status),
    Pass(u32),
    Stopped,
    Resumed,
    Undecided(String),
    Finished(Box<Report>),
}

impl Deferred {
    pub fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer, kept: Mutex::default() }
    }

    /// Tells what was kept, in its order.
    pub fn tell(&self) {
        let words = std::mem::take(&mut *self.kept());
        for word in words {
            match word {
                Word::Status(status) => self.observer.status(status),
                Word::Pass(number) => self.observer.pass(number),
                Word::Stopped => self.observer.stopped(),
                Word::Resumed => self.observer.resumed(),
                Word::Undecided(token) => self.observer.undecided(&token),
                Word::Finished(report) => self.observer.finished(&report),
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Word>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, word: Word) {
        self.kept().push(word);
    }
}

impl Observer for Deferred {
    fn status(&self, status: Status) {
        self.keep(Word::Status(status));
    }

    fn pass(&self, number: u32) {
        self.keep(Word::Pass(number));
    }

    fn stopped(&self) {
        self.keep(Word::Stopped);
    }

    fn resumed(&self) {
        self.keep(Word::Resumed);
    }

    fn undecided(&self, token: &str) {
        self.keep(Word::Undecided(token.to_owned()));
    }

    fn finished(&self, report: &Report) {
        self.keep(Word::Finished(Box::new(report.clone())));
    }
}
