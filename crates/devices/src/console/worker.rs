//! What the event loop's thread does for a console.

use super::Shared;
use super::backend::{Backend, Peer};
use super::ends::SavedConsoleEnd;
use super::escape::Typed;
use crate::event_loop::{Handle, Interest, Watch};
use crate::lock;
use crate::uart::Uart;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

/// Bytes moved by one system call. A pipe that is ready takes this many without blocking.
const CHUNK: usize = 4096;
/// Chunks written before others get their turn on the event loop.
const CHUNKS_IN_A_ROW: usize = 16;

/// What is called when a person at a terminal wants the machine to end.
pub(super) type Quit = Box<dyn Fn() + Send + Sync>;

/// The descriptors that are open, and what is done with them.
///
/// There is one step, [`Worker::step`], which does all that can be done without blocking. It runs
/// whenever anything may have changed, so nothing has to be remembered of why.
pub(super) struct Worker {
    shared: Arc<Shared>,
    events: Handle,
    own: Weak<Mutex<Self>>,
    frozen: bool,
    /// Two processes have the descriptors, and which of them goes on with them is not decided:
    /// nobody is let in, nothing is read, and nothing is cleaned up. Unless it is frozen too, it is
    /// this process whose output is written.
    lent: bool,
    pub backend: Backend,
    quit: Quit,
    _bell: Option<Watch>,
}

impl Worker {
    /// Registers the console with the event loop.
    pub fn start(
        backend: Backend,
        shared: Arc<Shared>,
        events: &Handle,
        quit: Quit,
    ) -> io::Result<Arc<Mutex<Self>>> {
        let worker = Arc::new_cyclic(|own| {
            Mutex::new(Self {
                shared: shared.clone(),
                events: events.clone(),
                own: own.clone(),
                frozen: true,
                lent: false,
                backend,
                quit,
                _bell: None,
            })
        });
        let mut this = lock(&worker);
        let bell = shared.bell.clone();
        let own = this.own.clone();
        let answer = move || {
            bell.silence();
            step(&own);
        };
        this._bell = Some(events.watch(shared.bell.fd().clone(), Interest::READ, answer)?);
        this.watch_listener()?;
        drop(this);
        Ok(worker)
    }

    /// Stops writing and reading.
    pub fn freeze(&mut self) {
        self.frozen = true;
        self.watch();
    }

    /// Starts writing and reading. What was lent is this process's.
    pub fn thaw(&mut self) {
        if std::mem::take(&mut self.lent) {
            self.backend.claim();
        }
        self.frozen = false;
        self.watch();
    }

    /// Has another process take part in everything that the host's end consists of.
    pub fn lend(&mut self) -> io::Result<(SavedConsoleEnd, Vec<OwnedFd>)> {
        let lost = lock(&self.shared.output).forgotten();
        let ends = SavedConsoleEnd::of(&self.backend, &self.shared.spec, lost)?;
        self.lent = true;
        self.backend.disclaim();
        self.watch();
        Ok(ends)
    }

    /// Closes everything, and cleans nothing up.
    pub fn leave(&mut self) {
        self.backend.disclaim();
        self.backend = Backend::default();
        self.lent = false;
    }

