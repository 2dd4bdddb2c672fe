//! The thread that serves all sockets. It never waits for anything but the sockets.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use state::Code;

use super::connection::{Connection, Input};
use super::listener::Listener;
use super::mailbox::{Inbox, Mailbox, Note};
use super::worker::{self, Job};
use super::{ClientId, Context, Handler};
use crate::command::{AnyCommand, SessionCapability, SessionCommand};
use crate::error::Error;
use crate::fdsets::FdSets;
use crate::limits::Limits;
use crate::request::{Request, answer, greeting};

/// How long no clients are accepted after the system had no descriptor for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Bytes read from one client before it is another's turn.
const READ_AT_ONCE: usize = 64 << 10;

/// Names of descriptors in epoll: the inbox, then the listeners, then the clients.
const INBOX: u64 = 0;

pub(super) struct Reactor {
    epoll: OwnedFd,
    inbox: Inbox,
    listeners: Vec<Listener>,
    /// While set, listeners are not watched.
    accept_again: Option<Instant>,
    clients: BTreeMap<ClientId, Connection>,
    sets: FdSets,
    next_client: u64,
    limits: Limits,
    handler: Arc<dyn Handler>,
    jobs: Option<Sender<Job>>,
    ending: Arc<AtomicBool>,
    phase: Phase,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// The command that is running may be finished until then.
    Finishing(Instant),
    /// What is answered may be taken until then.
    Flushing(Instant),
}

impl Reactor {
    pub(super) fn new(
        listeners: Vec<Listener>,
        limits: Limits,
        mailbox: Mailbox,
        inbox: Inbox,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(INBOX);
        epoll::add(&epoll, inbox.wake(), data, epoll::EventFlags::IN)?;
        watch_listeners(&epoll, &listeners)?;
        let (jobs, queue) = mpsc::channel();
        let ending = Arc::new(AtomicBool::new(false));
        let worker_ending = Arc::clone(&ending);
        let worker_handler = Arc::clone(&handler);
        // Not joined: it says when it has ended, and a command that never ends must not keep the
        // process from ending.
        thread::Builder::new()
            .name("qmp-worker".to_owned())
            .spawn(move || worker::run(&queue, &worker_ending, &worker_handler, &mailbox))?;
        let next_client = INBOX + 1 + listeners.len() as u64;
        Ok(Self {
            epoll,
            inbox,
            listeners,
            accept_again: None,
            clients: BTreeMap::new(),
            sets: FdSets::new(limits.set_descriptors),
            next_client,
            limits,
            handler,
            jobs: Some(jobs),
            ending,
            phase: Phase::Serving,
            buffer: vec![0; READ_AT_ONCE],
        })
    }

