//! A motion at its destination: the engine's `Destination`, and in place of its threads, steps.

use crate::builder::Builder;
use crate::env::{Env, MICROSECOND};
use crate::life::Life;
use crate::machine::SimMachine;
use crate::net::{ConnId, End, Piece, Port};
use crate::reader::{Reader, greeting};
use crate::receivers::{Arrived, Intake};
use crate::source::brief;
use motion::clock::Moment;
use motion::destination::{
    Admission, AsRam, Command, Destination, DestinationIo, Event, Phase, Question,
};
use motion::handover::words::from_wire;
use motion::handover::{Decision, Fate, Role, Token, Verdict, Word};
use motion::{MotionError, handover};
use state::Code;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use wire::{Hello, Item, Message};

/// What reaches the coordinator from other threads.
enum Inner {
    Hello(ConnId, Reader, Hello),
    Asked(Question, handover::Message),
    /// Of which motion, and what.
    Data(u64, Event),
}

pub struct DestinationSide {
    pub destination: Destination,
    pub builder: Arc<Builder>,
    pub port: Port,
    /// It drops what it holds when it has held it for long enough.
    pub gives_up: bool,
    pub wires: Wires,
}

/// The connections and threads of a destination.
pub struct Wires {
    life: Arc<Life>,
    strangers: BTreeMap<ConnId, Reader>,
    control: Option<(ConnId, Reader)>,
    motion: u64,
    ram: Option<Arc<dyn AsRam>>,
    intakes: Vec<Intake>,
    received: u64,
    questions: BTreeMap<Question, (ConnId, Reader)>,
    next_question: u64,
    inbox: VecDeque<(u64, Inner)>,
    /// What is being answered.
    asked: Option<Word>,
    /// The handover under way.
    pub token: Option<Token>,
    /// The source asked about it, or took it back.
    pub source_spoke: bool,
    /// What decides who goes on with the guest, in an update.
    pub fate: Option<Arc<Fate>>,
}

impl DestinationSide {
    pub fn new(
        destination: Destination,
        builder: Arc<Builder>,
        life: Arc<Life>,
        port: Port,
        gives_up: bool,
        fate: Option<Arc<Fate>>,
    ) -> Self {
        let wires = Wires {
            life,
            strangers: BTreeMap::new(),
            control: None,
            motion: 0,
            ram: None,
            intakes: Vec::new(),
            received: 0,
            questions: BTreeMap::new(),
            next_question: 0,
            inbox: VecDeque::new(),
            asked: None,
            token: None,
            source_spoke: false,
            fate,
        };
        Self { destination, builder, port, gives_up, wires }
    }

    pub fn machine(&self) -> Option<Arc<SimMachine>> {
        self.builder.machine()
    }

    /// It has a complete guest that nobody has given it yet.
    pub fn holds(&self) -> bool {
        matches!(self.destination.phase(), Phase::Ready | Phase::Holding)
    }

    pub fn deadline(&self) -> Option<u64> {
        let inbox = self.wires.inbox.front().map(|(at, _)| *at);
        let own = self.destination.deadline().map(|at| at.0);
        inbox.into_iter().chain(own).min()
    }

    /// Does one thing that is due.
    pub fn wake(&mut self, env: &mut Env) {
        if self.wires.inbox.front().is_none_or(|(at, _)| *at > env.now) {
            self.handle(env, Event::Tick);
            return;
        }
        match self.wires.inbox.pop_front().map(|(_, inner)| inner) {
            Some(Inner::Hello(conn, reader, hello)) => self.greet(env, conn, reader, &hello),
            Some(Inner::Asked(question, message)) => self.asked(env, question, message),
            Some(Inner::Data(motion, event)) if motion == self.wires.motion => {
                self.handle(env, event);
            }
            // Of a motion that has ended.
            Some(Inner::Data(..)) | None => {}
        }
    }

    fn asked(&mut self, env: &mut Env, question: Question, message: handover::Message) {
        env.book.note(|| format!("p{} is asked {:?}", self.wires.life.pid, message.word));
        self.wires.asked = Some(message.word);
        self.handle(env, Event::Asked(question, message));
        self.wires.asked = None;
    }

    fn handle(&mut self, env: &mut Env, event: Event) {
        if let Event::Message(message) = &event {
            self.wires.hears(message);
        }
        if let Event::Asked(_, message) = &event
            && self.wires.token == Some(message.token)
            && matches!(message.word, Word::Query | Word::Abort)
        {
            self.wires.source_spoke = true;
        }
        if !self.destination.is_over() {
            self.destination.handle(event, &mut Io { wires: &mut self.wires, env });
        }
    }

    pub fn command(&mut self, env: &mut Env, command: Command) -> Result<(), MotionError> {
        if self.destination.is_over() {
            return Err(MotionError::new(Code::InvalidState, "nothing is waited for any more"));
        }
        self.destination.command(command, &mut Io { wires: &mut self.wires, env })
    }

