//! A motion at its source: the engine's `Source`, and in place of its threads, steps.

use crate::call::{Call, Caller, Outcome, Purpose};
use crate::env::{Env, MICROSECOND};
use crate::life::Life;
use crate::machine::SimMachine;
use crate::net::{ConnId, End, Piece};
use crate::reader::Reader;
use crate::senders::Senders;
use crate::watcher::Watcher;
use motion::clock::{Moment, nanos};
use motion::handover::words::{from_wire, to_wire};
use motion::handover::{Fate, Message, Outcome as Became, Word};
use motion::ram::{Pacer, Pass};
use motion::source::{Command, Event, Phase, Source, SourceIo};
use motion::{MotionError, Status};
use state::Code;
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

/// What reaches the coordinator from other threads.
enum Inner {
    Event(Event),
    Control { conn: ConnId, reader: Reader, clock_ahead: i64, round_trip: u64 },
    Data(Vec<ConnId>),
}

pub struct SourceSide {
    pub source: Source,
    pub machine: Arc<SimMachine>,
    pub watcher: Arc<Watcher>,
    pub wires: Wires,
}

/// The connections and threads of a motion.
pub struct Wires {
    pub life: Arc<Life>,
    pub caller: Caller,
    machine: Arc<SimMachine>,
    control: Option<(ConnId, Reader)>,
    calls: Vec<Call>,
    pub senders: Option<Senders>,
    pub pacer: Pacer,
    inline: motion::ram::send::Sender,
    /// Bytes of pages that were sent.
    pub sent: u64,
    /// No write to the control connection waits for longer.
    send_by: Option<u64>,
    inbox: VecDeque<(u64, Inner)>,
    /// The clocks are certainly so far apart, in nanoseconds.
    pub clocks_apart: u64,
    /// When COMMIT first went out.
    pub committed_at: Option<u64>,
    /// What decides who goes on with the guest, in an update.
    pub fate: Option<Arc<Fate>>,
}

/// What the kernel takes of a connection before a write has to wait, in bytes.
const WINDOW: usize = 128 << 10;

impl SourceSide {
    pub fn new(
        source: Source,
        machine: Arc<SimMachine>,
        watcher: Arc<Watcher>,
        caller: Caller,
        limit: Option<NonZeroU64>,
        fate: Option<Arc<Fate>>,
    ) -> Self {
        let wires = Wires {
            life: machine.life.clone(),
            caller,
            machine: machine.clone(),
            control: None,
            calls: Vec::new(),
            senders: None,
            pacer: Pacer::new(limit),
            inline: motion::ram::send::Sender::default(),
            sent: 0,
            send_by: None,
            inbox: VecDeque::new(),
            clocks_apart: 0,
            committed_at: None,
            fate,
        };
        Self { source, machine, watcher, wires }
    }

    pub fn begin(&mut self, env: &mut Env) {
        self.source.begin(&mut Io { wires: &mut self.wires, env });
    }

    fn handle(&mut self, env: &mut Env, event: Event) {
        if !self.source.is_over() {
            self.source.handle(event, &mut Io { wires: &mut self.wires, env });
        }
    }

    pub fn command(&mut self, env: &mut Env, command: Command) -> Result<(), MotionError> {
        if self.source.is_over() {
            return Err(MotionError::new(Code::InvalidState, "the motion has ended already"));
        }
        self.source.command(command, &mut Io { wires: &mut self.wires, env })
    }

    /// When something is to be done at the latest.
    pub fn deadline(&self) -> Option<u64> {
        let wires = &self.wires;
        let calls = wires.calls.iter().map(|call| call.until);
        let senders = wires.senders.iter().filter_map(Senders::deadline);
        let inbox = wires.inbox.front().map(|(at, _)| *at);
        let own = self.source.deadline().map(|at| at.0);
        calls.chain(senders).chain(inbox).chain(own).min()
    }

