//! A destination over the network, as a source's end: sockets, and threads that serve them.

use super::job::{End, Setting};
use super::workers::{Bandwidth, Connection, Word, Workers, send_error};
use super::{Event, SETTLING, Source, SourceIo, SourceJob};
use crate::clock::{Moment, nanos};
use crate::handover::{self, Fate, Journal, Particulars};
use crate::ram::send::{PageSink, Sender as PageSender};
use crate::ram::{Pacer, Pass};
use crate::until::Until;
use crate::{MotionError, Observer, SourceMachine, SourceOptions};
use courtesy::Awake;
use links::{Address, Descriptors, Stream, wait_readable};
use state::Code;
use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use vm_memory::VolatileSlice;
use wire::{Hello, Inbox, Item, Kind, MAGIC, Message, PassEnd, Role, Welcome, read_magic};

/// Where the destination is, and the descriptors that an `fd:` address names.
#[derive(Clone)]
pub struct PeerAddress {
    /// Its address.
    pub address: Address,
    /// What `fd:` takes its connections from: `NAME` is the control connection, and `NAME-0`,
    /// `NAME-1`, … are the data connections.
    pub descriptors: Arc<Descriptors>,
    /// What the destination is beside that, where it is a process that shares the guest's RAM.
    pub sibling: Option<Arc<Sibling>>,
}

/// A destination that shares the guest's RAM: another process of this host.
pub struct Sibling {
    /// What decides who goes on with the guest. It is asked instead of the destination.
    pub fate: Arc<Fate>,
    /// What has to happen before there is somebody to connect to. Done on a thread of its own, once.
    pub start: Box<dyn Fn() -> Result<(), MotionError> + Send + Sync>,
}

/// What threads have to say.
enum News {
    Event(Event),
    Control { stream: Stream, clock_ahead: i64, round_trip: Duration },
    Data(Vec<Stream>),
}