    /// Whether it still listens.
    pub fn listens(&self) -> bool {
        !self.destination.is_over()
    }

    /// Something arrived on a connection; false when it is none of this destination's.
    pub fn deliver(&mut self, env: &mut Env, conn: ConnId, piece: &Piece) -> bool {
        let wires = &mut self.wires;
        if matches!(piece, Piece::Open) {
            wires.strangers.insert(conn, Reader::default());
        } else if wires.strangers.contains_key(&conn) {
            wires.hear_stranger(env, conn, piece);
        } else if wires.control.as_ref().is_some_and(|(control, _)| *control == conn) {
            self.read(env, piece);
        } else if let Some(at) = wires.intakes.iter().position(|intake| intake.conn == conn) {
            wires.take_pages(env, at, piece);
        } else if let Some((&question, _)) =
            wires.questions.iter().find(|(_, (asker, _))| *asker == conn)
        {
            wires.hear_question(env, question, piece);
        } else {
            return false;
        }
        true
    }

    /// What the coordinator does with a connection that has said hello.
    fn greet(&mut self, env: &mut Env, conn: ConnId, reader: Reader, hello: &Hello) {
        let now = Moment(env.now);
        let (admission, answer) = match hello.answer(0) {
            Ok(welcome) => {
                (self.destination.admit(hello, "the source", now), Message::Welcome(welcome))
            }
            Err(refusals) => (Admission::Refused(refusals), Message::Ping(0)),
        };
        let answer = match &admission {
            Admission::Refused(refusals) => Message::Refused(refusals.clone()),
            _ => answer,
        };
        let (role, index, pid) = (hello.role, hello.index, self.wires.life.pid);
        env.book.note(|| format!("p{pid} greets {role:?} {index}: {:?}", answer.kind()));
        let greeted = env.net.write(&mut env.rng, conn, End::Listener, env.now, greeting(&answer));
        match (greeted, admission) {
            (Err(e), Admission::Control | Admission::Data) => {
                let error = MotionError::sending("greeting a source", e);
                self.handle(env, Event::Lost(error));
            }
            (Ok(()), Admission::Control) => {
                self.wires.motion += 1;
                self.wires.token = None;
                self.wires.source_spoke = false;
                self.wires.control = Some((conn, reader));
                self.read(env, &Piece::Bytes(Vec::new()));
            }
            (Ok(()), Admission::Data) => {
                let (ram, motion) = (self.wires.ram.clone(), self.wires.motion);
                self.wires
                    .intakes
                    .extend(ram.map(|ram| Intake::new(conn, hello.index, motion, ram)));
            }
            (Ok(()), Admission::Question) => {
                let question = Question(self.wires.next_question);
                self.wires.next_question += 1;
                self.wires.questions.insert(question, (conn, reader));
            }
            (_, Admission::Refused(_)) | (Err(_), Admission::Question) => {
                env.net.close(&mut env.rng, conn, End::Listener, env.now);
            }
        }
    }

    /// What the coordinator does when the control connection can be read.
    fn read(&mut self, env: &mut Env, piece: &Piece) {
        if matches!(piece, Piece::Bytes(_)) {
            self.handle(env, Event::Heard);
        }
        let mut piece = Some(piece);
        let error = loop {
            let pages = self.wires.ram.as_ref().map(|ram| ram.as_ram().pages());
            let Some((_, reader)) = &mut self.wires.control else { return };
            if let Some(pages) = pages {
                reader.allow_pages(pages);
            }
            let fed = match piece.take() {
                Some(Piece::Bytes(bytes)) => reader.feed(bytes),
                Some(Piece::Closed) => Err(reader.end(false)),
                Some(_) => Err(reader.end(true)),
                None => Ok(()),
            };
            match fed.and_then(|()| reader.next()) {
                Ok(None) => return,
                Ok(Some(Item::Message(message))) => {
                    let pid = self.wires.life.pid;
                    env.book.note(|| format!("p{pid} destination hears {}", brief(&message)));
                    self.handle(env, Event::Message(message));
                }
                Ok(Some(Item::Pages(header, contents))) => {
                    self.handle(env, Event::Pages(header, contents));
                }
                Err(error) => break error,
            }
        };
        let closed = matches!(error, wire::FrameError::Closed);
        let error = MotionError::link("the control connection from the source", &error);
        if closed || error.code != Code::ProtocolError {
            self.wires.drop_control(env);
        }
        self.handle(env, Event::Lost(error));
    }
}

impl Wires {
    fn post(&mut self, env: &mut Env, inner: Inner) {
        let at = env.now + env.rng.below(50 * MICROSECOND);
        let at = self.inbox.back().map_or(at, |(last, _)| at.max(*last));
        self.inbox.push_back((at, inner));
    }

    fn hears(&mut self, message: &Message) {
        match message {
            Message::Describe(describe) => self.token = Some(Token(describe.token)),
            Message::Abort(token) | Message::Query(token) if self.token == Some(Token(*token)) => {
                self.source_spoke = true;
            }
            _ => {}
        }
    }

