//! Whole motions of simulated machines over loopback TCP: the driver, the phases, the handover.
//! Timing is never asserted; limits are far above or below what anything takes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

extern crate whimbrel_motion as motion;

mod simulated;

use links::{Address, Descriptors, Listener};
use motion::clock::Moment;
use motion::destination::{
    AsRam, Destination, DestinationIo, DestinationJob, Event, Phase, Question,
};
use motion::handover::{MemoryJournal, Particulars, Token};
use motion::source::{PeerAddress, SourceJob};
use motion::{
    Blackout, DestinationOptions, Machine, MotionError, SourceMachine, SourceOptions, Status,
};
use simulated::{Builder, Notes, Simulated};
use state::{Code, Refusal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wire::{Describe, Failed, Hello, Message, Role};

struct Waiting {
    job: DestinationJob,
    builder: Arc<Builder>,
    notes: Arc<Notes>,
}

fn wait_for_guest(options: DestinationOptions, builder: Builder) -> Waiting {
    let address = "tcp:127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&address, &Descriptors::none()).unwrap();
    let (builder, notes) = (Arc::new(builder), Arc::new(Notes::default()));
    let journal = Box::new(MemoryJournal::default());
    let job =
        DestinationJob::listen(listener, builder.clone(), options, journal, notes.clone(), None)
            .unwrap();
    Waiting { job, builder, notes }
}

fn start(
    machine: &Arc<Simulated>,
    to: &Address,
    options: SourceOptions,
) -> (SourceJob, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    let token = Token(*uuid::Uuid::new_v4().as_bytes());
    let particulars =
        Particulars::new(token, uuid::Uuid::new_v4(), "m", to.to_string(), 0).unwrap();
    let peer = PeerAddress {
        address: to.clone(),
        descriptors: Arc::new(Descriptors::none()),
        sibling: None,
    };
    let journal = Box::new(MemoryJournal::default());
    let job = SourceJob::start(machine.clone(), particulars, peer, options, journal, notes.clone());
    (job.unwrap(), notes)
}

fn fill(machine: &Simulated) {
    for page in 0..600 {
        assert!(machine.write(page * 3, u8::try_from(page % 255).unwrap()));
    }
}

#[test]
fn an_idle_guest_arrives_whole_and_leaves_nothing_behind() {
    let source = Simulated::booted();
    fill(&source);
    let waiting = wait_for_guest(DestinationOptions::default(), Builder::default());
    let (job, notes) = start(&source, waiting.job.address(), SourceOptions::default());
    let report = job.wait();
    assert_eq!(report.status.0, Status::Completed, "{report:#?}");
    assert_eq!(waiting.job.wait().status.0, Status::Completed);

    let arrived = waiting.builder.built().unwrap();
    assert!(arrived.is_running() && arrived.has_permit());
    assert!(!source.is_running() && !source.has_permit() && !source.is_logging());
    assert_eq!(arrived.contents(), source.contents());
    assert_eq!(arrived.writes(), source.writes());
    assert_eq!(source.log_starts(), 1);
    // The page that was written with zeroes was touched and is zero: it does not travel.
    assert_eq!(report.ram.data_pages, 597);
    let blackout = report.blackout.unwrap();
    let stages: u64 = blackout.stages.iter().map(|s| s.ns).sum();
    assert!(stages.abs_diff(blackout.ns) <= blackout.ns / 20, "{blackout:#?}");
    assert_eq!(
        *notes.seen.lock().unwrap(),
        [Status::Setup, Status::Active, Status::Device, Status::Completed]
    );
    assert_eq!(notes.stopped.load(Ordering::SeqCst), 1);
    assert_eq!(waiting.notes.resumed.load(Ordering::SeqCst), 1);
}

#[test]
fn pages_never_touched_stay_untouched_at_the_destination() {
    let source = Simulated::booted();
    source.write(9, 1);
    source.write(100, 0);
    let waiting = wait_for_guest(DestinationOptions::default(), Builder::default());
    let (job, _) = start(&source, waiting.job.address(), SourceOptions::default());
    assert_eq!(job.wait().status.0, Status::Completed);
    let _ = waiting.job.wait();
    let touched = waiting.builder.built().unwrap().touched();
    assert_eq!(touched, [memory::PageRange::new(9, 1)]);
}

#[test]
fn a_guest_that_writes_all_the_time_arrives_with_its_last_write() {
    for connections in [1, 2, 7] {
        let source = Simulated::booted();
        fill(&source);
        let stop = Arc::new(AtomicBool::new(false));
        let guest = {
            let (source, stop) = (source.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut n = 0u64;
                while !stop.load(Ordering::SeqCst) {
                    n += 1;
                    if !source.write(n * 7 % 4096, u8::try_from(n % 251).unwrap()) {
                        std::thread::yield_now();
                    }
                }
            })
        };
        let waiting = wait_for_guest(DestinationOptions::default(), Builder::default());
        let options = SourceOptions {
            connections,
            blackout: Blackout::Unlimited,
            timeout: Some(Duration::from_secs(2)),
            timeout_action: motion::TimeoutAction::Switch,
            ..SourceOptions::default()
        };
        let (job, _) = start(&source, waiting.job.address(), options);
        let report = job.wait();
        stop.store(true, Ordering::SeqCst);
        guest.join().unwrap();
        assert_eq!(report.status.0, Status::Completed, "{report:#?}");
        let _ = waiting.job.wait();
        let arrived = waiting.builder.built().unwrap();
        assert_eq!(arrived.contents(), source.contents());
        assert_eq!(arrived.writes(), source.writes());
    }
}

