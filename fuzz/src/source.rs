//! A source, and the bytes of a hostile destination: one input is a whole conversation, in which
//! anything may come at any time.

use crate::allocation;
use crate::input::Input;
use crate::messages::{self, MACHINE, SESSION, TOKEN};
use crate::stage::{Quiet, Stage};
use motion::clock::Moment;
use motion::handover::{self, MemoryJournal, Particulars, Side, Verdict, Word};
use motion::ram::Pass;
use motion::ram::send::Sender;
use motion::source::{Command, Event, Phase, Source, SourceIo};
use motion::{Blackout, Machine, MotionError, SourceOptions, TimeoutAction};
use state::Code;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;
use wire::{Inbox, Item, Message};

/// Far more than any source needs to come to rest when nobody says anything any more.
const MOST_TICKS: usize = 400;

/// Plays one conversation, then cancels or not, and then there is silence.
///
/// # Panics
/// When a promise is broken: the guest runs here after COMMIT and without `refused` or an operator's
/// word, or does not run here although COMMIT was never said, or the motion does not end.
pub fn run(data: &[u8]) {
    allocation::bounded(data.len(), || {
        let mut input = Input::new(data);
        let mut play = Play::new(&mut input);
        let cancel = input.flag();
        play.source.begin(&mut play.io);
        while !input.is_empty() && !play.source.is_over() {
            play.step(&mut input);
            play.check();
        }
        if cancel {
            play.cancel();
        }
        play.silence();
    });
}

/// The connections of a source, without any.
#[derive(Default)]
struct Io {
    now: u64,
    machine: Option<Arc<Stage>>,
    dialled: bool,
    joining: bool,
    control: bool,
    broken: bool,
    pass: Option<Arc<Pass>>,
    questions: u32,
    /// COMMIT was said, or may have been.
    committed: bool,
    state_sent: bool,
    sender: Sender,
}

impl Io {
    fn note(&mut self, message: &Message) {
        self.committed |= matches!(message, Message::Commit(_));
        self.state_sent |= matches!(message, Message::State(_));
    }
}

impl SourceIo for Io {
    fn now(&self) -> Moment {
        Moment(self.now)
    }

    fn dial(&mut self) {
        self.dialled = true;
    }

    fn join(&mut self, _: u16) {
        self.joining = true;
    }

    fn send(&mut self, message: &Message) -> Result<(), MotionError> {
        let _ = message.encode();
        self.note(message);
        if self.control && !self.broken {
            Ok(())
        } else {
            Err(MotionError::new(Code::LinkLost, "the connection is gone"))
        }
    }

    fn send_by(&mut self, _: Option<Moment>) {}

    fn send_pass(&mut self, pass: &Pass) -> Result<(), MotionError> {
        let machine = self.machine.as_ref().expect("a motion has a machine");
        while let Some(chunk) = pass.claim() {
            let sent = self
                .sender
                .send_chunk(&**machine, pass, chunk, &mut |_| 64, &mut std::io::sink())
                .expect("nothing fails here");
            pass.count(sent);
        }
        Ok(())
    }

    fn start_pass(&mut self, pass: &Arc<Pass>) {
        self.pass = Some(pass.clone());
    }

    fn ask(&mut self, message: handover::Message) {
        self.committed |= message.word == Word::Commit;
        self.questions += 1;
    }

    fn set_bandwidth(&mut self, _: Option<NonZeroU64>) {}

    fn stop_workers(&mut self) {
        self.pass = None;
    }

    fn hang_up(&mut self) {
        self.pass = None;
        self.control = false;
    }
}

struct Play {
    source: Source,
    machine: Arc<Stage>,
    io: Io,
    frames: Inbox,
    /// The destination has refused the guest, or an operator gave it to this side.
    given_back: bool,
    /// The destination has the state and claims the guest: somebody may have promoted it.
    conceded: bool,
    guest_gone: bool,
}

