//! A source and what a destination says to it, without threads and sockets: what no honest peer, or
//! hardly ever one, would say.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

extern crate whimbrel_motion as motion;

mod simulated;

use motion::clock::Moment;
use motion::handover::{self, MemoryJournal, Particulars, Token, Verdict, Word};
use motion::ram::Pass;
use motion::source::{Command, Event, Phase, Source, SourceIo};
use motion::{Machine, MotionError, SourceMachine, SourceOptions, Status};
use simulated::{Notes, Simulated};
use state::Code;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use wire::{Message, Ready};

const TOKEN: Token = Token([7; 16]);

/// Notes what is said, and to whom nothing is lost.
#[derive(Default)]
struct Io {
    now: Moment,
    said: Vec<Message>,
    asked: Vec<Word>,
    /// How the log of writes was told to be, where that takes long.
    log: Option<Vec<bool>>,
}

impl SourceIo for Io {
    fn now(&self) -> Moment {
        self.now
    }
    fn dial(&mut self) {}
    fn join(&mut self, _: u16) {}
    fn log(
        &mut self,
        machine: &Arc<dyn SourceMachine>,
        on: bool,
    ) -> Option<Result<(), MotionError>> {
        let log = machine.dirty_log();
        if on { log.start() } else { log.stop() }.unwrap();
        match &mut self.log {
            None => Some(Ok(())),
            Some(told) => {
                told.push(on);
                None
            }
        }
    }
    fn send(&mut self, message: &Message) -> Result<(), MotionError> {
        self.said.push(message.clone());
        Ok(())
    }
    fn send_by(&mut self, _: Option<Moment>) {}
    fn send_pass(&mut self, _: &Pass) -> Result<(), MotionError> {
        Ok(())
    }
    fn start_pass(&mut self, _: &Arc<Pass>) {}
    fn ask(&mut self, message: handover::Message) {
        self.asked.push(message.word);
    }
    fn set_bandwidth(&mut self, _: Option<NonZeroU64>) {}
    fn stop_workers(&mut self) {}
    fn hang_up(&mut self) {}
}

/// A source that has not begun, of a guest that stands still for it.
fn source(machine: &Arc<Simulated>) -> Source {
    source_of(machine, SourceOptions { frozen: true, ..SourceOptions::default() })
}

fn source_of(machine: &Arc<Simulated>, options: SourceOptions) -> Source {
    let machine_name = uuid::Uuid::from_bytes([5; 16]);
    let particulars = Particulars::new(TOKEN, machine_name, "m", "far", 0).unwrap();
    let journal = Box::new(MemoryJournal::default());
    let notes = Arc::new(Notes::default());
    Source::new(machine.clone(), particulars, options, [1; 16], journal, notes)
}

/// A source that waits for READY.
fn offered(machine: &Arc<Simulated>, io: &mut Io) -> Source {
    let mut source = source(machine);
    source.begin(io);
    source.handle(Event::Welcomed { clock_ahead: 0, round_trip: Duration::ZERO }, io);
    source.handle(Event::Message(Message::Accepted { save: 0, restore: 0 }), io);
    source.handle(Event::Joined, io);
    source.handle(Event::PassSent, io);
    source.handle(Event::Message(Message::PassDone(1)), io);
    assert_eq!(source.phase(), Phase::AwaitingReady);
    source
}

#[test]
fn a_source_that_is_asked_while_it_is_undecided_says_commit_again_and_stays_undecided() {
    let (machine, mut io) = (Simulated::booted(), Io::default());
    let mut source = offered(&machine, &mut io);
    let ready = Ready { token: TOKEN.0, restore: 0 };
    source.handle(Event::Message(Message::Ready(ready)), &mut io);
    assert_eq!(source.phase(), Phase::AwaitingRunning);
    source.handle(Event::Lost(MotionError::new(Code::LinkLost, "cut")), &mut io);
    assert_eq!((source.phase(), &io.asked[..]), (Phase::Undecided, &[Word::Query][..]));

    source.handle(Event::Told(TOKEN.says(Word::Query)), &mut io);
    assert_eq!((source.phase(), io.asked.last()), (Phase::Undecided, Some(&Word::Commit)));
    source.command(Command::Ask, &mut io).unwrap();
    assert!(source.progress().undecided.is_some() && !machine.has_permit());

    source.handle(Event::Told(TOKEN.says(Word::Answer(Verdict::Refused))), &mut io);
    assert!(source.has_ended() && machine.is_running());
}