    pub(super) fn run(mut self) {
        let mut ready = Vec::with_capacity(64);
        while !self.over() {
            ready.clear();
            let timeout = self.timeout();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut ready),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for QMP clients; control is lost");
                    return;
                }
            }
            for event in &ready {
                self.ready(event.data.u64(), event.flags);
            }
            self.keep_time();
        }
    }

    fn ready(&mut self, name: u64, flags: epoll::EventFlags) {
        let client = ClientId(name);
        if name == INBOX {
            self.read_inbox();
        } else if let Some(connection) = self.clients.get_mut(&client) {
            if connection.watched.is_some_and(|w| w.contains(epoll::EventFlags::IN))
                && flags.intersects(
                    epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR,
                )
            {
                connection.read(&mut self.buffer, &self.limits);
            }
            self.serve(client);
        } else if let Ok(index) = usize::try_from(name - INBOX - 1)
            && index < self.listeners.len()
        {
            self.accept(index);
        }
    }

    fn read_inbox(&mut self) {
        let notes: Vec<Note> = self.inbox.take().collect();
        for note in notes {
            match note {
                Note::Event(line) => {
                    for connection in self.clients.values_mut().filter(|c| c.negotiated) {
                        connection.tell(&line, &self.limits);
                    }
                }
                Note::Answer { client, line, cost } => {
                    if let Some(connection) = self.clients.get_mut(&client) {
                        connection.tell(&line, &self.limits);
                        connection.arrived(cost);
                    }
                }
                Note::Shutdown => self.begin_end(),
                Note::WorkerEnded => self.begin_flush(),
            }
        }
        self.serve_all();
    }

    fn accept(&mut self, index: usize) {
        loop {
            match self.listeners[index].accept() {
                Ok(Some(socket)) => self.welcome(socket),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a QMP client; trying again shortly");
                    return self.pause_accepting();
                }
            }
        }
    }

    /// A client that cannot be accepted would be reported over and over.
    fn pause_accepting(&mut self) {
        self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
        for listener in &self.listeners {
            let _ = epoll::delete(&self.epoll, listener);
        }
    }

    fn welcome(&mut self, socket: OwnedFd) {
        if self.clients.len() >= self.limits.clients {
            tracing::warn!(
                clients = self.clients.len(),
                "too many QMP clients; one is turned away"
            );
            let error = Error::new(
                Code::Busy,
                format!("{} clients are connected, and no more can be", self.clients.len()),
            );
            let line = answer(&None, &Err(error));
            let _ = send(&socket, line.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            return;
        }
        let client = ClientId(self.next_client);
        self.next_client += 1;
        tracing::debug!(%client, "connected");
        let mut connection = Connection::new(socket, &self.limits);
        connection.tell(&greeting(), &self.limits);
        self.clients.insert(client, connection);
        self.serve(client);
    }

    fn serve_all(&mut self) {
        let clients: Vec<ClientId> = self.clients.keys().copied().collect();
        for client in clients {
            self.serve(client);
        }
    }

    /// Takes what commands a client may have carried out, writes what it takes, and watches for
    /// what it may do next.
    fn serve(&mut self, client: ClientId) {
        let Some(connection) = self.clients.get_mut(&client) else { return };
        loop {
            connection.flush();
            match connection.next(&self.limits) {
                Input::Request { request, descriptor, cost } => {
                    let Request { id, oob, command } = request;
                    let descriptors = connection.descriptors.clone();
                    let sets = self.sets.clone();
                    let context = Context { client, oob, descriptors, sets };
                    let job = Job { id, command, descriptor, context, cost };
                    let jobs = self.jobs.as_ref();
                    dispatch(connection, job, jobs, &self.handler, &self.limits);
                }
                Input::Nothing => break,
            }
        }
        connection.flush();
        let slow = connection.overflowed();
        if slow {
            tracing::warn!(%client, "does not read what it is told, and is closed");
        }
        if slow || (connection.finished() && !matches!(self.phase, Phase::Finishing(_))) {
            self.close(client);
        } else if let Err(error) = watch(&self.epoll, client, connection, &self.limits) {
            tracing::warn!(%client, %error, "cannot be watched, and is closed");
            self.close(client);
        }
    }

    fn close(&mut self, client: ClientId) {
        // Closing the descriptor takes it out of epoll.
        self.clients.remove(&client);
        if self.clients.is_empty() {
            self.sets.clear();
        }
        tracing::debug!(%client, "closed");
    }

    /// Nothing more is accepted or read; the worker refuses what it has not begun.
    fn begin_end(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        self.phase = Phase::Finishing(Instant::now() + self.limits.running_grace);
        self.ending.store(true, Ordering::Release);
        self.jobs = None;
        self.listeners.clear();
        self.accept_again = None;
        for connection in self.clients.values_mut() {
            connection.stop_input();
        }
    }

    fn begin_flush(&mut self) {
        self.phase = Phase::Flushing(Instant::now() + self.limits.flush_grace);
    }

    /// Does what is due.
    fn keep_time(&mut self) {
        let now = Instant::now();
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            if let Err(error) = watch_listeners(&self.epoll, &self.listeners) {
                tracing::warn!(%error, "cannot accept QMP clients; trying again shortly");
                self.pause_accepting();
            }
        }
        if matches!(self.phase, Phase::Finishing(until) if until <= now) {
            tracing::warn!("a QMP command is still running; its client gets no answer");
            self.begin_flush();
        }
    }

    fn over(&self) -> bool {
        match self.phase {
            Phase::Serving | Phase::Finishing(_) => false,
            Phase::Flushing(until) => {
                until <= Instant::now() || self.clients.values().all(Connection::flushed)
            }
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let until = match self.phase {
            Phase::Serving => None,
            Phase::Finishing(until) | Phase::Flushing(until) => Some(until),
        };
        let next = until.into_iter().chain(self.accept_again).min()?;
        Timespec::try_from(next.saturating_duration_since(Instant::now())).ok()
    }
}

/// Has epoll watch for new clients.
fn watch_listeners(epoll: &OwnedFd, listeners: &[Listener]) -> rustix::io::Result<()> {
    for (name, listener) in (INBOX + 1..).zip(listeners) {
        epoll::add(epoll, listener, epoll::EventData::new_u64(name), epoll::EventFlags::IN)?;
    }
    Ok(())
}

/// Has epoll watch for what the client may do next.
fn watch(
    epoll: &OwnedFd,
    client: ClientId,
    connection: &mut Connection,
    limits: &Limits,
) -> rustix::io::Result<()> {
    let wanted = connection.interest(limits);
    let data = epoll::EventData::new_u64(client.0);
    match (connection.watched, wanted) {
        (None, Some(flags)) => epoll::add(epoll, &*connection, data, flags)?,
        (Some(_), None) => epoll::delete(epoll, &*connection)?,
        (Some(old), Some(new)) if old != new => epoll::modify(epoll, &*connection, data, new)?,
        _ => {}
    }
    connection.watched = wanted;
    Ok(())
}

/// Answers a command at once where that keeps the order of answers, or hands it to the worker.
fn dispatch(
    connection: &mut Connection,
    job: Job,
    jobs: Option<&Sender<Job>>,
    handler: &Arc<dyn Handler>,
    limits: &Limits,
) {
    if !connection.negotiated {
        let result = job.command.and_then(|command| negotiate(connection, command));
        connection.tell(&answer(&job.id, &result.map(Into::into)), limits);
    } else if job.context.oob {
        let result = job.command.and_then(|command| {
            if !connection.oob {
                return Err(Error::invalid(format!(
                    "{}: `exec-oob` was not enabled with qmp_capabilities",
                    command.name()
                )));
            }
            worker::execute(command, job.descriptor, &job.context, handler)
        });
        connection.tell(&answer(&job.id, &result), limits);
    } else {
        let cost = job.cost;
        // Without a worker the server is ending, and takes no commands any more.
        if jobs.is_some_and(|jobs| jobs.send(job).is_ok()) {
            connection.departed(cost);
        }
    }
}

fn negotiate(connection: &mut Connection, command: AnyCommand) -> Result<(), Error> {
    match command {
        AnyCommand::Session(SessionCommand::Negotiate(capabilities)) => {
            connection.negotiated = true;
            connection.oob = capabilities.enable.contains(&SessionCapability::Oob);
            Ok(())
        }
        other => Err(Error::command_not_found(
            Code::InvalidState,
            format!(
                "{}: capabilities must be negotiated first, with qmp_capabilities",
                other.name()
            ),
        )),
    }
}