impl Play {
    fn new(input: &mut Input<'_>) -> Self {
        let machine = Stage::booted();
        let options = SourceOptions {
            blackout: match input.byte() % 3 {
                0 => Blackout::Limit(Duration::from_millis(300)),
                1 => Blackout::Limit(Duration::from_millis(u64::from(input.byte()))),
                _ => Blackout::Unlimited,
            },
            frozen: input.byte() > 200,
            check_only: input.byte() > 240,
            pause_before_switchover: input.byte() > 200,
            timeout: input.flag().then_some(Duration::from_secs(9)),
            timeout_action: if input.flag() {
                TimeoutAction::Switch
            } else {
                TimeoutAction::Cancel
            },
            ..SourceOptions::default()
        };
        let mut journal = MemoryJournal::default();
        journal.failures = u32::from(input.byte().saturating_sub(250));
        let uuid = Uuid::from_bytes(MACHINE);
        let particulars = Particulars::new(TOKEN, uuid, "fuzz", "tcp:192.0.2.1:1", 1)
            .expect("the texts are short");
        let source = Source::new(
            machine.clone(),
            particulars,
            options,
            SESSION,
            Box::new(journal),
            Arc::new(Quiet),
        );
        let io = Io { machine: Some(machine.clone()), ..Io::default() };
        Self {
            source,
            machine,
            io,
            frames: Inbox::new(),
            given_back: false,
            conceded: false,
            guest_gone: false,
        }
    }

    fn handle(&mut self, event: Event) {
        if !self.source.is_over() {
            self.source.handle(event, &mut self.io);
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0 => self.feed(input.bytes()),
            1..=6 => self.feed(&messages::message(input).encode()),
            7 => self.welcome(input),
            8 if std::mem::take(&mut self.io.joining) => self.handle(Event::Joined),
            9 => self.send_pass(),
            10 if self.io.questions > 0 => {
                self.io.questions -= 1;
                let message = messages::handover(input);
                let refused = Word::Answer(Verdict::Refused);
                self.given_back |= message.word == refused && message.token == TOKEN;
                self.conceded |= self.io.state_sent
                    && message.token == TOKEN
                    && matches!(message.word, Word::Running | Word::Answer(Verdict::Committed));
                self.handle(Event::Told(message));
            }
            11 => {
                self.io.now += u64::from(input.short()) * 1_000_000;
                self.handle(Event::Tick);
            }
            12 => {
                let code = if input.flag() { Code::LinkLost } else { Code::LinkStalled };
                self.lose(MotionError::new(code, "it was to be lost"));
            }
            13 => self.command(input),
            14 => self.io.broken = input.byte() > 128,
            15 if self.io.questions > 0 => {
                self.io.questions -= 1;
                self.handle(Event::NotAsked);
            }
            _ => self.handle(Event::Tick),
        }
    }

    fn welcome(&mut self, input: &mut Input<'_>) {
        if !std::mem::take(&mut self.io.dialled) {
            return;
        }
        if input.byte() > 240 {
            let refusals = messages::refusals(input);
            return self.handle(Event::Refused(refusals));
        }
        self.io.control = true;
        let clock_ahead =
            if input.byte() > 200 { input.number().cast_signed() } else { i64::from(input.byte()) };
        let round_trip = Duration::from_micros(u64::from(input.short()));
        self.handle(Event::Welcomed { clock_ahead, round_trip });
    }

    fn send_pass(&mut self) {
        let Some(pass) = self.io.pass.take() else { return };
        self.io.send_pass(&pass).expect("nothing fails here");
        self.handle(Event::PassSent);
    }

