//! The server: sockets, clients, and the two threads that serve them.

mod adopt;
mod connection;
mod listener;
mod mailbox;
mod reactor;
mod worker;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

pub use listener::BindError;
pub use mailbox::EventSender;

use self::connection::Connection;
use self::listener::Listener;
use self::mailbox::{Inbox, Mailbox, Note, Suspension};
use self::reactor::Reactor;
use crate::carry::{SuspendError, Suspended};
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
    /// Those that another process had.
    clients: Vec<Connection>,
    sets: FdSets,
    /// Lines for those clients, before anything else.
    late: Vec<String>,
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
        let sets = FdSets::new(limits.set_descriptors);
        let (clients, late) = (Vec::new(), Vec::new());
        Ok(Self { listeners, clients, sets, late, limits, mailbox, inbox })
    }

    /// Sends events, from any thread and at any time.
    #[must_use]
    pub fn events(&self) -> EventSender {
        EventSender::new(self.mailbox.clone())
    }

    /// Serves clients until the handle is shut down or dropped.
    pub fn start(self, handler: Arc<dyn Handler>) -> io::Result<ServerHandle> {
        let mailbox = self.mailbox.clone();
        let reactor = Reactor::new(self, handler)?;
        let worker = reactor.worker();
        let thread = thread::Builder::new().name("qmp".to_owned()).spawn(move || reactor.run())?;
        let suspensions = AtomicU64::new(0);
        Ok(ServerHandle { mailbox, thread: Some(thread), worker, suspensions })
    }
}

/// A server at work. Dropping it shuts it down, also while it is suspended: one that another
/// process goes on with has to be [released](Self::release).
#[derive(Debug)]
pub struct ServerHandle {
    mailbox: Mailbox,
    thread: Option<JoinHandle<()>>,
    worker: ThreadId,
    /// How many suspensions were asked for.
    suspensions: AtomicU64,
}

impl ServerHandle {
    /// Sends events, from any thread and at any time.
    #[must_use]
    pub fn events(&self) -> EventSender {
        EventSender::new(self.mailbox.clone())
    }

    /// Stops serving, so that another process can go on: nothing is accepted or read any more. The
    /// commands that were taken before are finished, and what clients have not been told yet is
    /// put into the result, where it stays theirs. When it returns nothing is written any more
    /// either, and no thread of the server does anything until [`resume`](Self::resume),
    /// [`release`](Self::release) or [`shutdown`](Self::shutdown). A client that hangs up
    /// meanwhile is noticed by whoever goes on.
    ///
    /// Where a command waits for whoever calls this, the limit is reached.
    ///
    /// # Errors
    /// [`SuspendError`] when commands are not finished within `limit`, or it cannot be. Then the
    /// server goes on as before.
    pub fn suspend(&self, limit: Duration) -> Result<Suspended, SuspendError> {
        let serving = self.thread.as_ref().map(|thread| thread.thread().id());
        let here = thread::current().id();
        if here == self.worker || Some(here) == serving {
            return Err(SuspendError::InCommand);
        }
        let number = self.suspensions.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = mpsc::sync_channel(1);
        self.mailbox.post(Note::Suspend(Suspension { number, reply }));
        match answer.recv_timeout(limit) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(SuspendError::Ending),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // It may just have been suspended after all.
                self.mailbox.post(Note::CallOff(number));
                Err(SuspendError::TimedOut { limit })
            }
        }
    }

    /// Goes on as if it had never been suspended; events that were sent meanwhile are sent. A
    /// server that is not suspended is not changed.
    pub fn resume(&self) {
        self.mailbox.resume();
    }

    /// The events that were sent since the server was suspended, oldest first: lines that clients
    /// have not been told and [`Suspended`] does not have. Cheap, and involves no other thread.
    /// They are not taken away, and [`resume`](Self::resume) sends them.
    #[must_use]
    pub fn late_events(&self) -> Vec<String> {
        self.mailbox.held()
    }

    /// Ends a suspended server that another process goes on with: clients notice nothing, and the
    /// socket files stay. A server that is not suspended is nobody else's, and is shut down.
    ///
    /// Must not be called by a [`Handler`] while it executes a command: it would wait for
    /// itself.
    pub fn release(mut self) {
        self.end(Note::Release);
    }

    /// Ends the server: nothing more is accepted or read, the command that is running is
    /// finished, commands that wait are refused, and what was answered (the answer to `quit`,
    /// for one) still goes out, each for as long as [`Limits`] allows. Then all clients are
    /// closed and the socket files removed. A server that is suspended ends in the same way.
    ///
    /// Must not be called by a [`Handler`] while it executes a command: it would wait for
    /// itself.
    pub fn shutdown(mut self) {
        self.end(Note::Shutdown);
    }

    fn end(&mut self, how: Note) {
        let Some(thread) = self.thread.take() else { return };
        self.mailbox.post(how);
        if thread.join().is_err() {
            tracing::error!("the thread that serves QMP had panicked");
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.end(Note::Shutdown);
    }
}
