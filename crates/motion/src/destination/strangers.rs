//! Connections that have not said hello yet. Whoever opens many and says nothing, or says it byte by
//! byte, keeps nobody else out.

use crate::MotionError;
use crate::until::Until;
use links::{Closer, Stream};
use state::Code;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use wire::{Hello, Kind, Message, read_magic};

/// So many are listened to at a time. One more, and the one that has said nothing for longest goes: an
/// honest source says hello at once.
const MOST_STRANGERS: usize = 128;
/// So many threads, counting those that were told to end and have not yet: then the newest goes.
const MOST_THREADS: usize = 2 * MOST_STRANGERS;
/// How long a source may take to say hello, in all.
const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// Those that are listened to, and the threads that do.
#[derive(Default)]
pub(super) struct Strangers {
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    next: u64,
    threads: usize,
    waiting: VecDeque<(u64, Closer)>,
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Strangers {
    /// Waits, on a thread of its own, for what a connection says first, and passes that on.
    pub(super) fn hear(&self, stream: Stream, say: impl FnOnce(Stream, Hello) + Send + 'static) {
        let Some(number) = self.admit(&stream) else { return };
        let known = self.known.clone();
        let spawned = thread::Builder::new().name("move-hello".to_owned()).spawn(move || {
            let heard = hear_hello(&stream);
            {
                let mut known = lock(&known);
                known.threads -= 1;
                known.waiting.retain(|(other, _)| *other != number);
            }
            match heard {
                Ok(hello) => say(stream, hello),
                Err(error) => tracing::info!(%error, "a connection that was no source"),
            }
        });
        if let Err(error) = spawned {
            let mut known = lock(&self.known);
            known.threads -= 1;
            known.waiting.retain(|(other, _)| *other != number);
            tracing::warn!(%error, "starting a thread to greet a source");
        }
    }

    fn admit(&self, stream: &Stream) -> Option<u64> {
        let mut known = lock(&self.known);
        if known.threads >= MOST_THREADS {
            tracing::warn!("too many connections that say nothing; one more was closed");
            return None;
        }
        if known.waiting.len() >= MOST_STRANGERS
            && let Some((_, oldest)) = known.waiting.pop_front()
        {
            tracing::warn!("too many connections that say nothing; the oldest was closed");
            oldest.close();
        }
        let number = known.next;
        known.next += 1;
        known.threads += 1;
        known.waiting.push_back((number, stream.closer()));
        Some(number)
    }
}

fn hear_hello(stream: &Stream) -> Result<Hello, MotionError> {
    let what = "greeting a source";
    let mut from = Until::from_now(stream, HELLO_LIMIT);
    read_magic(&mut from).map_err(|e| MotionError::link(what, &e))?;
    let first = wire::read_expected(&mut from, &[Kind::Hello], "Hello");
    match first.map_err(|e| MotionError::link(what, &e))? {
        Message::Hello(hello) => Ok(hello),
        other => {
            let why = format!("{what}: it began with {:?}", other.kind());
            Err(MotionError::new(Code::ProtocolError, why))
        }
    }
}