    fn command(&mut self, input: &mut Input<'_>) {
        let command = match input.byte() % 8 {
            0 => return self.cancel(),
            1 => Command::Proceed,
            2 => Command::SetBlackout(Blackout::Unlimited),
            3 => Command::SetBlackout(Blackout::Limit(Duration::from_millis(input.number()))),
            4 => Command::SetBandwidth(NonZeroU64::new(input.number())),
            5 => Command::Resolve {
                owner: if input.flag() { Side::Here } else { Side::Peer },
                fenced: input.flag(),
            },
            6 => Command::Ask,
            _ => {
                self.guest_gone = true;
                Command::GuestGone
            }
        };
        let fenced = matches!(command, Command::Resolve { owner: Side::Here, fenced: true });
        self.given_back |= fenced;
        let _ = self.source.command(command, &mut self.io);
    }

    /// Whoever wants the motion to end is obeyed at once, or told that it is too late.
    fn cancel(&mut self) {
        let result = self.source.command(Command::Cancel, &mut self.io);
        if !self.io.committed && !self.conceded {
            assert!(self.source.has_ended(), "cancelled, it is in {:?}", self.source.phase());
            assert!(self.machine.has_permit(), "cancelled, and the guest is nowhere");
        } else if self.source.phase() == Phase::Undecided {
            let code = result.expect_err("COMMIT is said").code;
            assert_eq!(code, Code::TooLate);
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if !self.io.control {
            return;
        }
        self.frames.feed(bytes);
        while self.io.control {
            match self.frames.next_item() {
                Ok(None) => return,
                Ok(Some(Item::Message(message))) => {
                    let refused = Message::Answer(TOKEN.0, wire::Verdict::Refused);
                    self.given_back |= message == refused;
                    let claimed = match &message {
                        Message::Running(running) => running.token == TOKEN.0,
                        Message::Answer(token, wire::Verdict::Committed) => *token == TOKEN.0,
                        _ => false,
                    };
                    self.conceded |= self.io.state_sent && claimed;
                    self.handle(Event::Message(message));
                }
                Ok(Some(Item::Pages(..))) => unreachable!("no pages are allowed"),
                Err(error) => {
                    let error = MotionError::link("the control connection", &error);
                    return self.lose(error);
                }
            }
        }
    }

    fn lose(&mut self, error: MotionError) {
        if std::mem::take(&mut self.io.control) {
            self.frames = Inbox::new();
            self.handle(Event::Lost(error));
        }
    }

    fn check(&self) {
        if self.io.committed && !self.given_back {
            assert!(!self.machine.has_permit(), "the guest may run here after COMMIT");
        }
        if self.machine.is_running() {
            assert!(self.machine.has_permit(), "the guest runs without a permit");
        }
        let (phase, said) = (self.source.phase(), self.source.progress());
        let in_doubt = matches!(phase, Phase::AwaitingRunning | Phase::Undecided);
        assert_eq!(said.in_doubt.is_some(), in_doubt, "doubt, in {phase:?}");
        let undecided = phase == Phase::Undecided;
        assert_eq!(said.undecided.is_some(), undecided, "what it waits for, in {phase:?}");
    }

    /// Nothing comes any more. The guest goes on here unless it was given away; who has it is said for as long
    /// as it takes.
    fn silence(&mut self) {
        for _ in 0..MOST_TICKS {
            let Some(deadline) = self.source.deadline() else { break };
            self.io.now = self.io.now.max(deadline.0);
            self.handle(Event::Tick);
            if std::mem::take(&mut self.io.questions) > 0 {
                self.handle(Event::NotAsked);
            }
            self.send_pass();
            self.check();
        }
        let phase = self.source.phase();
        if self.io.committed || self.conceded {
            let rests = matches!(phase, Phase::Ended | Phase::Undecided | Phase::Settling);
            assert!(rests, "after COMMIT a silent destination keeps it in {phase:?}");
        } else {
            let rests = matches!(phase, Phase::Ended | Phase::Settling);
            assert!(rests, "a silent destination keeps it in {phase:?}");
            assert!(self.machine.has_permit(), "COMMIT was never said, and the guest is nowhere");
            let runs = self.machine.is_running();
            assert!(runs || self.guest_gone, "COMMIT was never said, and the guest stands still");
        }
    }
}