    fn hear_stranger(&mut self, env: &mut Env, conn: ConnId, piece: &Piece) {
        let Some(mut reader) = self.strangers.remove(&conn) else { return };
        if let Piece::Bytes(bytes) = piece {
            match reader.feed(bytes).and_then(|()| reader.message()) {
                Ok(None) => {
                    self.strangers.insert(conn, reader);
                    return;
                }
                Ok(Some(Message::Hello(hello))) => {
                    self.post(env, Inner::Hello(conn, reader, hello));
                    return;
                }
                _ => {}
            }
        }
        env.net.close(&mut env.rng, conn, End::Listener, env.now);
    }

    fn hear_question(&mut self, env: &mut Env, question: Question, piece: &Piece) {
        let Some((conn, reader)) = self.questions.get_mut(&question) else { return };
        let conn = *conn;
        if let Piece::Bytes(bytes) = piece
            && let Ok(message) = reader.feed(bytes).and_then(|()| reader.message())
        {
            if let Some(message) = message.and_then(|message| from_wire(&message)) {
                self.post(env, Inner::Asked(question, message));
            }
            return;
        }
        self.questions.remove(&question);
        env.net.close(&mut env.rng, conn, End::Listener, env.now);
    }

    fn take_pages(&mut self, env: &mut Env, at: usize, piece: &Piece) {
        let intake = &mut self.intakes[at];
        let (motion, index) = (intake.motion, intake.index);
        for arrived in intake.feed(piece, env) {
            let event = match arrived {
                Arrived::Pages(bytes) => {
                    self.received += bytes;
                    continue;
                }
                Arrived::PassEnd(end) => Event::PassEnd(index, end),
                Arrived::Lost(error) => Event::DataLost(error),
            };
            self.post(env, Inner::Data(motion, event));
        }
    }

    fn drop_control(&mut self, env: &mut Env) {
        if let Some((conn, _)) = self.control.take() {
            env.net.close(&mut env.rng, conn, End::Listener, env.now + self.life.ahead());
        }
    }

    fn write(&mut self, env: &mut Env, conn: ConnId, message: &Message) -> std::io::Result<()> {
        if !self.life.acts() {
            return Ok(());
        }
        self.says(env, message);
        let now = env.now + self.life.ahead();
        env.net.write(&mut env.rng, conn, End::Listener, now, message.encode())
    }

    /// What must be on record before it may be said.
    fn says(&self, env: &Env, message: &Message) {
        env.book.note(|| format!("p{} destination says {}", self.life.pid, brief(message)));
        let Some(about) = from_wire(message).filter(|_| self.fate.is_none()) else { return };
        let must = match (about.word, self.asked) {
            (Word::Ready, _) => Decision::Open,
            (Word::Running, _) => Decision::Committed,
            (Word::Answer(Verdict::Refused), Some(Word::Query | Word::Commit)) => Decision::Refused,
            _ => return,
        };
        let disk = &env.disks[self.life.host];
        env.book.check(disk.has(about.token, Role::Destination, &[must]), || {
            let record = disk.decision(about.token, Role::Destination);
            format!("{:?} was said, and {record:?} is on record", about.word)
        });
    }
}

/// What the engine's decisions lead to.
struct Io<'a> {
    wires: &'a mut Wires,
    env: &'a mut Env,
}

impl DestinationIo for Io<'_> {
    fn now(&self) -> Moment {
        Moment(self.env.now + self.wires.life.ahead())
    }

    fn send(&mut self, message: &Message) -> Result<(), MotionError> {
        let Some((conn, _)) = &self.wires.control else {
            return Err(MotionError::new(Code::LinkLost, "there is no control connection"));
        };
        let conn = *conn;
        self.wires
            .write(self.env, conn, message)
            .map_err(|e| MotionError::sending("sending to the source", e))
    }

    fn answer(&mut self, question: Question, message: &Message) {
        let Some((conn, _)) = self.wires.questions.get(&question) else { return };
        let conn = *conn;
        // Whoever asked may have gone.
        let _ = self.wires.write(self.env, conn, message);
    }

    fn receive_into(&mut self, ram: Arc<dyn AsRam>) {
        self.wires.received = 0;
        self.wires.ram = Some(ram);
    }

    fn received(&self) -> u64 {
        self.wires.received
    }

    fn hang_up(&mut self) {
        let now = self.now().0;
        for intake in self.wires.intakes.drain(..) {
            self.env.net.close(&mut self.env.rng, intake.conn, End::Listener, now);
        }
        self.wires.ram = None;
        self.wires.drop_control(self.env);
    }

    fn fate(&self) -> Option<&Fate> {
        // Who is dead asks nothing, and decides nothing.
        self.wires.fate.as_deref().filter(|_| self.wires.life.acts())
    }
}
