//! A source and what a destination says to it, without threads and sockets: what no honest peer, or
//! hardly ever one, would say.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

extern crate whimbrel_motion as motion;

mod simulated;

use motion::clock::Moment;
use motion::handover::{self, MemoryJournal, Particulars, Token, Verdict, Word};
use motion::ram::Pass;
use motion::source::{Command, Event, Phase, Source, SourceIo};
use motion::{Machine, MotionError, SourceOptions};
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
    said: Vec<Message>,
    asked: Vec<Word>,
}

impl SourceIo for Io {
    fn now(&self) -> Moment {
        Moment::default()
    }
    fn dial(&mut self) {}
    fn join(&mut self, _: u16) {}
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

/// A source that waits for READY.
fn offered(machine: &Arc<Simulated>, io: &mut Io) -> Source {
    let machine_name = uuid::Uuid::from_bytes([5; 16]);
    let particulars = Particulars::new(TOKEN, machine_name, "m", "far", 0).unwrap();
    let options = SourceOptions { frozen: true, ..SourceOptions::default() };
    let journal = Box::new(MemoryJournal::default());
    let notes = Arc::new(Notes::default());
    let mut source = Source::new(machine.clone(), particulars, options, [1; 16], journal, notes);
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
