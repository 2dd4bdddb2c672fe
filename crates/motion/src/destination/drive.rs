//! Driving a destination with threads and sockets.

use super::phase::AsRam;
use super::questions::{Heard, Questions};
use super::receivers::{ReceiverThread, Word};
use super::strangers::Strangers;
use super::{Admission, Command, Destination, DestinationIo, Event, Phase, Question};
use crate::clock::{Moment, nanos};
use crate::deferred::Deferred;
use crate::handover::{self, Fate, Journal, Standing};
use crate::report::{Progress, Report};
use crate::{DestinationOptions, MachineBuilder, MotionError, Observer};
use links::{Address, Listener, Stream, Waker, wait_readable};
use state::Code;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use wire::{Hello, Inbox, Item, MAGIC, Message, PassEnd, Role};

/// So many words of other threads are taken before the source is heard again.
const MOST_WORDS: usize = 64;
/// For so long pages of 1 GiB are cleared before the source is told to go on. It waits for 60 s.
const CLEARING: Duration = Duration::from_secs(30);
/// More threads do not make it faster: memory is no faster.
const MOST_CLEARING: usize = 8;

/// A process that waits for a guest, and then answers questions about it. Waiting ends when the
/// value is dropped, unless a guest has come.
pub struct DestinationJob {
    words: Sender<Inner>,
    waker: Waker,
    shared: Arc<Shared>,
    /// Somebody wants to wait no longer.
    unwanted: Arc<AtomicBool>,
    address: Address,
}

struct Shared {
    view: Mutex<View>,
    finished: Condvar,
    received: Arc<AtomicU64>,
}

struct View {
    phase: Phase,
    progress: Progress,
    report: Report,
    spoken_for: Vec<Standing>,
    /// The observer has heard of the end.
    told: bool,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Inner {
    /// A source has said hello.
    Hello(Stream, Hello),
    /// A message came on a connection for questions.
    Asked(Question, handover::Message),
    /// Such a connection has ended.
    QuestionOver(Question),
    /// A data connection brought the end of a pass, or an error.
    PassEnd(u64, u16, PassEnd),
    DataLost(u64, MotionError),
    Command(Command, Sender<Result<(), MotionError>>),
}

impl DestinationJob {
    /// Waits for a guest on `listener`. `fate` decides who goes on with it where the source shares its
    /// RAM.
    ///
    /// # Errors
    /// When the host has no descriptors or threads left; when RAM is to be shared and nothing decides who
    /// goes on with the guest.
    pub fn listen(
        listener: Listener,
        builder: Arc<dyn MachineBuilder>,
        options: DestinationOptions,
        journal: Box<dyn Journal + Send>,
        observer: Arc<dyn Observer>,
        fate: Option<Arc<Fate>>,
    ) -> Result<Self, MotionError> {
        options.ram.decided_by(fate.as_deref())?;
        let failed = |e: std::io::Error| {
            MotionError::new(Code::HostIo, format!("starting to wait for a guest: {e}"))
        };
        let waker = Waker::new().map_err(failed)?;
        let (words, inbox) = mpsc::channel();
        let address = listener.local_address().clone();
        let received = Arc::new(AtomicU64::new(0));
        let view = View {
            phase: Phase::Waiting,
            progress: Progress::default(),
            report: Report::default(),
            spoken_for: Vec::new(),
            told: false,
        };
        let shared = Arc::new(Shared {
            view: Mutex::new(view),
            finished: Condvar::new(),
            received: received.clone(),
        });
        let unwanted = Arc::new(AtomicBool::new(false));
        let io = Io {
            unwanted: unwanted.clone(),
            epoch: Instant::now(),
            stall: options.stall_limit,
            words: words.clone(),
            waker: waker.clone(),
            received,
            motion: 0,
            control: None,
            ram: None,
            receivers: Vec::new(),
            questions: Questions::default(),
            fate,
        };
        let observer = Arc::new(Deferred::new(observer));
        let told = observer.clone();
        let destination = Destination::new(builder, options, journal, told, wall_clock);
        let strangers = Strangers::default();
        let shared_too = shared.clone();
        let waiter =
            Waiter { destination, io, inbox, listener, strangers, shared: shared_too, observer };
        thread::Builder::new()
            .name("move-dest".to_owned())
            .spawn(move || waiter.run())
            .map_err(failed)?;
        Ok(Self { words, waker, shared, unwanted, address })
    }

