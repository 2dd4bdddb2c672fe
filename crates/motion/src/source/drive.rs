//! Driving a source with threads and sockets.

use super::outlook::look_ahead;
use super::workers::{Bandwidth, Word, Workers, send_error};
use super::{Command, Event, Source, SourceIo};
use crate::clock::{Moment, nanos};
use crate::deferred::Deferred;
use crate::handover::{self, Journal, Particulars};
use crate::ram::send::{PageSink, Sender as PageSender};
use crate::ram::{Pacer, Pass};
use crate::report::{Progress, Report};
use crate::until::Until;
use crate::{MotionError, Observer, SourceMachine, SourceOptions};
use links::{Address, Descriptors, Stream, Waker, wait_readable};
use state::Code;
use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use vm_memory::VolatileSlice;
use wire::{Hello, Inbox, Item, Kind, MAGIC, Message, PassEnd, Role, Welcome, read_magic};

/// Where the destination is, and the descriptors that an `fd:` address names.
#[derive(Debug, Clone)]
pub struct PeerAddress {
    /// Its address.
    pub address: Address,
    /// What `fd:` takes its connections from: `NAME` is the control connection, and `NAME-0`,
    /// `NAME-1`, … are the data connections.
    pub descriptors: Arc<Descriptors>,
}

/// A motion under way, at its source. It goes on when the value is dropped.
pub struct SourceJob {
    words: Sender<Inner>,
    waker: Waker,
    shared: Arc<Shared>,
    epoch: Instant,
}

#[derive(Default)]
struct Shared {
    view: Mutex<View>,
    finished: Condvar,
    /// Somebody wants it to end, and the coordinator does not know yet.
    cancelled: AtomicBool,
}

#[derive(Default)]
struct View {
    progress: Progress,
    pass: Option<Arc<Pass>>,
    pass_begun: Moment,
    report: Option<Report>,
    /// The observer has heard of it.
    told: bool,
    over: bool,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What reaches the coordinator from other threads.
enum Inner {
    Event(Event),
    Control { stream: Stream, clock_ahead: i64, round_trip: Duration },
    Data(Vec<Stream>),
    Command(Command, Sender<Result<(), MotionError>>),
}

impl SourceJob {
    /// Starts a motion of `machine` to `peer`.
    ///
    /// # Errors
    /// When the host has no descriptors or threads left, or has no random numbers.
    pub fn start(
        machine: Arc<dyn SourceMachine>,
        particulars: Particulars,
        peer: PeerAddress,
        options: SourceOptions,
        journal: Box<dyn Journal + Send>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, MotionError> {
        let failed = |what: &'static str| {
            move |e: std::io::Error| MotionError::new(Code::HostIo, format!("{what}: {e}"))
        };
        let waker = Waker::new().map_err(failed("starting a motion"))?;
        let (words, inbox) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let session = *uuid::Uuid::new_v4().as_bytes();
        let epoch = Instant::now();
        let io = Io {
            peer,
            hello: Hello::new(session, *particulars.machine().as_bytes(), Role::Control, 0),
            machine: machine.clone(),
            bandwidth: Bandwidth::new(Pacer::new(options.max_bandwidth), epoch),
            stall: options.stall_limit,
            epoch,
            words: words.clone(),
            waker: waker.clone(),
            control: None,
            send_by: None,
            workers: None,
            pages: PageSender::default(),
            shared: shared.clone(),
        };
        let observer = Arc::new(Deferred::new(observer));
        let told = observer.clone();
        let source = Source::new(machine, particulars, options, session, journal, told);
        let coordinator = Coordinator { source, io, inbox, shared: shared.clone(), observer };
        thread::Builder::new()
            .name("move-source".to_owned())
            .spawn(move || coordinator.run())
            .map_err(failed("starting a motion's thread"))?;
        Ok(Self { words, waker, shared, epoch })
    }

