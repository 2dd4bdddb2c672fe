//! The server: sockets, clients, and the two threads that serve them.

mod connection;
mod listener;
mod mailbox;
mod reactor;
mod worker;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

pub use listener::BindError;
pub use mailbox::EventSender;

use self::listener::Listener;
use self::mailbox::{Inbox, Mailbox, Note};
use self::reactor::Reactor;
use crate::command::Command;
use crate::descriptors::Descriptors;
use crate::error::Error;
use crate::fdsets::{Access, FdSets, SetFiles};
use crate::limits::Limits;
use crate::reply::Reply;

/// What commands mean. Implemented by whoever owns the machine.
pub trait Handler: Send + Sync + 'static {
    /// Carries out one command.
    ///
    /// Ordinary commands come one after the other, from one thread of their own: while this
    /// runs, no other ordinary command of any client does, so work that takes long belongs in a
    /// job that is asked about. A command sent with `exec-oob` ([`Context::oob`]) comes on the
    /// thread that serves the sockets, at the same time as an ordinary one may be running: it
    /// must not wait for anything.
    ///
    /// A panic is answered with an `internal` error and ends nothing else.
    fn execute(&self, command: Command, context: &Context) -> Result<Reply, Error>;
}

/// Names a client for as long as the server lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u64);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.0)
    }
}

/// Where a command comes from.
#[derive(Debug, Clone)]
pub struct Context {
    client: ClientId,
    oob: bool,
    descriptors: Descriptors,
    sets: FdSets,
}

impl Context {
    /// The client that sent the command.
    #[must_use]
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// Whether it was sent with `exec-oob`, so that it must be carried out without waiting.
    #[must_use]
    pub fn oob(&self) -> bool {
        self.oob
    }

    /// The descriptor that this client has passed and named with `getfd`. It belongs to the
    /// caller from then on, and the name is free again.
    pub fn take_descriptor(&self, name: &str) -> Result<OwnedFd, Error> {
        self.descriptors.take(name)
    }

    /// What the set of this number has to offer, duplicated.
    pub fn take_set(&self, number: u32, access: Access) -> Result<SetFiles, Error> {
        self.sets.take(number, access)
    }
}

/// A server whose sockets exist, but that does not serve them yet: clients may connect already
/// and wait.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
    limits: Limits,
    mailbox: Mailbox,
    inbox: Inbox,
}

impl Server {
    /// Creates a listening Unix socket at each path, with that file mode whatever the umask.
    ///
    /// A socket file that nobody listens on any more is replaced; one that is in use, or a file
    /// of another kind, is an error and stays. The files are removed when the server ends.
    pub fn bind(paths: &[(PathBuf, u32)]) -> Result<Self, BindError> {
        Self::bind_within(paths, Limits::default())
    }

    /// The same, with other limits.
    pub fn bind_within(paths: &[(PathBuf, u32)], limits: Limits) -> Result<Self, BindError> {
        let listeners = paths
            .iter()
            .map(|(path, mode)| Listener::bind(path, *mode))
            .collect::<Result<_, _>>()?;
        let (mailbox, inbox) = mailbox::new().map_err(BindError::Resources)?;
        Ok(Self { listeners, limits, mailbox, inbox })
    }

    /// Sends events, from any thread and at any time.
    #[must_use]
    pub fn events(&self) -> EventSender {
        EventSender::new(self.mailbox.clone())
    }

    /// Serves clients until the handle is shut down or dropped.
    pub fn start(self, handler: Arc<dyn Handler>) -> io::Result<ServerHandle> {
        let Self { listeners, limits, mailbox, inbox } = self;
        let reactor = Reactor::new(listeners, limits, mailbox.clone(), inbox, handler)?;
        let thread = thread::Builder::new().name("qmp".to_owned()).spawn(move || reactor.run())?;
        Ok(ServerHandle { mailbox, thread: Some(thread) })
    }
}

/// A server at work. Dropping it shuts it down.
#[derive(Debug)]
pub struct ServerHandle {
    mailbox: Mailbox,
    thread: Option<JoinHandle<()>>,
}

impl ServerHandle {
    /// Sends events, from any thread and at any time.
    #[must_use]
    pub fn events(&self) -> EventSender {
        EventSender::new(self.mailbox.clone())
    }

    /// Ends the server: nothing more is accepted or read, the command that is running is
    /// finished, commands that wait are refused, and what was answered (the answer to `quit`,
    /// for one) still goes out, each for as long as [`Limits`] allows. Then all clients are
    /// closed and the socket files removed.
    ///
    /// Must not be called by a [`Handler`] while it executes a command: it would wait for
    /// itself.
    pub fn shutdown(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.mailbox.post(Note::Shutdown);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that serves QMP had panicked");
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.end();
    }
}