    /// Does one thing that is due.
    pub fn wake(&mut self, env: &mut Env) {
        let now = env.now;
        if self.wires.inbox.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, inner)) = self.wires.inbox.pop_front() {
                self.take(env, inner);
            }
            return;
        }
        if let Some(at) = self.wires.calls.iter().position(|call| call.until <= now) {
            let call = self.wires.calls.swap_remove(at);
            let outcome = call.timed_out();
            self.wires.finish(env, &call, outcome);
            return;
        }
        if let Some(senders) = &mut self.wires.senders
            && senders.deadline().is_some_and(|at| at <= now)
        {
            let (machine, stall) = (&*self.wires.machine, self.wires.caller.stall);
            if let Some(event) = senders.step(env, machine, &mut self.wires.pacer, stall) {
                self.wires.post(env, Inner::Event(event));
            }
            return;
        }
        self.handle(env, Event::Tick);
    }

    fn take(&mut self, env: &mut Env, inner: Inner) {
        if self.source.is_over() {
            let late = match inner {
                Inner::Event(_) => Vec::new(),
                Inner::Control { conn, .. } => vec![conn],
                Inner::Data(conns) => conns,
            };
            for conn in late {
                env.net.close(&mut env.rng, conn, End::Dialler, env.now);
            }
            return;
        }
        match inner {
            Inner::Event(event) => self.handle(env, event),
            Inner::Control { conn, reader, clock_ahead, round_trip } => {
                self.wires.control = Some((conn, reader));
                // The other one was read at some time in between.
                self.wires.clocks_apart = clock_ahead.unsigned_abs().saturating_sub(round_trip / 2);
                let round_trip = Duration::from_nanos(round_trip);
                self.handle(env, Event::Welcomed { clock_ahead, round_trip });
            }
            Inner::Data(conns) => {
                self.wires.senders = Some(Senders::new(conns));
                self.handle(env, Event::Joined);
            }
        }
        if self.source.is_over() {
            self.wires.leave(env);
        }
    }

    /// Something arrived on a connection; false when it is none of this motion's.
    pub fn deliver(&mut self, env: &mut Env, conn: ConnId, piece: &Piece) -> bool {
        if let Some(at) = self.wires.calls.iter().position(|call| call.is_on(conn)) {
            let caller = self.wires.caller;
            if let Some(outcome) = self.wires.calls[at].deliver(env, &caller, piece) {
                let call = self.wires.calls.swap_remove(at);
                self.wires.finish(env, &call, outcome);
            }
            return true;
        }
        if self.wires.control.as_ref().is_none_or(|(control, _)| *control != conn) {
            return false;
        }
        self.read(env, piece);
        true
    }

    /// What the coordinator does when the control connection can be read.
    fn read(&mut self, env: &mut Env, piece: &Piece) {
        let mut piece = Some(piece);
        let error = loop {
            let Some((_, reader)) = &mut self.wires.control else { return };
            let fed = match piece.take() {
                Some(Piece::Bytes(bytes)) => reader.feed(bytes),
                Some(Piece::Closed) => Err(reader.end(false)),
                Some(_) => Err(reader.end(true)),
                None => Ok(()),
            };
            match fed.and_then(|()| reader.message()) {
                Ok(None) => return,
                Ok(Some(message)) => {
                    env.book.note(|| {
                        format!("p{} source hears {}", self.wires.life.pid, brief(&message))
                    });
                    self.handle(env, Event::Message(message));
                }
                Err(error) => break error,
            }
        };
        self.wires.drop_control(env);
        let error = MotionError::link("the control connection to the destination", &error);
        self.handle(env, Event::Lost(error));
    }

    /// Whether it could still run the guest by itself: the permit is in the handover.
    pub fn offers(&self) -> bool {
        let entered = |fate: &Arc<Fate>| fate.outcome() == Became::Entered;
        self.machine.is_surrendered()
            && !self.wires.fate.as_ref().is_some_and(entered)
            && !matches!(
                self.source.phase(),
                Phase::AwaitingRunning | Phase::Undecided | Phase::Settling | Phase::Ended
            )
    }

    pub fn is_undecided(&self) -> bool {
        matches!(self.source.phase(), Phase::AwaitingRunning | Phase::Undecided)
    }

    pub fn status(&self) -> Status {
        self.source.report().status.0
    }
}

