//! Connections on which questions about tokens are asked. Anybody may, so they must not cost the guest
//! under way anything: each asks one thing at a time, and whoever does not take an answer goes.

use super::Question;
use crate::handover;
use crate::handover::words::{KINDS, from_wire};
use links::Stream;
use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;
use wire::Message;

/// So many at a time. One more, and the oldest goes: a source asks, hears and leaves.
const MOST_QUESTIONS: usize = 32;
/// How long the coordinator waits for an answer to be taken. It is some dozens of bytes: whoever has
/// no room for that does not read.
const ANSWER_LIMIT: Duration = Duration::from_millis(100);

/// What is heard on such a connection.
pub(super) enum Heard {
    /// Something was asked, or told.
    Asked(handover::Message),
    /// It has ended.
    Over,
}

/// Those on which somebody may still ask, by age.
#[derive(Default)]
pub(super) struct Questions {
    open: BTreeMap<Question, Asker>,
    next: u64,
}

struct Asker {
    stream: Stream,
    /// Lets its thread read on.
    turn: Sender<()>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stream.closer().close();
    }
}

impl Questions {
    /// Listens to a connection, on a thread of its own.
    ///
    /// # Errors
    /// When the host has no threads left, or the connection is gone.
    pub(super) fn hear(
        &mut self,
        stream: Stream,
        say: impl Fn(Question, Heard) + Send + 'static,
    ) -> io::Result<()> {
        stream.set_write_limit(Some(ANSWER_LIMIT))?;
        let question = Question(self.next);
        let (turn, turns) = mpsc::channel();
        let mut heard = stream.clone();
        thread::Builder::new().name("move-question".to_owned()).spawn(move || {
            let expected = "a question about a handover";
            while let Ok(message) = wire::read_expected(&mut heard, &KINDS, expected)
                && let Some(message) = from_wire(&message)
            {
                say(question, Heard::Asked(message));
                if turns.recv().is_err() {
                    return;
                }
            }
            say(question, Heard::Over);
        })?;
        self.next += 1;
        if self.open.len() >= MOST_QUESTIONS {
            tracing::warn!("too many questions at a time; the oldest connection was closed");
            self.open.pop_first();
        }
        self.open.insert(question, Asker { stream, turn });
        Ok(())
    }

    /// Answers where it was asked.
    pub(super) fn answer(&mut self, question: Question, message: &Message) {
        let Some(asker) = self.open.get(&question) else { return };
        if let Err(error) = wire::write_message(&mut &asker.stream, message) {
            tracing::debug!(%error, "a question's answer was not taken");
            self.open.remove(&question);
        }
    }

    /// What was asked has been dealt with: the next thing may come.
    pub(super) fn dealt_with(&self, question: Question) {
        if let Some(asker) = self.open.get(&question) {
            // The connection may have ended.
            let _ = asker.turn.send(());
        }
    }

    /// Nothing more will be asked on it.
    pub(super) fn over(&mut self, question: Question) {
        self.open.remove(&question);
    }
}