impl SourceJob {
    /// Starts a motion of `machine` to `peer`.
    ///
    /// # Errors
    /// When the host has no descriptors or threads left, or has no random numbers; when RAM is to be
    /// shared and nothing decides who goes on with the guest.
    pub fn start(
        machine: Arc<dyn SourceMachine>,
        particulars: Particulars,
        peer: PeerAddress,
        options: SourceOptions,
        journal: Box<dyn Journal + Send>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, MotionError> {
        options.ram.decided_by(peer.sibling.as_ref().map(|sibling| &*sibling.fate))?;
        let session = *uuid::Uuid::new_v4().as_bytes();
        let hello = Hello::new(session, *particulars.machine().as_bytes(), Role::Control, 0);
        let (stall, bandwidth) = (options.stall_limit, options.max_bandwidth);
        let moved = machine.clone();
        Self::begin(
            observer,
            |observer| Source::new(moved, particulars, options, session, journal, observer),
            |setting| Io {
                peer,
                hello,
                machine,
                bandwidth: Bandwidth::new(Pacer::new(bandwidth), setting.epoch),
                stall,
                setting,
                control: None,
                frames: Inbox::new(),
                send_by: None,
                workers: None,
                data: Vec::new(),
                pages: PageSender::default(),
                held_back: false,
                awake: Awake::default(),
            },
        )
    }
}

/// How long a write waits before it looks whether the motion was cancelled.
const GLANCE: Duration = Duration::from_millis(250);

/// The sockets and threads of one motion.
struct Io {
    peer: PeerAddress,
    hello: Hello,
    machine: Arc<dyn SourceMachine>,
    bandwidth: Bandwidth,
    stall: Duration,
    setting: Setting<News>,
    control: Option<Stream>,
    /// What came over the control connection and is no whole message yet.
    frames: Inbox,
    send_by: Option<Moment>,
    workers: Option<Workers<Connection>>,
    /// What the workers send over, while there are any.
    data: Vec<Stream>,
    pages: PageSender,
    /// What was written to the control connection is held back until the next message.
    held_back: bool,
    awake: Awake,
}

/// The control connection, to write one message or pass to.
struct Control {
    stream: Stream,
    epoch: Instant,
    by: Option<Moment>,
    stall: Duration,
    cancelled: Arc<AtomicBool>,
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
            if cancellable && self.cancelled.load(Ordering::Acquire) {
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
    fn spawn(&self, name: &str, task: impl FnOnce(&Dialer) -> News + Send + 'static) {
        let dialer = Dialer { peer: self.peer.clone(), hello: self.hello, stall: self.stall };
        let mouth = self.setting.mouth.clone();
        let spawned =
            thread::Builder::new().name(name.to_owned()).spawn(move || mouth.say(task(&dialer)));
        if let Err(error) = spawned {
            let error = MotionError::sending("starting a thread", error);
            self.setting.mouth.say(News::Event(Event::Lost(error)));
        }
    }

    /// Reads what there is on the control connection, without waiting for more.
    fn read(&mut self, mut control: &Stream) -> Vec<Event> {
        let mut buffer = [0; 16 << 10];
        let read = match control.read(&mut buffer) {
            Ok(0) => Err(wire::FrameError::Closed),
            Ok(count) => {
                self.frames.feed(&buffer[..count]);
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e.into()),
        };
        let mut events = Vec::new();
        let error = match read {
            Ok(()) => loop {
                match self.frames.next_item() {
                    Ok(None) => return events,
                    Ok(Some(Item::Message(message))) => events.push(Event::Message(message)),
                    Ok(Some(Item::Pages(..))) => {}
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        self.frames = Inbox::new();
        self.control = None;
        let error = MotionError::link("the control connection to the destination", &error);
        events.push(Event::Lost(error));
        events
    }

    fn control(&self) -> Result<Control, MotionError> {
        let Some(stream) = self.control.clone() else {
            return Err(MotionError::new(Code::LinkLost, "there is no control connection"));
        };
        let (epoch, stall, by) = (self.setting.epoch, self.stall, self.send_by);
        let cancelled = self.setting.cancelled.clone();
        Ok(Control { stream, epoch, by, stall, cancelled, begun: false })
    }

    /// Why the destination was not told something: half a message is no message, so that a connection
    /// on which sending was broken off is of no more use.
    fn unsent(&mut self, error: MotionError) -> MotionError {
        if !self.setting.cancelled.load(Ordering::Acquire) {
            return error;
        }
        if let Some(control) = self.control.take() {
            control.closer().close();
        }
        MotionError::new(Code::Cancelled, "the motion was cancelled")
    }

    fn write(&mut self, message: &Message) -> Result<(), MotionError> {
        wire::write_message(&mut self.control()?, message)
            .map_err(|e| self.unsent(MotionError::sending("sending to the destination", e)))
    }

    fn hold_back(&mut self, hold: bool) -> Result<(), MotionError> {
        if let Some(control) = self.control.as_ref().filter(|_| hold != self.held_back) {
            let failed = |e| MotionError::sending("sending to the destination", e);
            control.hold_back(hold).map_err(failed)?;
            self.held_back = hold;
        }
        Ok(())
    }

    fn start_workers(&mut self, streams: Vec<Stream>) -> Result<(), MotionError> {
        let mouth = self.setting.mouth.clone();
        let say = move |word| {
            mouth.say(News::Event(match word {
                Word::Sent => Event::PassSent,
                Word::Failed(error) => Event::Lost(error),
            }));
        };
        let (machine, bandwidth) = (self.machine.clone(), self.bandwidth.clone());
        self.data.clone_from(&streams);
        self.workers = Some(Workers::over(streams, machine, bandwidth, Box::new(say))?);
        Ok(())
    }
}

impl SourceIo for Io {
    fn now(&self) -> Moment {
        Moment(nanos(self.setting.epoch.elapsed()))
    }

    fn dial(&mut self) {
        self.spawn("move-dial", |dialer| match dialer.control() {
            Ok((stream, clock_ahead, round_trip)) => {
                News::Control { stream, clock_ahead, round_trip }
            }
            Err(error) => News::Event(Event::Lost(error)),
        });
    }

    fn join(&mut self, count: u16) {
        self.spawn("move-join", move |dialer| {
            let streams: Result<Vec<_>, _> =
                (0..count).map(|index| dialer.connect(Role::Data, index)).collect();
            match streams {
                Ok(streams) => News::Data(streams.into_iter().map(|(s, _)| s).collect()),
                Err(error) => News::Event(Event::Lost(error)),
            }
        });
    }

    fn log(
        &mut self,
        machine: &Arc<dyn SourceMachine>,
        on: bool,
    ) -> Option<Result<(), MotionError>> {
        self.setting.switch_log(machine, on, News::Event)
    }

    fn send(&mut self, message: &Message) -> Result<(), MotionError> {
        self.write(message)?;
        self.hold_back(false)
    }

    fn send_by(&mut self, moment: Option<Moment>) {
        self.send_by = moment;
    }

    fn send_pass(&mut self, pass: &Pass) -> Result<(), MotionError> {
        let mut control = self.control()?;
        // The state follows at once, and the destination can do nothing with these pages before.
        self.hold_back(true)?;
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
        self.write(&Message::PassEnd(end))
    }

    fn start_pass(&mut self, pass: &Arc<Pass>) {
        if let Some(workers) = &self.workers {
            workers.send(pass);
        }
    }

    fn ask(&mut self, message: handover::Message) {
        if let Some(Sibling { fate, .. }) = self.peer.sibling.as_deref() {
            // What is no question needs no answer.
            if !matches!(message.word, handover::Word::Answer(_)) {
                let answer = message.token.says(handover::Word::Answer(fate.settle()));
                self.setting.mouth.say(News::Event(Event::Told(answer)));
            }
            return;
        }
        self.spawn("move-ask", move |dialer| {
            News::Event(match dialer.ask(message) {
                Ok(answer) => Event::Told(answer),
                Err(error) => {
                    tracing::debug!(%error, "asking about a handover");
                    Event::NotAsked
                }
            })
        });
    }

    fn notes(&self) -> Vec<String> {
        let (Address::Fd(name), None) = (&self.peer.address, &self.peer.sibling) else {
            // A process that shares RAM is not asked: the word is.
            return Vec::new();
        };
        vec![format!(
            "over fd:{name} there is no second connection to ask on: if it is lost after COMMIT, it stays \
             undecided who has the guest until somebody looks at both sides and uses `handover resolve`"
        )]
    }

    fn tells_for(&self) -> Option<Duration> {
        // There is the control connection, or nothing.
        matches!(self.peer.address, Address::Fd(_)).then_some(SETTLING)
    }

    fn set_bandwidth(&mut self, limit: Option<NonZeroU64>) {
        let now = self.now();
        self.bandwidth.lock().set_limit(limit, now);
    }

    fn set_stall(&mut self, limit: Duration) {
        self.stall = limit;
        // Whoever writes to the control connection sets its limit each time.
        for stream in &self.data {
            if let Err(error) = stream.set_stall_limit(limit) {
                tracing::warn!(%error, "setting another stall limit");
            }
        }
    }

    fn stay_awake(&mut self, awake: bool) {
        self.awake.set(awake);
    }

    fn stop_workers(&mut self) {
        self.workers = None;
        self.data.clear();
    }

    fn hang_up(&mut self) {
        self.stop_workers();
        if let Some(control) = self.control.take() {
            control.closer().close();
        }
    }

    fn fate(&self) -> Option<&Fate> {
        self.peer.sibling.as_deref().map(|sibling| &*sibling.fate)
    }
}

impl End for Io {
    type News = News;

    fn hear(&mut self, news: News) -> Vec<Event> {
        vec![match news {
            News::Event(event) => event,
            News::Control { stream, clock_ahead, round_trip } => {
                self.control = Some(stream);
                self.held_back = false;
                Event::Welcomed { clock_ahead, round_trip }
            }
            News::Data(streams) => match self.start_workers(streams) {
                Ok(()) => Event::Joined,
                Err(error) => Event::Lost(error),
            },
        }]
    }

    fn wait(&mut self, until: Option<Instant>) -> Vec<Event> {
        let control = self.control.clone();
        let fds: Vec<_> = control.iter().map(AsFd::as_fd).collect();
        match (wait_readable(&fds, self.setting.mouth.waker(), until), control) {
            (Ok(ready), Some(control)) if !ready.readable.is_empty() => self.read(&control),
            (Ok(_), _) => Vec::new(),
            (Err(error), _) => {
                vec![Event::Lost(MotionError::sending("waiting for the destination", error))]
            }
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
        if let Some(sibling) = &self.peer.sibling {
            (sibling.start)()?;
        }
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