/// A message without its contents.
pub fn brief(message: &wire::Message) -> String {
    match message {
        wire::Message::Describe(_) => "Describe".into(),
        wire::Message::State(_) => "State".into(),
        other => format!("{other:?}").chars().take(90).collect(),
    }
}

impl Wires {
    fn post(&mut self, env: &mut Env, inner: Inner) {
        // A thread has to be woken.
        let at = env.now + env.rng.below(50 * MICROSECOND);
        let at = self.inbox.back().map_or(at, |(last, _)| at.max(*last));
        self.inbox.push_back((at, inner));
    }

    fn finish(&mut self, env: &mut Env, call: &Call, outcome: Outcome) {
        let asked = matches!(call.purpose, Purpose::Ask(_));
        let pid = self.life.pid;
        let inner = match outcome {
            Outcome::Control { conn, reader, clock_ahead, round_trip } => {
                Inner::Control { conn, reader, clock_ahead, round_trip }
            }
            Outcome::Joined(conns) => Inner::Data(conns),
            Outcome::Told(message) => {
                env.book.note(|| format!("p{pid} source is told {:?}", message.word));
                call.hang_up(env, env.now);
                Inner::Event(Event::Told(message))
            }
            Outcome::Failed(error) => {
                env.book.note(|| format!("p{pid} {:?} failed: {error}", call.purpose));
                call.hang_up(env, env.now);
                Inner::Event(if asked { Event::NotAsked } else { Event::Lost(error) })
            }
        };
        self.post(env, inner);
    }

    fn drop_control(&mut self, env: &mut Env) {
        if let Some((conn, _)) = self.control.take() {
            env.net.close(&mut env.rng, conn, End::Dialler, env.now + self.life.ahead());
        }
    }

    /// The motion is over: only questions are still put.
    fn leave(&mut self, env: &mut Env) {
        let (asks, rest) = std::mem::take(&mut self.calls)
            .into_iter()
            .partition(|call| matches!(call.purpose, Purpose::Ask(_)));
        self.calls = asks;
        for call in rest {
            let _: () = Call::hang_up(&call, env, env.now);
        }
    }

    /// Writes to the control connection; waits, as a blocking write does, where the kernel would
    /// take no more.
    fn write(&mut self, env: &mut Env, bytes: Vec<u8>) -> Result<(), MotionError> {
        let Some((conn, _)) = &self.control else {
            return Err(MotionError::new(Code::LinkLost, "there is no control connection"));
        };
        let conn = *conn;
        let sending = |e| MotionError::sending("sending to the destination", e);
        let now = env.now + self.life.ahead();
        let drained = env.net.drained_at(conn, End::Dialler, WINDOW);
        let longest = (now + self.caller.stall).min(self.send_by.unwrap_or(u64::MAX));
        if drained > longest {
            self.life.takes(longest.saturating_sub(now));
            return Err(sending(std::io::ErrorKind::TimedOut.into()));
        }
        self.life.takes(drained.saturating_sub(now));
        let now = env.now + self.life.ahead();
        if !self.life.acts() {
            return Ok(());
        }
        env.net.write(&mut env.rng, conn, End::Dialler, now, bytes).map_err(sending)
    }

    /// What must be on record before it may be said.
    fn says(&mut self, env: &Env, message: Message) {
        use motion::handover::{Decision, Role};
        if self.life.is_dead() {
            return;
        }
        if message.word == Word::Commit {
            self.committed_at.get_or_insert(env.now + self.life.ahead());
        }
        if self.fate.is_some() {
            return;
        }
        let disk = &env.disks[self.life.host];
        let must: &[Decision] = match message.word {
            Word::Commit => &[Decision::Open, Decision::Committed],
            Word::Abort => &[Decision::Refused],
            _ => return,
        };
        env.book.check(disk.has(message.token, Role::Source, must), || {
            let record = disk.decision(message.token, Role::Source);
            format!("{:?} was said, and {record:?} is on record", message.word)
        });
    }
}

/// What the engine's decisions lead to.
struct Io<'a> {
    wires: &'a mut Wires,
    env: &'a mut Env,
}

