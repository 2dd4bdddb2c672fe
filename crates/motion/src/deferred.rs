//! Telling what happened only once it can be asked for.

use crate::{Observer, Report, Status};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So long nobody is told anything while a guest stands still and the other side's word is expected:
/// whoever hears of it takes the processor from those that the guest waits for.
const HUSH: Duration = Duration::from_millis(2);

/// Keeps what an observer is to hear until whoever asks about the motion gets answers that agree
/// with it: who hears `completed` and then asks must find it completed.
pub(crate) struct Deferred {
    observer: Arc<dyn Observer>,
    kept: Mutex<Vec<Word>>,
    hushed: Mutex<Option<Instant>>,
}

enum Word {
    Status(Status),
    Pass(u32),
    Stopped,
    Resumed,
    Handover(String, &'static str),
    Finished(Box<Report>),
}

impl Deferred {
    pub fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer, kept: Mutex::default(), hushed: Mutex::default() }
    }

    /// Tells what was kept, in its order; while there is to be `hush`, not at once, but at the moment that
    /// is returned.
    pub fn tell(&self, hush: bool) -> Option<Instant> {
        let mut hushed = self.hushed.lock().unwrap_or_else(PoisonError::into_inner);
        if hush {
            let now = Instant::now();
            let until = *hushed.get_or_insert(now) + HUSH;
            if now < until {
                return (!self.kept().is_empty()).then_some(until);
            }
        } else {
            *hushed = None;
        }
        drop(hushed);
        let words = std::mem::take(&mut *self.kept());
        for word in words {
            match word {
                Word::Status(status) => self.observer.status(status),
                Word::Pass(number) => self.observer.pass(number),
                Word::Stopped => self.observer.stopped(),
                Word::Resumed => self.observer.resumed(),
                Word::Handover(token, phase) => self.observer.handover(&token, phase),
                Word::Finished(report) => self.observer.finished(&report),
            }
        }
        None
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

    fn handover(&self, token: &str, phase: &'static str) {
        self.keep(Word::Handover(token.to_owned(), phase));
    }

    fn finished(&self, report: &Report) {
        self.keep(Word::Finished(Box::new(report.clone())));
    }
}
