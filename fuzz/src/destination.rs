//! A destination, and the bytes of a hostile source: one input is a whole conversation, with all its
//! connections, in which anything may come at any time.

use crate::allocation;
use crate::input::Input;
use crate::messages;
use crate::stage::{Builder, Quiet};
use motion::clock::Moment;
use motion::destination::{
    Admission, AsRam, Command, Destination, DestinationIo, Event, Phase, Question,
};
use motion::handover::words::from_wire;
use motion::handover::{self, MemoryJournal, Side, Token, Word};
use motion::ram::receive::{Received, Receiver};
use motion::{DestinationOptions, MotionError};
use state::Code;
use std::sync::Arc;
use std::time::Duration;
use wire::{Content, Inbox, Item, Message, PagesHeader, Run};

/// Far more than any destination needs to come to rest when nobody says anything any more.
const MOST_TICKS: usize = 50;

/// Plays one conversation, and then silence.
///
/// # Panics
/// When a promise is broken: the guest runs without the source's word or an operator's, twice, or
/// without its state; what may be its only copy is dropped unasked; or the destination neither rests
/// nor waits for a decision in the end.
pub fn run(data: &[u8]) {
    allocation::bounded(data.len(), || {
        let mut input = Input::new(data);
        let mut play = Play::new(&mut input);
        while !input.is_empty() && !play.destination.is_over() {
            play.step(&mut input);
            play.check();
        }
        play.silence();
    });
}

/// The connections of a destination, without any.
#[derive(Default)]
struct Io {
    now: u64,
    control: bool,
    /// Whatever is sent is lost, with the connection.
    broken: bool,
    ram: Option<Arc<dyn AsRam>>,
    /// READY was said in the motion under way.
    said_ready: bool,
}

impl DestinationIo for Io {
    fn now(&self) -> Moment {
        Moment(self.now)
    }

    fn send(&mut self, message: &Message) -> Result<(), MotionError> {
        // Whatever it says can be said on the wire.
        let _ = message.encode();
        // Also if it does not get there: it may have.
        self.said_ready |= matches!(message, Message::Ready(_));
        if !self.control || self.broken {
            return Err(MotionError::new(Code::LinkLost, "the connection is gone"));
        }
        Ok(())
    }

    fn answer(&mut self, _: Question, message: &Message) {
        let _ = message.encode();
    }

    fn receive_into(&mut self, ram: Arc<dyn AsRam>) {
        self.ram = Some(ram);
    }

    fn received(&self) -> u64 {
        0
    }

    fn hang_up(&mut self) {
        self.control = false;
        self.ram = None;
    }
}

struct Play {
    destination: Destination,
    builder: Arc<Builder>,
    io: Io,
    frames: Inbox,
    /// Data connections that were admitted, by number.
    receivers: Vec<(u16, Receiver)>,
    motion: u64,
    /// The source, or an operator, has given the guest of the motion under way to this side.
    given: bool,
    /// The source has asked for it or taken it back, an operator gave it to the source, or it was held
    /// and need not be for ever.
    released: bool,
    /// There is a limit to holding.
    may_give_up: bool,
}

impl Play {
    fn new(input: &mut Input<'_>) -> Self {
        let options = DestinationOptions {
            name: "fuzz".to_owned(),
            keep_waiting: input.flag(),
            hold: input.flag().then_some(Duration::from_secs(1)),
            ..DestinationOptions::default()
        };
        let may_give_up = options.hold.is_some();
        let mut journal = MemoryJournal::default();
        journal.failures = u32::from(input.byte().saturating_sub(250));
        let builder = Arc::new(Builder::default());
        Self {
            destination: Destination::new(
                builder.clone(),
                options,
                Box::new(journal),
                Arc::new(Quiet),
                || 1,
            ),
            builder,
            io: Io::default(),
            frames: Inbox::new(),
            receivers: Vec::new(),
            motion: 0,
            given: false,
            released: false,
            may_give_up,
        }
    }