impl SourceIo for Io<'_> {
    fn now(&self) -> Moment {
        Moment(self.env.now + self.wires.life.ahead())
    }

    fn dial(&mut self) {
        let now = self.now().0;
        let call = Call::new(self.env, &self.wires.caller, Purpose::Control, now);
        self.wires.calls.push(call);
    }

    fn join(&mut self, count: u16) {
        let now = self.now().0;
        let call = Call::new(self.env, &self.wires.caller, Purpose::Data(count, Vec::new()), now);
        self.wires.calls.push(call);
    }

    fn send(&mut self, message: &wire::Message) -> Result<(), MotionError> {
        if let Some(about) = from_wire(message) {
            self.wires.says(self.env, about);
        }
        let pid = self.wires.life.pid;
        self.env.book.note(|| format!("p{pid} source says {}", brief(message)));
        self.wires.write(self.env, message.encode())
    }

    fn send_by(&mut self, moment: Option<Moment>) {
        self.wires.send_by = moment.map(|moment| moment.0);
    }

    fn send_pass(&mut self, pass: &Pass) -> Result<(), MotionError> {
        let machine = self.wires.machine.clone();
        let mut sender = std::mem::take(&mut self.wires.inline);
        while let Some(chunk) = pass.claim() {
            let (mut bytes, mut waited) = (Vec::new(), 0);
            let now = self.now();
            let pacer = &mut self.wires.pacer;
            let by = self.wires.send_by.map_or(u64::MAX, |by| by - now.0.min(by));
            let mut pace = |sent| {
                let wait = nanos(pacer.grant(sent, Moment(now.0 + waited)));
                // The first write after the time is up fails.
                waited = (waited + wait).min(by.max(waited));
                pacer.piece(motion::ram::PIECE_PAGES)
            };
            let sent = sender
                .send_chunk(&*machine, pass, chunk, &mut pace, &mut bytes)
                .map_err(crate::senders::send_error)?;
            self.wires.life.takes(waited);
            pass.count(sent);
            self.wires.sent += sent.bytes;
            self.wires.write(self.env, bytes)?;
        }
        self.wires.inline = sender;
        let totals = pass.totals();
        let end =
            wire::PassEnd { pass: pass.number(), data_pages: totals.data, zero_pages: totals.zero };
        self.send(&wire::Message::PassEnd(end))
    }

    fn start_pass(&mut self, pass: &Arc<Pass>) {
        let now = self.now().0;
        if let Some(senders) = &mut self.wires.senders {
            senders.start(self.env, pass, now);
        }
    }

    fn ask(&mut self, message: Message) {
        if !self.wires.life.acts() {
            return;
        }
        self.wires.says(self.env, message);
        let pid = self.wires.life.pid;
        self.env.book.note(|| format!("p{pid} source asks {:?}", to_wire(message).kind()));
        if let Some(fate) = self.wires.fate.clone() {
            if !matches!(message.word, Word::Answer(_)) {
                let told = message.token.says(Word::Answer(fate.settle()));
                self.wires.post(self.env, Inner::Event(Event::Told(told)));
            }
            return;
        }
        let now = self.now().0;
        // A question may reach the other side twice, far apart.
        for _ in 0..if self.env.rng.chance(10) { 2 } else { 1 } {
            let late = if self.env.rng.chance(20) { self.env.rng.below(1 << 31) } else { 0 };
            let call = Call::new(self.env, &self.wires.caller, Purpose::Ask(message), now + late);
            self.wires.calls.push(call);
        }
    }

    fn set_bandwidth(&mut self, limit: Option<NonZeroU64>) {
        let now = self.now();
        self.wires.pacer.set_limit(limit, now);
    }

    fn set_stall(&mut self, limit: Duration) {
        self.wires.caller.stall = nanos(limit);
    }

    fn stop_workers(&mut self) {
        let now = self.now().0;
        if let Some(senders) = self.wires.senders.take() {
            self.wires.sent += senders.sent();
            senders.stop(self.env, now);
        }
    }

    fn hang_up(&mut self) {
        self.stop_workers();
        self.wires.drop_control(self.env);
    }

    fn fate(&self) -> Option<&Fate> {
        // Who is dead asks nothing, and decides nothing.
        self.wires.fate.as_deref().filter(|_| self.wires.life.acts())
    }
}
