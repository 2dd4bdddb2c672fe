//! What other threads tell the one that serves the sockets.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::ClientId;
use crate::carry::{SuspendError, Suspended};
use crate::event::{Event, Stamped, Timestamp};
use crate::request::line;

/// A thing told.
#[derive(Debug)]
pub(super) enum Note {
    /// A line for every client that has negotiated.
    Event(String),
    /// A line that answers a command of one client, which had `cost` bytes.
    Answer { client: ClientId, line: String, cost: usize },
    /// The worker has run out of commands for good.
    WorkerEnded,
    /// The server is to be suspended.
    Suspend(Suspension),
    /// Whoever asked for the suspension of this number waits no longer.
    CallOff(u64),
    /// The server is to go on.
    Resume,
    /// The server is another's: it is to end without a word.
    Release,
    /// The server is to end.
    Shutdown,
}

/// A suspension that was asked for.
#[derive(Debug)]
pub(super) struct Suspension {
    /// Different for each.
    pub(super) number: u64,
    /// Who asked.
    pub(super) reply: SyncSender<Result<Suspended, SuspendError>>,
}

/// The end that tells.
#[derive(Debug, Clone)]
pub(super) struct Mailbox {
    shared: Arc<Shared>,
}

/// The end that is told.
#[derive(Debug)]
pub(super) struct Inbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    post: Mutex<Post>,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct Post {
    notes: Vec<Note>,
    /// While the server is suspended: the events that were sent meanwhile.
    held: Option<Vec<String>>,
    /// Nobody is there any more to be told.
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Post> {
        // Nothing can panic half way through a change.
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn new() -> io::Result<(Mailbox, Inbox)> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let shared = Arc::new(Shared { post: Mutex::default(), wake });
    Ok((Mailbox { shared: Arc::clone(&shared) }, Inbox { shared }))
}

impl Mailbox {
    /// Never waits. What is told after the server has ended is lost, as there is nobody to hear.
    pub(super) fn post(&self, note: Note) {
        let mut post = self.shared.lock();
        if post.closed {
            return;
        }
        match (note, &mut post.held) {
            (Note::Event(line), Some(held)) => return held.push(line),
            (note, _) => post.notes.push(note),
        }
        drop(post);
        self.wake();
    }

    /// Has a suspended server go on, and then send the events that were held back.
    pub(super) fn resume(&self) {
        let mut post = self.shared.lock();
        let Some(held) = post.held.take() else { return };
        post.notes.push(Note::Resume);
        post.notes.extend(held.into_iter().map(Note::Event));
        drop(post);
        self.wake();
    }

    fn wake(&self) {
        match rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes()) {
            // A counter that is full wakes as well as one that was increased.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => tracing::error!(%error, "the thread that serves QMP cannot be woken"),
        }
    }

    /// The events that are held back, oldest first.
    pub(super) fn held(&self) -> Vec<String> {
        self.shared.lock().held.clone().unwrap_or_default()
    }
}

impl Inbox {
    /// Readable when there are notes.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    /// What was told since.
    pub(super) fn take(&self) -> Vec<Note> {
        let mut count = [0; 8];
        // First the counter, then the notes: one told in between wakes again, for nothing.
        let _ = rustix::io::read(&self.shared.wake, &mut count);
        mem::take(&mut self.shared.lock().notes)
    }

    /// Holds events back from now on, unless something was told that has not been taken: then
    /// false, and nothing changes.
    pub(super) fn hold(&self) -> bool {
        let mut post = self.shared.lock();
        let all_taken = post.notes.is_empty();
        if all_taken {
            post.held = Some(Vec::new());
        }
        all_taken
    }

    /// Holds events back no longer. Gives those that were, which are older than all that come.
    pub(super) fn let_go(&self) -> Vec<String> {
        self.shared.lock().held.take().unwrap_or_default()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let rest = {
            let mut post = self.shared.lock();
            post.closed = true;
            post.held = None;
            mem::take(&mut post.notes)
        };
        // Whoever waits for an answer to one of them waits no longer.
        drop(rest);
    }
}

/// Sends events to every client that has negotiated. Cheap to clone; never waits.
#[derive(Debug, Clone)]
pub struct EventSender {
    mailbox: Mailbox,
}

impl EventSender {
    pub(super) fn new(mailbox: Mailbox) -> Self {
        Self { mailbox }
    }

    /// Sends an event, stamped with the present time. An event sent while a command is carried
    /// out reaches each client before the answer to that command.
    pub fn send(&self, event: &Event) {
        tracing::debug!(?event, "event");
        let line = line(&Stamped { event, timestamp: Timestamp::now() });
        self.mailbox.post(Note::Event(line));
    }
}