#[test]
fn a_guest_that_was_stopped_moves_without_a_log_and_stays_stopped() {
    let source = Simulated::booted();
    fill(&source);
    source.pause().unwrap();
    let waiting = wait_for_guest(DestinationOptions::default(), Builder::default());
    let (job, notes) = start(&source, waiting.job.address(), SourceOptions::default());
    let report = job.wait();
    assert_eq!(report.status.0, Status::Completed, "{report:#?}");
    assert!(report.frozen && report.blackout.is_none());
    let _ = waiting.job.wait();
    let arrived = waiting.builder.built().unwrap();
    assert!(!arrived.is_running() && arrived.has_permit());
    assert_eq!(arrived.contents(), source.contents());
    assert_eq!(notes.stopped.load(Ordering::SeqCst), 0);
    assert_eq!(source.log_starts(), 0);
    assert_eq!(source.yielded.load(Ordering::SeqCst), 0);
}

#[test]
fn a_frozen_move_stops_a_running_guest_once_and_runs_it_there() {
    let source = Simulated::booted();
    fill(&source);
    let waiting = wait_for_guest(DestinationOptions::default(), Builder::default());
    let options = SourceOptions { frozen: true, ..SourceOptions::default() };
    let (job, _) = start(&source, waiting.job.address(), options);
    let report = job.wait();
    assert_eq!(report.status.0, Status::Completed, "{report:#?}");
    assert_eq!(report.passes.len(), 1);
    assert_eq!(source.log_starts(), 0);
    assert_eq!(
        source.yielded.load(Ordering::SeqCst),
        1,
        "it has its processors until it is stopped"
    );
    let _ = waiting.job.wait();
    assert!(waiting.builder.built().unwrap().is_running());
}

#[test]
fn a_promise_that_cannot_be_kept_is_given_up_and_the_guest_goes_on() {
    let source = Simulated::booted();
    fill(&source);
    let builder = Builder::default();
    // The rehearsal is honest, and far beyond the promise.
    *builder.restore_takes.lock().unwrap() = Duration::from_millis(400);
    *builder.rehearsed.lock().unwrap() = Duration::from_millis(400);
    let waiting = wait_for_guest(DestinationOptions::default(), builder);
    let options = SourceOptions {
        blackout: Blackout::Limit(Duration::from_millis(50)),
        timeout: Some(Duration::from_millis(500)),
        ..SourceOptions::default()
    };
    let (job, _) = start(&source, waiting.job.address(), options);
    let report = job.wait();
    assert_eq!(report.status.0, Status::Failed, "{report:#?}");
    assert_eq!(report.error.unwrap().code, Code::TimedOut);
    assert!(report.given_up_pause_ns.is_none(), "the guest was never stopped");
    assert!(source.is_running() && source.has_permit() && !source.is_logging());
}

#[test]
fn a_destination_that_is_late_with_ready_loses_the_guest() {
    let source = Simulated::booted();
    fill(&source);
    let builder = Builder::default();
    // Slower than its rehearsal was: the timer keeps the promise.
    *builder.restore_takes.lock().unwrap() = Duration::from_secs(4);
    let waiting = wait_for_guest(DestinationOptions::default(), builder);
    let options = SourceOptions {
        blackout: Blackout::Limit(Duration::from_secs(2)),
        ..SourceOptions::default()
    };
    let (job, _) = start(&source, waiting.job.address(), options);
    let report = job.wait();
    assert_eq!(report.error.unwrap().code, Code::BudgetExceeded);
    assert!(report.given_up_pause_ns.is_some());
    assert!(source.is_running() && source.has_permit());
    let end = waiting.job.wait();
    assert_eq!(end.status.0, Status::Failed, "{end:#?}");
    assert!(!waiting.builder.built().unwrap().has_permit());
}