#[test]
fn clocks_that_are_certainly_a_second_apart_are_refused() {
    const SECOND: i64 = 1_000_000_000;
    for (clock_ahead, seconds, refused) in [
        (SECOND * 9 / 10, 0, false),
        (2 * SECOND, 0, true),
        (-2 * SECOND, 0, true),
        // It was read at some time within the round trip.
        (2 * SECOND, 3, false),
        (-2 * SECOND, 3, false),
        (-3 * SECOND, 3, true),
    ] {
        let (machine, mut io) = (Simulated::booted(), Io::default());
        let mut source = source(&machine);
        source.begin(&mut io);
        let round_trip = Duration::from_secs(seconds);
        source.handle(Event::Welcomed { clock_ahead, round_trip }, &mut io);
        let what = format!("{clock_ahead} ns ahead, {seconds} s: {:?}", source.report().error);
        assert_eq!(source.has_ended(), refused, "{what}");
        let refusals = source.report().refusals.iter().map(|refusal| refusal.code);
        let expected: Vec<_> = refused.then_some(Code::ClockSkew).into_iter().collect();
        assert_eq!(refusals.collect::<Vec<_>>(), expected, "{what}");
        let described = io.said.iter().any(|said| matches!(said, Message::Describe(_)));
        assert_ne!(described, refused, "{what}");
        assert!(machine.is_running() && machine.has_permit());
    }
}

#[test]
fn another_stall_limit_holds_from_when_it_is_set() {
    let (machine, mut io) = (Simulated::booted(), Io::default());
    let first = SourceOptions::default().stall_limit;
    let mut source = offered(&machine, &mut io);
    // Nothing else is to end it: it is heard that the destination lives, and takes what is sent.
    source.command(Command::SetStall(10 * first), &mut io).unwrap();
    io.now = io.now.after(9 * first);
    source.handle(Event::Tick, &mut io);
    assert_eq!(source.report().error, None);
    let pings = |io: &Io| io.said.iter().filter(|m| matches!(m, Message::Ping(_))).count();
    let before = pings(&io);
    source.command(Command::SetStall(first), &mut io).unwrap();
    source.handle(Event::Tick, &mut io);
    assert_eq!(source.report().error, None, "it counts from now on");
    io.now = io.now.after(first / 5);
    source.handle(Event::Tick, &mut io);
    assert!(pings(&io) > before, "it is asked soon enough to answer in time");
    io.now = io.now.after(first);
    source.handle(Event::Tick, &mut io);
    let error = source.report().error.clone().unwrap();
    assert_eq!(error.code, Code::LinkStalled, "{error:?}");
    assert!(machine.is_running() && machine.has_permit());
}

#[test]
fn a_source_that_waits_for_its_log_says_that_it_lives_and_can_be_cancelled() {
    let (machine, mut io) = (Simulated::booted(), Io { log: Some(Vec::new()), ..Io::default() });
    let options = SourceOptions::default();
    let stall = options.stall_limit;
    let mut source = source_of(&machine, options);
    source.begin(&mut io);
    source.handle(Event::Welcomed { clock_ahead: 0, round_trip: Duration::ZERO }, &mut io);
    source.handle(Event::Message(Message::Accepted { save: 0, restore: 0 }), &mut io);
    source.handle(Event::Joined, &mut io);
    assert_eq!(source.phase(), Phase::Arming);
    for pings in 1..20 {
        io.now = io.now.after(stall / 4);
        source.handle(Event::Message(Message::Pong(pings, 0)), &mut io);
        assert_eq!(io.said.pop(), Some(Message::Ping(pings + 1)), "{:?}", source.report().error);
    }
    assert!(source.deadline().is_some() && !source.progress().note.is_empty());

    source.command(Command::Cancel, &mut io).unwrap();
    assert!(matches!(io.said.last(), Some(Message::Failed(_))));
    assert_eq!((source.phase(), source.has_ended()), (Phase::Disarming, false));
    assert!(source.progress().released && machine.is_running() && machine.has_permit());
    // Nothing else is waited for, and nothing that comes matters.
    assert_eq!(source.deadline(), None);
    source.handle(Event::Lost(MotionError::new(Code::LinkLost, "it has gone")), &mut io);
    source.command(Command::GuestGone, &mut io).unwrap();
    source.command(Command::Cancel, &mut io).unwrap();
    assert_eq!(io.log.as_deref(), Some(&[true][..]));

    source.handle(Event::Logged(Ok(())), &mut io);
    assert_eq!((source.has_ended(), io.log.as_deref()), (false, Some(&[true, false][..])));
    source.handle(Event::Logged(Ok(())), &mut io);
    let report = source.report();
    assert!(source.is_over() && report.status.0 == Status::Cancelled, "{:?}", report.error);
}

#[test]
fn a_log_that_cannot_be_switched_on_ends_the_motion_before_its_first_pass() {
    let (machine, mut io) = (Simulated::booted(), Io { log: Some(Vec::new()), ..Io::default() });
    let mut source = source_of(&machine, SourceOptions::default());
    source.begin(&mut io);
    source.handle(Event::Welcomed { clock_ahead: 0, round_trip: Duration::ZERO }, &mut io);
    source.handle(Event::Message(Message::Accepted { save: 0, restore: 0 }), &mut io);
    source.handle(Event::Joined, &mut io);
    source.handle(Event::Logged(Err(MotionError::new(Code::Kvm, "it does not"))), &mut io);
    assert_eq!(source.report().error.as_ref().map(|error| error.code), Some(Code::Kvm));
    assert!(source.is_over() && source.pass().is_none() && machine.has_permit());
    assert_eq!(io.log.as_deref(), Some(&[true][..]), "there is none to be switched off");
}