    /// Does what somebody wants of the motion.
    ///
    /// # Errors
    /// Why it cannot be done now.
    pub fn command(&self, command: Command) -> Result<(), MotionError> {
        let over = || MotionError::new(Code::InvalidState, "the motion has ended already");
        if command == Command::Cancel {
            // The coordinator may be sending something long to a destination that hardly takes it.
            self.shared.cancelled.store(true, Ordering::Release);
        }
        let (reply, answer) = mpsc::channel();
        self.words.send(Inner::Command(command, reply)).map_err(|_| over())?;
        self.waker.wake();
        answer.recv().map_err(|_| over())?
    }

    /// Cancels the motion; the guest goes on at the source.
    ///
    /// # Errors
    /// `too-late` after COMMIT.
    pub fn cancel(&self) -> Result<(), MotionError> {
        self.command(Command::Cancel)
    }

    /// Goes on after `pre-switchover`.
    ///
    /// # Errors
    /// When the motion is not waiting for it.
    pub fn proceed(&self) -> Result<(), MotionError> {
        self.command(Command::Proceed)
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let view = self.shared.view();
        let mut progress = view.progress.clone();
        if let Some(pass) = &view.pass {
            let totals = pass.totals();
            // Zero until the pass was added to the account of the motion.
            let under_way = progress.pass_done == 0 && progress.pass == pass.number();
            progress.pass_done = totals.seen;
            if view.report.is_none() && under_way {
                progress.bytes += totals.bytes;
                let now = Moment(nanos(self.epoch.elapsed()));
                progress.elapsed_ns = progress.elapsed_ns.max(now.0);
                look_ahead(&mut progress, totals, now.since(view.pass_begun));
            }
        }
        progress
    }

    /// The report, once the motion has ended.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.shared.view().report.clone()
    }