#[test]
fn a_cancelled_move_leaves_the_guest_where_it_was() {
    let source = Simulated::booted();
    fill(&source);
    let waiting = wait_for_guest(DestinationOptions::default(), Builder::default());
    let options = SourceOptions { pause_before_switchover: true, ..SourceOptions::default() };
    let (job, _) = start(&source, waiting.job.address(), options);
    while job.progress().status.0 != Status::PreSwitchover {
        std::thread::yield_now();
    }
    assert!(!source.is_running());
    job.cancel().unwrap();
    let report = job.wait();
    assert_eq!(report.status.0, Status::Cancelled, "{report:#?}");
    assert!(source.is_running() && source.has_permit());
    assert_eq!(waiting.job.wait().status.0, Status::Failed);

    // And the next one works.
    let waiting = wait_for_guest(DestinationOptions::default(), Builder::default());
    let (job, _) = start(&source, waiting.job.address(), SourceOptions::default());
    assert_eq!(job.wait().status.0, Status::Completed);
    assert!(job.cancel().is_err(), "it is over, and not by a cancel");
}

#[test]
fn refusals_come_all_at_once_and_leave_the_destination_waiting() {
    let source = Simulated::booted();
    let refusal = |code| Refusal::new(code, "x", "y", "z");
    let builder = Builder::default();
    *builder.refusals.lock().unwrap() =
        vec![refusal(Code::IncompatibleCpu), refusal(Code::InsufficientMemory)];
    let waiting = wait_for_guest(DestinationOptions::default(), builder);
    let (job, _) = start(&source, waiting.job.address(), SourceOptions::default());
    let report = job.wait();
    assert_eq!(report.status.0, Status::Failed);
    assert_eq!(report.refusals.len(), 2);
    assert!(source.is_running() && !source.is_logging());

    waiting.builder.refusals.lock().unwrap().clear();
    let check = SourceOptions { check_only: true, ..SourceOptions::default() };
    let (job, _) = start(&source, waiting.job.address(), check);
    let report = job.wait();
    assert!(report.checked, "{report:#?}");
    assert!(waiting.builder.built().is_none(), "a check builds nothing");

    let (job, _) = start(&source, waiting.job.address(), SourceOptions::default());
    assert_eq!(job.wait().status.0, Status::Completed);
}

#[test]
fn nobody_there_is_an_error_at_once() {
    let source = Simulated::booted();
    let (job, _) = start(&source, &"tcp:127.0.0.1:1".parse().unwrap(), SourceOptions::default());
    let report = job.wait();
    assert_eq!(report.error.unwrap().code, Code::ConnectFailed);
    assert!(source.is_running());
}

#[test]
fn a_guest_that_is_gone_ends_the_motion() {
    let source = Simulated::booted();
    fill(&source);
    let waiting = wait_for_guest(DestinationOptions::default(), Builder::default());
    let options = SourceOptions { pause_before_switchover: true, ..SourceOptions::default() };
    let (job, _) = start(&source, waiting.job.address(), options);
    while job.progress().status.0 != Status::PreSwitchover {
        std::thread::yield_now();
    }
    job.command(motion::source::Command::GuestGone).unwrap();
    let report = job.wait();
    assert_eq!(report.error.unwrap().code, Code::GuestGone);
    assert!(!source.is_running() && source.has_permit());
}

#[test]
fn after_the_guest_has_come_the_port_takes_nobody_else() {
    let source = Simulated::booted();
    let waiting = wait_for_guest(DestinationOptions::default(), Builder::default());
    let (job, _) = start(&source, waiting.job.address(), SourceOptions::default());
    assert_eq!(job.wait().status.0, Status::Completed);
    let _ = waiting.job.wait();
    let other = Simulated::booted();
    let (job, _) = start(&other, waiting.job.address(), SourceOptions::default());
    let report = job.wait();
    assert_eq!(report.status.0, Status::Failed);
    assert!(other.is_running());
    assert!(matches!(waiting.job.phase(), Phase::Owner | Phase::Ended));
}

/// A destination's surroundings in which only time passes.
struct Still(Moment);