    /// Where it listens: the port, where it was left to the kernel.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Does what somebody wants.
    ///
    /// # Errors
    /// Why it cannot be done now.
    pub fn command(&self, command: Command) -> Result<(), MotionError> {
        let over = || MotionError::new(Code::InvalidState, "nothing is waited for any more");
        let (reply, answer) = mpsc::channel();
        if matches!(command, Command::Cancel) {
            self.unwanted.store(true, Ordering::Relaxed);
        }
        self.words.send(Inner::Command(command, reply)).map_err(|_| over())?;
        self.waker.wake();
        answer.recv().map_err(|_| over())?
    }

    /// Puts up with a silent source for so long, from soon on: nobody waits for it here, because a
    /// machine may be being built. No-op when nothing is waited for any more.
    pub fn set_stall_limit(&self, limit: Duration) {
        let (reply, _) = mpsc::channel();
        if self.words.send(Inner::Command(Command::SetStall(limit), reply)).is_ok() {
            self.waker.wake();
        }
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.view().phase
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let mut progress = self.shared.view().progress.clone();
        progress.bytes = progress.bytes.max(self.shared.received.load(Ordering::Relaxed));
        progress
    }

    /// The report of the motion under way, or of the last one.
    #[must_use]
    pub fn report(&self) -> Report {
        self.shared.view().report.clone()
    }

    /// How the handovers stood of the dead processes that this one speaks for.
    #[must_use]
    pub fn spoken_for(&self) -> Vec<Standing> {
        self.shared.view().spoken_for.clone()
    }

    /// Waits until a guest has come, or none will.
    #[must_use]
    pub fn wait(&self) -> Report {
        let mut view = self.shared.view();
        while !(matches!(view.phase, Phase::Owner | Phase::Ended) && view.told) {
            view = self.shared.finished.wait(view).unwrap_or_else(PoisonError::into_inner);
        }
        view.report.clone()
    }
}

struct Waiter {
    destination: Destination,
    io: Io,
    inbox: Receiver<Inner>,
    listener: Listener,
    strangers: Strangers,
    shared: Arc<Shared>,
    observer: Arc<Deferred>,
}

impl Waiter {
    fn run(mut self) {
        let mut frames = Inbox::new();
        let mut motion = self.io.motion;
        while !self.destination.is_over() {
            let untold = self.publish();
            if motion != self.io.motion {
                motion = self.io.motion;
                frames = Inbox::new();
            }
            let deadline =
                self.destination.deadline().map(|at| self.io.epoch + Duration::from_nanos(at.0));
            let control = self.io.control.clone();
            let mut fds = vec![self.listener.as_fd()];
            fds.extend(control.iter().map(AsFd::as_fd));
            let until = deadline.into_iter().chain(untold).min();
            let ready = match wait_readable(&fds, &self.io.waker, until) {
                Ok(ready) => ready.readable,
                Err(error) => {
                    tracing::error!(%error, "waiting for a guest");
                    thread::sleep(Duration::from_millis(100));
                    Vec::new()
                }
            };
            // The guest first: nothing else may hold up a handover.
            if let (true, Some(control)) = (ready.contains(&1), &control) {
                self.read(control, &mut frames);
            }
            self.take_words();
            if ready.contains(&0) {
                self.accept();
            }
            self.destination.handle(Event::Tick, &mut self.io);
        }
        self.publish();
    }

    /// Takes a connection; a thread of its own waits for its hello.
    fn accept(&self) {
        let stream = match self.listener.accept(Some(Duration::ZERO)) {
            Ok(Some(stream)) => stream,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                return;
            }
        };
        let (words, waker) = (self.io.words.clone(), self.io.waker.clone());
        self.strangers.hear(stream, move |stream, hello| {
            let _ = words.send(Inner::Hello(stream, hello));
            waker.wake();
        });
    }