    fn handle(&mut self, event: Event) {
        let word = match &event {
            Event::Message(message) => from_wire(message),
            Event::Asked(_, message) => Some(*message),
            _ => None,
        };
        self.released |= self.may_give_up && self.destination.phase() == Phase::Holding;
        // Before READY nothing is given or taken back by it, and after a refusal it comes too late.
        if let Some(message) = word.filter(|message| self.is_about(*message) && self.in_doubt()) {
            match message.word {
                Word::Commit => self.given = true,
                Word::Query | Word::Abort => self.released = true,
                _ => {}
            }
        }
        self.destination.handle(event, &mut self.io);
    }

    /// Whether it is said of the motion under way.
    fn is_about(&self, message: handover::Message) -> bool {
        self.destination.report().token == message.token.to_string()
    }

    /// Whether the only copy of the guest may be here.
    fn in_doubt(&self) -> bool {
        matches!(self.destination.phase(), Phase::Ready | Phase::Holding)
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0 => self.feed(input.bytes()),
            1..=4 => self.feed(&messages::message(input).encode()),
            5 | 6 => self.feed(&pages(input)),
            7 => self.greet(input),
            8 | 9 => self.data(input),
            10 => {
                let question = Question(u64::from(input.byte() % 3));
                self.handle(Event::Asked(question, messages::handover(input)));
            }
            11 => {
                self.io.now += u64::from(input.short()) * 1_000_000;
                self.handle(Event::Tick);
            }
            12 => self.lose("it was to be lost"),
            13 => {
                let error = MotionError::new(Code::LinkLost, "a data connection was to be lost");
                self.handle(Event::DataLost(error));
            }
            14 => self.command(input),
            _ => self.io.broken = input.byte() > 128,
        }
    }

    fn command(&mut self, input: &mut Input<'_>) {
        let command = match input.byte() % 5 {
            0 => Command::Cancel,
            n => Command::Resolve {
                token: self.destination.report().token.parse().unwrap_or(Token([0; 16])),
                owner: if n & 1 == 0 { Side::Here } else { Side::Peer },
                fenced: n > 2,
            },
        };
        if let Command::Resolve { owner, fenced: true, .. } = command
            && self.in_doubt()
        {
            self.given |= owner == Side::Here;
            self.released |= owner == Side::Peer;
        }
        let _ = self.destination.command(command, &mut self.io);
    }

    /// A connection is made and says hello.
    fn greet(&mut self, input: &mut Input<'_>) {
        let hello = messages::hello(input);
        let Ok(welcome) = hello.answer(0) else { return };
        let _ = Message::Welcome(welcome).encode();
        let now = self.io.now();
        match self.destination.admit(&hello, "tcp:192.0.2.1:1", now) {
            Admission::Control => {
                assert!(!self.io.control, "a second source was let in beside the first");
                self.io.control = true;
                self.io.broken = false;
                self.io.said_ready = false;
                (self.given, self.released) = (false, false);
                self.motion += 1;
                self.receivers.clear();
                self.frames = Inbox::new();
            }
            Admission::Data => {
                assert!(self.io.ram.is_some(), "pages were let in before there was RAM");
                self.receivers.push((hello.index, Receiver::default()));
            }
            Admission::Question | Admission::Refused(_) => {}
        }
    }

    /// Bytes come over the control connection.
    fn feed(&mut self, bytes: &[u8]) {
        if !self.io.control {
            return;
        }
        let motion = self.motion;
        let allow = |play: &mut Self| {
            if let Some(ram) = &play.io.ram {
                play.frames.allow_pages(ram.as_ram().pages());
            }
        };
        allow(self);
        self.frames.feed(bytes);
        while self.io.control && motion == self.motion {
            match self.frames.next_item() {
                Ok(None) => {
                    if !self.frames.is_empty() {
                        self.handle(Event::Heard);
                    }
                    return;
                }
                Ok(Some(Item::Message(message))) => self.handle(Event::Message(message)),
                Ok(Some(Item::Pages(header, contents))) => {
                    self.handle(Event::Pages(header, contents));
                }
                Err(error) => {
                    let error = MotionError::link("the control connection", &error);
                    self.handle(Event::Lost(error));
                    return;
                }
            }
            allow(self);
        }
    }

    /// Bytes come over a data connection.
    fn data(&mut self, input: &mut Input<'_>) {
        let which = usize::from(input.byte());
        let bytes = match input.byte() % 4 {
            0 => input.bytes().to_vec(),
            1 => Message::PassEnd(messages::pass_end(input)).encode(),
            _ => pages(input),
        };
        let (Some(ram), false) = (self.io.ram.clone(), self.receivers.is_empty()) else { return };
        let which = which % self.receivers.len();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (index, receiver) = &mut self.receivers[which];
            match receiver.receive(ram.as_ram(), &mut rest) {
                Ok(Received::Pages(_)) => {}
                Ok(Received::PassEnd(end)) => {
                    let index = *index;
                    self.handle(Event::PassEnd(index, end));
                }
                Err(error) => {
                    let error = MotionError::new(Code::ProtocolError, error.to_string());
                    self.handle(Event::DataLost(error));
                    return;
                }
            }
            if self.io.ram.is_none() {
                return;
            }
        }
    }

    fn lose(&mut self, why: &str) {
        if self.io.control {
            self.io.control = false;
            self.handle(Event::Lost(MotionError::new(Code::LinkLost, why)));
        }
    }

    fn check(&self) {
        let (phase, said) = (self.destination.phase(), self.destination.progress());
        assert_eq!(said.in_doubt.is_some(), self.in_doubt(), "doubt, in {phase:?}");
        let holds = phase == Phase::Holding;
        assert_eq!(said.undecided.is_some(), holds, "what it waits for, in {phase:?}");
        let Some(machine) = self.builder.machine() else {
            let kept = !self.io.said_ready || self.released;
            assert!(kept, "what may be the only copy was dropped");
            return;
        };
        assert!(machine.permits() <= 1, "the guest was given to this side twice");
        if machine.has_permit() {
            assert!(self.given, "the guest runs here and nobody has said so");
            assert!(machine.is_restored(), "the guest runs without its state");
            assert!(matches!(phase, Phase::Owner | Phase::Ended), "an owner in {phase:?}");
        }
        assert!(!self.io.said_ready || machine.is_restored(), "READY was said too early");
    }

    /// Nothing comes any more. Whoever neither has a guest nor holds one comes to rest, or has refused one and
    /// stays for as long as its source may ask.
    fn silence(&mut self) {
        for _ in 0..MOST_TICKS {
            let Some(deadline) = self.destination.deadline() else { break };
            self.io.now = self.io.now.max(deadline.0);
            self.handle(Event::Tick);
            self.check();
        }
        let phase = self.destination.phase();
        let refused = self.destination.progress().handover.as_ref();
        let refused = refused.is_some_and(|handover| handover.phase == "refused");
        let rests = match phase {
            Phase::Waiting | Phase::Holding | Phase::Owner | Phase::Ended => true,
            Phase::Failed => refused,
            _ => false,
        };
        assert!(rests, "a silent source keeps it in {phase:?}");
    }
}

/// A frame of pages with their contents, or with fewer.
fn pages(input: &mut Input<'_>) -> Vec<u8> {
    let mut header = PagesHeader { pass: input.number32(), runs: Vec::new() };
    for _ in 0..input.byte() % 4 {
        let (start, count) = match input.byte() % 4 {
            0 => (input.number(), u64::from(input.number32())),
            _ => (u64::from(input.short() % 4096), u64::from(input.byte() % 4) + 1),
        };
        let content = if input.flag() { Content::Zero } else { Content::Data };
        header.runs.push(Run { range: memory::PageRange::new(start, count), content });
    }
    let mut frame = Vec::new();
    header.encode_into(&mut frame);
    let contents = usize::try_from(header.data_pages().min(16) * 4096).expect("64 KiB at most");
    frame.resize(frame.len() + contents, input.byte());
    frame
}
