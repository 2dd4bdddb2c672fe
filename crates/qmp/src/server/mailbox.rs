//! What other threads tell the one that serves the sockets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::ClientId;
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
    /// The server is to end.
    Shutdown,
}

/// The end that tells.
#[derive(Debug, Clone)]
pub(super) struct Mailbox {
    notes: Sender<Note>,
    wake: Arc<OwnedFd>,
}

/// The end that is told.
#[derive(Debug)]
pub(super) struct Inbox {
    notes: Receiver<Note>,
    wake: Arc<OwnedFd>,
}

pub(super) fn new() -> io::Result<(Mailbox, Inbox)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = mpsc::channel();
    Ok((Mailbox { notes: sender, wake: Arc::clone(&wake) }, Inbox { notes: receiver, wake }))
}

impl Mailbox {
    /// Never waits. What is told after the server has ended is lost, as there is nobody to hear.
    pub(super) fn post(&self, note: Note) {
        if self.notes.send(note).is_err() {
            return;
        }
        match rustix::io::write(&*self.wake, &1u64.to_ne_bytes()) {
            // A counter that is full wakes as well as one that was increased.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => tracing::error!(%error, "the thread that serves QMP cannot be woken"),
        }
    }
}

impl Inbox {
    /// Readable when there are notes.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// What was told since.
    pub(super) fn take(&self) -> impl Iterator<Item = Note> {
        let mut count = [0; 8];
        // First the counter, then the notes: one told in between wakes again, for nothing.
        let _ = rustix::io::read(&*self.wake, &mut count);
        self.notes.try_iter()
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