    /// Reads what there is on the control connection, without waiting for more.
    fn read(&mut self, mut control: &Stream, frames: &mut Inbox) {
        if let Some(ram) = &self.io.ram {
            frames.allow_pages(ram.as_ram().pages());
        }
        let motion = self.io.motion;
        let mut buffer = [0; 64 << 10];
        let error = match control.read(&mut buffer) {
            Ok(0) => wire::FrameError::Closed,
            Ok(count) => {
                frames.feed(&buffer[..count]);
                loop {
                    match frames.next_item() {
                        Ok(None) => {
                            if !frames.is_empty() {
                                self.destination.handle(Event::Heard, &mut self.io);
                            }
                            return;
                        }
                        Ok(Some(Item::Message(message))) => {
                            self.destination.handle(Event::Message(message), &mut self.io);
                        }
                        Ok(Some(Item::Pages(header, contents))) => {
                            let event = Event::Pages(header, contents);
                            self.destination.handle(event, &mut self.io);
                        }
                        Err(error) => break error,
                    }
                    if let Some(ram) = &self.io.ram {
                        frames.allow_pages(ram.as_ram().pages());
                    }
                    // A source that floods this side holds up nobody else's word.
                    self.take_words();
                    if self.io.control.is_none() || motion != self.io.motion {
                        return;
                    }
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => return,
            Err(e) => e.into(),
        };
        let closed = matches!(error, wire::FrameError::Closed);
        let error = MotionError::link("the control connection from the source", &error);
        if closed || error.code != Code::ProtocolError {
            self.io.control = None;
        }
        self.destination.handle(Event::Lost(error), &mut self.io);
    }

    /// Takes the words that have come by now, and none that come meanwhile: there may be no end to
    /// those.
    fn take_words(&mut self) {
        let words: Vec<Inner> = self.inbox.try_iter().take(MOST_WORDS).collect();
        if words.len() == MOST_WORDS {
            // Waiting has to end at once: there may be more.
            self.io.waker.wake();
        }
        for word in words {
            self.take(word);
        }
    }

    fn take(&mut self, word: Inner) {
        match word {
            Inner::Hello(stream, hello) => self.greet(stream, &hello),
            Inner::Asked(question, message) => {
                self.destination.handle(Event::Asked(question, message), &mut self.io);
                self.io.questions.dealt_with(question);
            }
            Inner::QuestionOver(question) => {
                self.io.questions.over(question);
            }
            Inner::PassEnd(motion, index, end) if motion == self.io.motion => {
                self.destination.handle(Event::PassEnd(index, end), &mut self.io);
            }
            Inner::DataLost(motion, error) if motion == self.io.motion => {
                self.destination.handle(Event::DataLost(error), &mut self.io);
            }
            // Of a motion that has ended.
            Inner::PassEnd(..) | Inner::DataLost(..) => {}
            Inner::Command(command, reply) => {
                let result = self.destination.command(command, &mut self.io);
                // Whoever asked may have gone.
                let _ = reply.send(result);
            }
        }
    }

    fn greet(&mut self, mut stream: Stream, hello: &Hello) {
        let wall = i64::try_from(wall_nanos()).unwrap_or(i64::MAX);
        let now = self.io.now();
        let peer = stream.peer().to_string();
        let (admission, answer) = match hello.answer(wall) {
            Ok(welcome) => (self.destination.admit(hello, &peer, now), Message::Welcome(welcome)),
            Err(refusals) => {
                (Admission::Refused(refusals), Message::Accepted { save: 0, restore: 0 })
            }
        };
        let (answer, role) = match &admission {
            Admission::Refused(refusals) => (Message::Refused(refusals.clone()), None),
            _ => (answer, Some(hello.role)),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&answer.encode());
        let greeted = stream
            .set_stall_limit(self.io.stall)
            .and_then(|()| stream.write_all(&bytes))
            .map_err(|e| MotionError::sending("greeting a source", e));
        let admitted = greeted.and_then(|()| match admission {
            Admission::Control => {
                self.io.motion += 1;
                self.io.control = Some(stream);
                Ok(())
            }
            Admission::Data => {
                let connections = self.destination.report().connections;
                self.io.receive(hello.index, connections, stream)
            }
            Admission::Question => {
                self.io.hear_question(stream);
                Ok(())
            }
            Admission::Refused(_) => Ok(()),
        });
        if let Err(error) = admitted {
            match role {
                Some(Role::Control) => self.destination.handle(Event::Lost(error), &mut self.io),
                Some(Role::Data) => self.destination.handle(Event::DataLost(error), &mut self.io),
                // Whoever it was has no part in the motion under way.
                _ => tracing::info!(%error, "a connection that went away"),
            }
        }
    }

    /// Shows where it is, and tells what happened: all of it, or what is left at the moment that is
    /// returned.
    fn publish(&self) -> Option<Instant> {
        let mut view = self.shared.view();
        let phase = self.destination.phase();
        if view.phase != phase {
            view.report.clone_from(self.destination.report());
        }
        view.phase = phase;
        view.progress.clone_from(self.destination.progress());
        view.spoken_for = self.destination.spoken_for();
        drop(view);
        let untold = self.observer.tell(phase == Phase::Ready);
        if matches!(phase, Phase::Owner | Phase::Ended) {
            self.shared.view().told = true;
            self.shared.finished.notify_all();
        }
        untold
    }
}

fn wall_nanos() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

fn wall_clock() -> u64 {
    u64::try_from(wall_nanos() / 1_000_000).unwrap_or(u64::MAX)
}

/// The sockets and threads of a destination.
struct Io {
    /// What takes long is not worth it any more.
    unwanted: Arc<AtomicBool>,
    epoch: Instant,
    stall: Duration,
    words: Sender<Inner>,
    waker: Waker,
    /// Bytes of pages that data connections have put into RAM in this motion.
    received: Arc<AtomicU64>,
    /// Counts the motions, so that what is left of an earlier one is known for that.
    motion: u64,
    control: Option<Stream>,
    ram: Option<Arc<dyn AsRam>>,
    receivers: Vec<ReceiverThread>,
    questions: Questions,
    fate: Option<Arc<Fate>>,
}

impl Io {
    fn receive(&mut self, index: u16, connections: u16, stream: Stream) -> Result<(), MotionError> {
        let Some(ram) = self.ram.clone() else { return Ok(()) };
        // Between passes nothing comes; the control connection says whether the source lives.
        stream.set_read_limit(None).map_err(|e| MotionError::sending("setting a limit", e))?;
        let (words, waker) = (self.words.clone(), self.waker.clone());
        let (motion, received) = (self.motion, self.received.clone());
        let say = move |word| {
            let word = match word {
                Word::PassEnd(end) => Inner::PassEnd(motion, index, end),
                Word::Failed(error) => Inner::DataLost(motion, error),
            };
            let _ = words.send(word);
            waker.wake();
        };
        let receiver = ReceiverThread::start(index, connections, stream, ram, received, say)?;
        self.receivers.push(receiver);
        Ok(())
    }

    fn hear_question(&mut self, stream: Stream) {
        let (words, waker) = (self.words.clone(), self.waker.clone());
        let heard = self.questions.hear(stream, move |question, heard| {
            let word = match heard {
                Heard::Asked(message) => Inner::Asked(question, message),
                Heard::Over => Inner::QuestionOver(question),
            };
            let _ = words.send(word);
            waker.wake();
        });
        if let Err(error) = heard {
            tracing::warn!(%error, "listening to a question");
        }
    }
}

impl DestinationIo for Io {
    fn now(&self) -> Moment {
        Moment(nanos(self.epoch.elapsed()))
    }

    fn send(&mut self, message: &Message) -> Result<(), MotionError> {
        let Some(control) = &self.control else {
            return Err(MotionError::new(Code::LinkLost, "there is no control connection"));
        };
        wire::write_message(&mut &*control, message)
            .map_err(|e| MotionError::sending("sending to the source", e))
    }

    fn answer(&mut self, question: Question, message: &Message) {
        self.questions.answer(question, message);
    }

    fn receive_into(&mut self, ram: Arc<dyn AsRam>) {
        self.received.store(0, Ordering::Relaxed);
        // RAM that both ends have has its contents already.
        if self.fate.is_none() {
            let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_CLEARING);
            let begun = Instant::now();
            let is_wanted = || !self.unwanted.load(Ordering::Relaxed);
            ram.as_ram().clear_ahead(threads, &|| begun.elapsed() < CLEARING && is_wanted());
        }
        self.ram = Some(ram);
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn set_stall(&mut self, limit: Duration) {
        self.stall = limit;
        if let Some(control) = &self.control
            && let Err(error) = control.set_stall_limit(limit)
        {
            tracing::warn!(%error, "setting another stall limit");
        }
    }

    fn fate(&self) -> Option<&Fate> {
        self.fate.as_deref()
    }

    fn hang_up(&mut self) {
        self.receivers.clear();
        self.ram = None;
        if let Some(control) = self.control.take() {
            control.closer().close();
        }
    }
}
