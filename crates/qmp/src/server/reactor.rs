//! The thread that serves all sockets. It never waits for anything but the sockets.

mod suspension;

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use state::Code;

use super::connection::{Connection, Input, READ_AT_ONCE};
use super::listener::Listener;
use super::mailbox::{Inbox, Note, Suspension};
use super::worker::{self, Job};
use super::{ClientId, Context, Handler, Server};
use crate::command::{AnyCommand, SessionCapability, SessionCommand};
use crate::error::Error;
use crate::fdsets::FdSets;
use crate::limits::Limits;
use crate::request::{Request, answer, greeting};

/// How long no clients are accepted after the system had no descriptor for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

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
    /// Lines that the clients of the beginning are told before anything else.
    late: Vec<String>,
    limits: Limits,
    handler: Arc<dyn Handler>,
    jobs: Option<Sender<Job>>,
    /// Commands that the worker has not answered yet, also of clients that have gone.
    outstanding: usize,
    worker: ThreadId,
    ending: Arc<AtomicBool>,
    phase: Phase,
    buffer: Vec<u8>,
}

enum Phase {
    Serving,
    /// Is to be suspended once all commands are answered.
    Draining(Suspension),
    /// Does nothing; the number is that of the suspension.
    Suspended(u64),
    /// Another process serves the clients.
    Released,
    /// The command that is running may be finished until then.
    Finishing(Instant),
    /// What is answered may be taken until then.
    Flushing(Instant),
}

impl Reactor {
    pub(super) fn new(server: Server, handler: Arc<dyn Handler>) -> io::Result<Self> {
        let Server { listeners, clients, sets, late, limits, mailbox, inbox } = server;
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
        let worker = thread::Builder::new()
            .name("qmp-worker".to_owned())
            .spawn(move || worker::run(&queue, &worker_ending, &worker_handler, &mailbox))?;
        let first_client = INBOX + 1 + listeners.len() as u64;
        let clients: BTreeMap<_, _> = (first_client..).map(ClientId).zip(clients).collect();
        Ok(Self {
            epoll,
            inbox,
            listeners,
            accept_again: None,
            next_client: first_client + clients.len() as u64,
            clients,
            sets,
            late,
            limits,
            handler,
            jobs: Some(jobs),
            outstanding: 0,
            worker: worker.thread().id(),
            ending,
            phase: Phase::Serving,
            buffer: vec![0; READ_AT_ONCE],
        })
    }

    /// The thread that carries out commands.
    pub(super) fn worker(&self) -> ThreadId {
        self.worker
    }