    /// Whether even the destination knows how it ended, and nothing is left to do.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.view().over
    }

    /// Waits for the end.
    #[must_use]
    pub fn wait(&self) -> Report {
        let mut view = self.shared.view();
        loop {
            if let (Some(report), true) = (&view.report, view.told) {
                return report.clone();
            }
            view = self.shared.finished.wait(view).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// How long a write waits before it looks whether the motion was cancelled.
const GLANCE: Duration = Duration::from_millis(250);

struct Coordinator {
    source: Source,
    io: Io,
    inbox: Receiver<Inner>,
    shared: Arc<Shared>,
    observer: Arc<Deferred>,
}

impl Coordinator {
    fn run(mut self) {
        self.source.begin(&mut self.io);
        let mut frames = Inbox::new();
        while !self.source.is_over() {
            self.publish();
            let deadline =
                self.source.deadline().map(|at| self.io.epoch + Duration::from_nanos(at.0));
            let control = self.io.control.clone();
            let fds: Vec<_> = control.iter().map(AsFd::as_fd).collect();
            match wait_readable(&fds, &self.io.waker, deadline) {
                Ok(ready) if ready.readable.is_empty() => {}
                Ok(_) => {
                    if let Some(control) = control {
                        self.read(&control, &mut frames);
                    }
                }
                Err(error) => {
                    let error = MotionError::sending("waiting for the destination", error);
                    self.source.handle(Event::Lost(error), &mut self.io);
                }
            }
            while let Ok(word) = self.inbox.try_recv() {
                self.take(word);
            }
            self.source.handle(Event::Tick, &mut self.io);
        }
        self.publish();
        self.shared.view().over = true;
    }

    /// Reads what there is on the control connection, without waiting for more.
    fn read(&mut self, mut control: &Stream, frames: &mut Inbox) {
        let mut buffer = [0; 16 << 10];
        let read = match control.read(&mut buffer) {
            Ok(0) => Err(wire::FrameError::Closed),
            Ok(count) => {
                frames.feed(&buffer[..count]);
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e.into()),
        };
        let error = match read {
            Ok(()) => loop {
                match frames.next_item() {
                    Ok(None) => return,
                    Ok(Some(Item::Message(message))) => {
                        self.source.handle(Event::Message(message), &mut self.io);
                    }
                    Ok(Some(Item::Pages(..))) => {}
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        *frames = Inbox::new();
        self.io.control = None;
        let error = MotionError::link("the control connection to the destination", &error);
        self.source.handle(Event::Lost(error), &mut self.io);
    }

    fn take(&mut self, word: Inner) {
        match word {
            Inner::Event(event) => self.source.handle(event, &mut self.io),
            Inner::Control { stream, clock_ahead, round_trip } => {
                self.io.control = Some(stream);
                let event = Event::Welcomed { clock_ahead, round_trip };
                self.source.handle(event, &mut self.io);
            }
            Inner::Data(streams) => {
                let event = match self.io.start_workers(streams) {
                    Ok(()) => Event::Joined,
                    Err(error) => Event::Lost(error),
                };
                self.source.handle(event, &mut self.io);
            }
            Inner::Command(command, reply) => {
                if command == Command::Cancel {
                    self.shared.cancelled.store(false, Ordering::Release);
                }
                let result = self.source.command(command, &mut self.io);
                // Whoever asked may have gone.
                let _ = reply.send(result);
            }
        }
    }

    fn publish(&mut self) {
        let mut view = self.shared.view();
        view.progress.clone_from(self.source.progress());
        view.pass = self.source.pass().cloned();
        view.pass_begun = self.source.pass_begun();
        let ends = view.report.is_none() && self.source.has_ended();
        if ends {
            view.report = Some(self.source.report().clone());
        }
        drop(view);
        self.observer.tell();
        if ends {
            self.shared.view().told = true;
            self.shared.finished.notify_all();
        }
    }
}

/// The sockets and threads of one motion.
struct Io {
    peer: PeerAddress,
    hello: Hello,
    machine: Arc<dyn SourceMachine>,
    bandwidth: Bandwidth,
    stall: Duration,
    epoch: Instant,
    words: Sender<Inner>,
    waker: Waker,
    control: Option<Stream>,
    send_by: Option<Moment>,
    workers: Option<Workers>,
    pages: PageSender,
    shared: Arc<Shared>,
}

/// The control connection, to write one message or pass to.
struct Control {
    stream: Stream,
    epoch: Instant,
    by: Option<Moment>,
    stall: Duration,
    shared: Arc<Shared>,
    /// A part is sent already.
    begun: bool,
}

impl Control {
    /// Has a write wait as long as it may: until a byte moves, the stall limit or the moment by which
    /// all must be sent is there, or somebody cancels the motion. What fits at once is not cut short.
    fn wait(
        &mut self,
        mut write: impl FnMut(&Stream) -> std::io::Result<usize>,
    ) -> std::io::Result<usize> {
        let now = || Moment(nanos(self.epoch.elapsed()));
        let stalled = now().after(self.stall);
        let until = self.by.map_or(stalled, |by| by.min(stalled));
        let mut cancellable = self.begun;
        loop {
            if cancellable && self.shared.cancelled.load(Ordering::Acquire) {
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            let left = until.since(now());
            if left.is_zero() {
                let why = "the destination, or the network, takes nothing";
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, why));
            }
            self.stream.set_write_limit(Some(left.min(GLANCE)))?;
            match write(&self.stream) {
                Err(e) if e.kind() == std::io::ErrorKind::TimedOut => cancellable = true,
                result => {
                    self.begun = true;
                    return result;
                }
            }
        }
    }
}

impl PageSink for Control {
    fn write_more(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.wait(|stream| stream.write_more(bytes))
    }

    fn write_guest(&mut self, memory: &VolatileSlice<'_>) -> std::io::Result<usize> {
        self.wait(|mut stream| PageSink::write_guest(&mut stream, memory))
    }
}

impl Write for Control {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.wait(|mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

impl Io {
    /// Runs `task` on a thread of its own; what it returns is given to the coordinator.
    fn spawn(&self, name: &str, task: impl FnOnce(&Dialer) -> Inner + Send + 'static) {
        let dialer = Dialer { peer: self.peer.clone(), hello: self.hello, stall: self.stall };
        let (words, waker) = (self.words.clone(), self.waker.clone());
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let word = task(&dialer);
            // The motion may have ended meanwhile.
            let _ = words.send(word);
            waker.wake();
        });
        if let Err(error) = spawned {
            let error = MotionError::sending("starting a thread", error);
            let _ = self.words.send(Inner::Event(Event::Lost(error)));
            self.waker.wake();
        }
    }

    fn control(&self) -> Result<Control, MotionError> {
        let Some(stream) = self.control.clone() else {
            return Err(MotionError::new(Code::LinkLost, "there is no control connection"));
        };
        let (epoch, stall, by) = (self.epoch, self.stall, self.send_by);
        Ok(Control { stream, epoch, by, stall, shared: self.shared.clone(), begun: false })
    }

    /// Why the destination was not told something: half a message is no message, so that a connection
    /// on which sending was broken off is of no more use.
    fn unsent(&mut self, error: MotionError) -> MotionError {
        if !self.shared.cancelled.load(Ordering::Acquire) {
            return error;
        }
        if let Some(control) = self.control.take() {
            control.closer().close();
        }
        MotionError::new(Code::Cancelled, "the motion was cancelled")
    }

    fn start_workers(&mut self, streams: Vec<Stream>) -> Result<(), MotionError> {
        let (words, waker) = (Mutex::new(self.words.clone()), self.waker.clone());
        let say = move |word| {
            let event = match word {
                Word::Sent => Event::PassSent,
                Word::Failed(error) => Event::Lost(error),
            };
            let words = words.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = words.send(Inner::Event(event));
            waker.wake();
        };
        let (machine, bandwidth) = (self.machine.clone(), self.bandwidth.clone());
        self.workers = Some(Workers::start(machine, bandwidth, streams, Box::new(say))?);
        Ok(())
    }
}

impl SourceIo for Io {
    fn now(&self) -> Moment {
        Moment(nanos(self.epoch.elapsed()))
    }

    fn dial(&mut self) {
        self.spawn("move-dial", |dialer| match dialer.control() {
            Ok((stream, clock_ahead, round_trip)) => {
                Inner::Control { stream, clock_ahead, round_trip }
            }
            Err(error) => Inner::Event(Event::Lost(error)),
        });
    }

    fn join(&mut self, count: u16) {
        self.spawn("move-join", move |dialer| {
            let streams: Result<Vec<_>, _> =
                (0..count).map(|index| dialer.connect(Role::Data, index)).collect();
            match streams {
                Ok(streams) => Inner::Data(streams.into_iter().map(|(s, _)| s).collect()),
                Err(error) => Inner::Event(Event::Lost(error)),
            }
        });
    }

    fn send(&mut self, message: &Message) -> Result<(), MotionError> {
        wire::write_message(&mut self.control()?, message)
            .map_err(|e| self.unsent(MotionError::sending("sending to the destination", e)))
    }

    fn send_by(&mut self, moment: Option<Moment>) {
        self.send_by = moment;
    }

    fn send_pass(&mut self, pass: &Pass) -> Result<(), MotionError> {
        let mut control = self.control()?;
        let bandwidth = self.bandwidth.clone();
        let mut pace = |bytes| bandwidth.pace(bytes);
        while let Some(chunk) = pass.claim() {
            let sent = self
                .pages
                .send_chunk(&*self.machine, pass, chunk, &mut pace, &mut control)
                .map_err(|e| self.unsent(send_error(e)))?;
            pass.count(sent);
        }
        let totals = pass.totals();
        let end = PassEnd { pass: pass.number(), data_pages: totals.data, zero_pages: totals.zero };
        self.send(&Message::PassEnd(end))
    }

    fn start_pass(&mut self, pass: &Arc<Pass>) {
        if let Some(workers) = &self.workers {
            workers.send(pass);
        }
    }

    fn ask(&mut self, message: handover::Message) {
        self.spawn("move-ask", move |dialer| {
            Inner::Event(match dialer.ask(message) {
                Ok(answer) => Event::Told(answer),
                Err(error) => {
                    tracing::debug!(%error, "asking about a handover");
                    Event::NotAsked
                }
            })
        });
    }

    fn set_bandwidth(&mut self, limit: Option<NonZeroU64>) {
        let now = self.now();
        self.bandwidth.lock().set_limit(limit, now);
    }

    fn stop_workers(&mut self) {
        self.workers = None;
    }

    fn hang_up(&mut self) {
        self.workers = None;
        if let Some(control) = self.control.take() {
            control.closer().close();
        }
    }
}

/// Makes connections to the destination.
pub(super) struct Dialer {
    pub(super) peer: PeerAddress,
    pub(super) hello: Hello,
    pub(super) stall: Duration,
}

impl Dialer {
    /// Makes a connection and exchanges greetings.
    fn connect(&self, role: Role, index: u16) -> Result<(Stream, Welcome), MotionError> {
        let address = match (&self.peer.address, role) {
            (Address::Fd(name), Role::Data) => Address::Fd(format!("{name}-{index}")),
            (Address::Fd(name), Role::Question) => {
                let why = format!("there is no second connection over fd:{name} to ask on");
                return Err(MotionError::new(Code::ConnectFailed, why));
            }
            (address, _) => address.clone(),
        };
        let mut stream = links::connect(&address, self.stall, &self.peer.descriptors)
            .map_err(|e| MotionError::new(e.code(), e.to_string()))?;
        let what = format!("greeting {}", self.peer.address);
        stream
            .set_stall_limit(self.stall)
            .map_err(|e| MotionError::sending("setting a limit", e))?;
        let hello = Hello { role, index, ..self.hello };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&Message::Hello(hello).encode());
        stream.write_all(&bytes).map_err(|e| MotionError::sending(&what, e))?;
        let mut from = Until::from_now(&stream, self.stall);
        read_magic(&mut from).map_err(|e| MotionError::link(&what, &e))?;
        let answer = wire::read_expected(&mut from, &[Kind::Welcome, Kind::Refused], "a greeting");
        match answer.map_err(|e| MotionError::link(&what, &e))? {
            Message::Welcome(welcome) if welcome.version == wire::VERSION => {
                stream
                    .set_stall_limit(self.stall)
                    .map_err(|e| MotionError::sending("setting a limit", e))?;
                Ok((stream, welcome))
            }
            Message::Refused(refusals) => Err(MotionError::refused(refusals)),
            other => Err(MotionError::new(
                Code::ProtocolError,
                format!("{what}: it answered with {:?}", other.kind()),
            )),
        }
    }

    /// Makes the control connection, and compares clocks.
    fn control(&self) -> Result<(Stream, i64, Duration), MotionError> {
        let begun = Instant::now();
        let (stream, welcome) = self.connect(Role::Control, 0)?;
        let round_trip = begun.elapsed();
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let here = i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX);
        let there = welcome
            .wall_clock
            .saturating_add(i64::try_from(nanos(round_trip) / 2).unwrap_or(i64::MAX));
        Ok((stream, there.saturating_sub(here), round_trip))
    }

    /// Says one thing about a handover over a connection of its own, and reads the answer.
    pub(super) fn ask(&self, message: handover::Message) -> Result<handover::Message, MotionError> {
        let (mut stream, _) = self.connect(Role::Question, 0)?;
        let what = format!("asking {}", self.peer.address);
        wire::write_message(&mut stream, &handover::words::to_wire(message))
            .map_err(|e| MotionError::sending(&what, e))?;
        let kinds = &handover::words::KINDS;
        let answer = wire::read_expected(
            &mut Until::from_now(&stream, self.stall),
            kinds,
            "what became of a handover",
        )
        .map_err(|e| MotionError::link(&what, &e))?;
        handover::words::from_wire(&answer).ok_or_else(|| {
            MotionError::new(Code::ProtocolError, format!("{what}: it said {:?}", answer.kind()))
        })
    }
}