impl DestinationIo for Still {
    fn now(&self) -> Moment {
        self.0
    }
    fn send(&mut self, _: &Message) -> Result<(), MotionError> {
        Ok(())
    }
    fn answer(&mut self, _: Question, _: &Message) {}
    fn receive_into(&mut self, _: Arc<dyn AsRam>) {}
    fn received(&self) -> u64 {
        0
    }
    fn hang_up(&mut self) {}
}

#[test]
fn a_source_whose_message_is_long_in_coming_is_not_silent() {
    let (builder, notes) = (Arc::new(Builder::default()), Arc::new(Notes::default()));
    let options = DestinationOptions::default();
    let patience = options.stall_limit;
    let mut io = Still(Moment::default());
    let journal = Box::new(MemoryJournal::default());
    let mut destination = Destination::new(builder, options, journal, notes, || 0);
    let hello = Hello::new([1; 16], [2; 16], Role::Control, 0);
    let _ = destination.admit(&hello, "far", io.0);
    for _ in 0..10 {
        io.0 = io.0.after(patience / 2);
        // A piece of a description; the rest of it is on the way.
        destination.handle(Event::Heard, &mut io);
        assert_eq!(destination.phase(), Phase::Greeted);
    }
    io.0 = io.0.after(patience);
    destination.handle(Event::Tick, &mut io);
    assert_eq!(destination.phase(), Phase::Waiting);
}

#[test]
fn a_destination_keeps_another_stall_limit_from_when_it_is_told() {
    let (builder, notes) = (Arc::new(Builder::default()), Arc::new(Notes::default()));
    let options = DestinationOptions::default();
    let first = options.stall_limit;
    let mut io = Still(Moment::default());
    let journal = Box::new(MemoryJournal::default());
    let mut destination = Destination::new(builder, options, journal, notes, || 0);
    let hello = Hello::new([1; 16], [2; 16], Role::Control, 0);
    let _ = destination.admit(&hello, "far", io.0);
    destination.command(motion::destination::Command::SetStall(3 * first), &mut io).unwrap();
    io.0 = io.0.after(2 * first);
    destination.handle(Event::Tick, &mut io);
    assert_eq!(destination.phase(), Phase::Greeted);
    destination.command(motion::destination::Command::SetStall(first / 2), &mut io).unwrap();
    destination.handle(Event::Tick, &mut io);
    assert_eq!(destination.phase(), Phase::Greeted);
    assert_eq!(destination.deadline(), Some(io.0.after(first / 2)));
    io.0 = io.0.after(first / 2);
    destination.handle(Event::Tick, &mut io);
    assert_eq!(destination.phase(), Phase::Waiting);
}

/// A destination to which a source has described a guest that comes over one data connection.
fn receiving(io: &mut Still) -> Destination {
    let (builder, notes) = (Arc::new(Builder::default()), Arc::new(Notes::default()));
    let journal = Box::new(MemoryJournal::default());
    let mut destination =
        Destination::new(builder, DestinationOptions::default(), journal, notes, || 0);
    let hello = Hello::new([1; 16], [2; 16], Role::Control, 0);
    let _ = destination.admit(&hello, "far", io.0);
    let description = Simulated::booted().describe().unwrap().encode();
    let describe = Describe { description, connections: 1, check_only: false, token: [3; 16] };
    destination.handle(Event::Message(Message::Describe(describe)), io);
    assert_eq!(destination.phase(), Phase::Receiving);
    destination
}

#[test]
fn a_source_that_gives_up_is_heard_also_when_its_pages_end_before_its_word_comes() {
    let mut io = Still(Moment::default());
    let mut destination = receiving(&mut io);
    let ended = || MotionError::new(Code::LinkLost, "the peer closed the connection");
    destination.handle(Event::DataLost(ended()), &mut io);
    assert_eq!(destination.phase(), Phase::Receiving);
    let word = Failed { code: Code::Cancelled, why: "the motion was cancelled".into() };
    destination.handle(Event::Message(Message::Failed(word)), &mut io);
    assert_eq!(destination.phase(), Phase::Failed);
    assert_eq!(destination.report().error.as_ref().unwrap().code, Code::Cancelled);

    let mut destination = receiving(&mut io);
    destination.handle(Event::DataLost(ended()), &mut io);
    io.0 = destination.deadline().unwrap();
    destination.handle(Event::Tick, &mut io);
    assert_eq!(destination.report().error.as_ref().unwrap().code, Code::LinkLost);
}