    pub(super) fn run(mut self) {
        for listener in &mut self.listeners {
            listener.own(true);
        }
        let late = mem::take(&mut self.late);
        self.tell_all(late);
        self.serve_all();
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
                    break;
                }
            }
            for event in &ready {
                self.ready(event.data.u64(), event.flags);
            }
            self.keep_time();
        }
        if !matches!(self.phase, Phase::Released) {
            self.clients.values().for_each(Connection::hang_up);
        }
    }

    fn ready(&mut self, name: u64, flags: epoll::EventFlags) {
        let client = ClientId(name);
        if name == INBOX {
            self.read_inbox();
        } else if matches!(self.phase, Phase::Suspended(_) | Phase::Released) {
            // It was ready before: whoever goes on will see it.
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
            && matches!(self.phase, Phase::Serving)
        {
            self.accept(index);
        }
    }

    fn read_inbox(&mut self) {
        for note in self.inbox.take() {
            match note {
                Note::Event(line) => self.tell_all([line]),
                Note::Answer { client, line, cost } => {
                    self.outstanding -= 1;
                    if let Some(connection) = self.clients.get_mut(&client) {
                        connection.tell(&line, &self.limits);
                        connection.arrived(cost);
                    }
                }
                Note::WorkerEnded => self.begin_flush(),
                Note::Suspend(suspension) => self.begin_drain(suspension),
                Note::CallOff(number) => self.call_off(number),
                Note::Resume => self.resume(),
                Note::Release => self.release(),
                Note::Shutdown => self.begin_end(),
            }
        }
        if !matches!(self.phase, Phase::Suspended(_) | Phase::Released) {
            self.serve_all();
            self.suspend_if_drained();
        }
    }

    /// Tells every client that has negotiated.
    fn tell_all(&mut self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            for connection in self.clients.values_mut().filter(|c| c.negotiated) {
                connection.tell(&line, &self.limits);
            }
        }
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
        self.unwatch_listeners();
    }

    fn watch_listeners(&mut self) {
        self.accept_again = None;
        if let Err(error) = watch_listeners(&self.epoll, &self.listeners) {
            tracing::warn!(%error, "cannot accept QMP clients; trying again shortly");
            self.pause_accepting();
        }
    }

    fn unwatch_listeners(&self) {
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
        let serving = matches!(self.phase, Phase::Serving);
        loop {
            connection.flush();
            if !serving {
                break;
            }
            match connection.next(&self.limits) {
                Input::Request { request, descriptor, cost } => {
                    let Request { id, oob, command } = request;
                    let descriptors = connection.descriptors.clone();
                    let sets = self.sets.clone();
                    let context = Context { client, oob, descriptors, sets };
                    let job = Job { id, command, descriptor, context, cost };
                    let jobs = self.jobs.as_ref();
                    if dispatch(connection, job, jobs, &self.handler, &self.limits) {
                        self.outstanding += 1;
                    }
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
        } else if let Err(error) = watch(&self.epoll, client, connection, &self.limits, serving) {
            tracing::warn!(%client, %error, "cannot be watched, and is closed");
            self.close(client);
        }
    }

    fn close(&mut self, client: ClientId) {
        if let Some(mut connection) = self.clients.remove(&client) {
            // While a process that was to go on has a duplicate, closing alone does neither.
            unwatch(&self.epoll, &mut connection);
            connection.hang_up();
        }
        if self.clients.is_empty() {
            self.sets.clear();
        }
        tracing::debug!(%client, "closed");
    }

    /// Nothing more is accepted or read; the worker refuses what it has not begun.
    fn begin_end(&mut self) {
        match self.phase {
            Phase::Serving | Phase::Draining(_) => {}
            Phase::Suspended(_) => self.tell_held(),
            Phase::Released | Phase::Finishing(_) | Phase::Flushing(_) => return,
        }
        self.phase = Phase::Finishing(Instant::now() + self.limits.running_grace);
        self.ending.store(true, Ordering::Release);
        self.jobs = None;
        self.unwatch_listeners();
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
            self.watch_listeners();
        }
        if matches!(self.phase, Phase::Finishing(until) if until <= now) {
            tracing::warn!("a QMP command is still running; its client gets no answer");
            self.begin_flush();
        }
    }

    fn over(&self) -> bool {
        match self.phase {
            Phase::Serving | Phase::Draining(_) | Phase::Suspended(_) | Phase::Finishing(_) => {
                false
            }
            Phase::Released => true,
            Phase::Flushing(until) => {
                until <= Instant::now() || self.clients.values().all(Connection::flushed)
            }
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let until = match self.phase {
            Phase::Serving | Phase::Draining(_) | Phase::Suspended(_) | Phase::Released => None,
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
    serving: bool,
) -> rustix::io::Result<()> {
    let wanted = connection.interest(limits, serving);
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

/// Has epoll watch for nothing of the client.
fn unwatch(epoll: &OwnedFd, connection: &mut Connection) {
    if connection.watched.take().is_some() {
        let _ = epoll::delete(epoll, &*connection);
    }
}

/// Answers a command at once where that keeps the order of answers, or hands it to the worker.
/// Whether the worker has it.
fn dispatch(
    connection: &mut Connection,
    job: Job,
    jobs: Option<&Sender<Job>>,
    handler: &Arc<dyn Handler>,
    limits: &Limits,
) -> bool {
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
            return true;
        }
    }
    false
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