    /// Takes part in what another process has.
    pub fn adopt(&mut self, backend: Backend) -> Result<(), &'static str> {
        if !self.frozen || !self.backend.is_vacant() {
            return Err("this console has descriptors of its own");
        }
        self.backend = backend;
        self.lent = true;
        Ok(())
    }

    /// Whether input is for this process: what is half typed has been told where it was lent.
    fn reads(&self) -> bool {
        !self.frozen && !self.lent
    }

    /// Whether anybody takes output now.
    pub fn can_write(&self) -> bool {
        !self.frozen && self.backend.peers.iter().any(|peer| peer.writes)
    }

    /// Does all that can be done without blocking.
    pub fn step(&mut self) {
        if !self.lent {
            self.accept();
        }
        if self.reads() {
            self.read();
        }
        if !self.frozen {
            self.write();
        }
        self.watch();
    }

    /// Takes a client if there is none, and turns others away.
    fn accept(&mut self) {
        let Backend { peers, listener, .. } = &mut self.backend;
        while let Some(listener) = listener {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let Ok(client) = accept_with(&listener.fd, flags) else { return };
            if peers.is_empty() {
                peers.push(Peer::new(Arc::new(client), true, true));
            } else {
                let _ = rustix::io::write(&client, b"this console has a client already\r\n");
            }
        }
    }

    fn uart(&self) -> Option<Arc<Mutex<Uart>>> {
        lock(&self.shared.uart).upgrade()
    }

    /// How much input may be read now. Where there is none, the UART will ring when there is.
    fn input_room(&self) -> usize {
        let Some(uart) = self.uart() else { return 0 };
        // One byte is kept for a Ctrl-A that turns out to be no escape.
        let room = || lock(&uart).room().saturating_sub(1);
        match room() {
            0 => {
                self.shared.starved.store(true, Ordering::Release);
                // The guest may have read between the two looks, and rung for nobody.
                room()
            }
            some => some,
        }
    }

    fn read(&mut self) {
        for at in (0..self.backend.peers.len()).rev() {
            if self.backend.peers[at].reads && self.read_peer(at) == Flow::Ended {
                tracing::debug!("console input has ended");
                self.backend.peers[at].reads = false;
                // A client or a terminal that has hung up takes no output either.
                if self.backend.listener.is_some() {
                    self.backend.peers.remove(at);
                }
            }
        }
    }

    fn read_peer(&mut self, at: usize) -> Flow {
        let mut buffer = [0; CHUNK];
        loop {
            let room = self.input_room().min(CHUNK);
            let fd = self.backend.peers[at].fd.clone();
            if room == 0 || !ready(&fd, PollFlags::IN) {
                return Flow::Blocked;
            }
            match rustix::io::read(&*fd, &mut buffer[..room]) {
                Ok(0) => return Flow::Ended,
                Ok(count) => self.deliver(&buffer[..count]),
                Err(Errno::AGAIN | Errno::INTR) => return Flow::Blocked,
                Err(_) => return Flow::Ended,
            }
        }
    }

    fn deliver(&mut self, typed: &[u8]) {
        let Some(uart) = self.uart() else { return };
        match &mut self.backend.terminal {
            None => {
                lock(&uart).receive(typed);
            }
            Some(terminal) => match terminal.escape.take(typed) {
                Typed::Quit => (self.quit)(),
                Typed::Input(input) => {
                    lock(&uart).receive(&input);
                }
            },
        }
    }

    fn write(&mut self) {
        let Some(at) = self.backend.peers.iter().position(|peer| peer.writes) else { return };
        if self.write_peer(at) == Flow::Ended {
            tracing::debug!("nobody takes the console's output any more");
            self.backend.peers.remove(at);
        }
    }

    fn write_peer(&self, at: usize) -> Flow {
        let fd = &self.backend.peers[at].fd;
        let mut buffer = [0; CHUNK];
        for _ in 0..CHUNKS_IN_A_ROW {
            let (position, count) = lock(&self.shared.output).peek(&mut buffer);
            if count == 0 || !ready(fd, PollFlags::OUT) {
                return Flow::Blocked;
            }
            let written = match rustix::io::write(&**fd, &buffer[..count]) {
                Ok(written) => written,
                Err(Errno::AGAIN | Errno::INTR) => return Flow::Blocked,
                // A disk that is full now need not stay so: this chunk is lost, the file is not.
                Err(error) if self.shared.patient => {
                    tracing::warn!(%error, bytes = count, "console output is lost");
                    count
                }
                Err(_) => return Flow::Ended,
            };
            lock(&self.shared.output).written_up_to(position + written as u64);
            self.shared.written.notify_all();
        }
        Flow::Blocked
    }

    /// Has the event loop call us for what there is to do, and for nothing else: a descriptor
    /// that has hung up, or a client that is not to be let in, would otherwise keep its thread busy.
    fn watch(&mut self) {
        if let Err(error) = self.watch_listener() {
            tracing::error!(%error, "a console's socket cannot be watched");
        }
        self.watch_peers();
    }

    fn watch_listener(&mut self) -> io::Result<()> {
        let Some(listener) = &mut self.backend.listener else { return Ok(()) };
        if self.lent {
            listener.watch = None;
        } else if listener.watch.is_none() {
            let own = self.own.clone();
            let accept = move || step(&own);
            let watch = self.events.watch(listener.fd.clone(), Interest::READ, accept)?;
            listener.watch = Some(watch);
        }
        Ok(())
    }

    fn watch_peers(&mut self) {
        self.backend.peers.retain(|peer| peer.reads || peer.writes);
        // The UART is left alone where there is no input: a guest that waits for a file to take
        // its output has it locked.
        let reads = self.backend.peers.iter().any(|peer| peer.reads);
        let room = self.reads() && reads && self.input_room() > 0;
        let waiting = !self.frozen && !lock(&self.shared.output).is_empty();
        for Peer { fd, reads, writes, watch } in &mut self.backend.peers {
            let interest = Interest { read: *reads && room, write: *writes && waiting };
            if interest == Interest::default() {
                *watch = None;
                continue;
            }
            let outcome = match watch {
                Some(watch) => watch.set(interest),
                None => {
                    let own = self.own.clone();
                    let added = self.events.watch(fd.clone(), interest, move || step(&own));
                    added.map(|added| *watch = Some(added))
                }
            };
            match outcome {
                Ok(()) => {}
                // A regular file is always ready: the next step does what this one left.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    self.shared.bell.ring();
                }
                Err(error) => tracing::error!(%error, "a console cannot be watched"),
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Flow {
    /// Nothing more can be done now.
    Blocked,
    /// Nothing more will ever come or go.
    Ended,
}

fn step(worker: &Weak<Mutex<Worker>>) {
    if let Some(worker) = worker.upgrade() {
        lock(&worker).step();
    }
}

/// Whether `fd` is ready now, or at its end.
fn ready(fd: &OwnedFd, flags: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}
