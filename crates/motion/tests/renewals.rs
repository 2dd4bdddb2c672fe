//! Motions between two machines that share RAM, over a pair of Unix sockets: the driver, the phases,
//! the handover, and the word that decides it. Timing is never asserted; limits are far above or below
//! what anything takes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

extern crate whimbrel_motion as motion;

mod simulated;

use links::{Address, Descriptors, Listener};
use motion::destination::{DestinationJob, Phase};
use motion::handover::{Fate, MemoryJournal, Outcome, Particulars, Token};
use motion::source::{Command, PeerAddress, Sibling, SourceJob};
use motion::{
    Blackout, DestinationOptions, Machine, MachineError, MotionError, RamWay, Report,
    SourceMachine, SourceOptions, Status,
};
use simulated::{Builder, Counter, Notes, Simulated};
use state::{Bundle, Code, Refusal};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wire::{Describe, Failed, Hello, Kind, MAGIC, Message, Ready, Role, Running, State};

fn sharing() -> SourceOptions {
    SourceOptions { ram: RamWay::Shared, ..SourceOptions::default() }
}

fn waiting() -> DestinationOptions {
    DestinationOptions { ram: RamWay::Shared, ..DestinationOptions::default() }
}

/// The word as both processes have it.
fn fates() -> (Arc<Fate>, Arc<Fate>) {
    let (old, file) = Fate::new().unwrap();
    let new = Fate::open(file).unwrap();
    (Arc::new(old), Arc::new(new))
}

struct Old {
    machine: Arc<Simulated>,
    job: SourceJob,
    notes: Arc<Notes>,
}

impl Old {
    fn start(
        machine: Arc<Simulated>,
        link: UnixStream,
        fate: Arc<Fate>,
        options: SourceOptions,
    ) -> Self {
        Self::once_started(machine, link, fate, options, Box::new(|| Ok(())))
    }

    /// Where something starts the other process.
    fn once_started(
        machine: Arc<Simulated>,
        link: UnixStream,
        fate: Arc<Fate>,
        options: SourceOptions,
        start: Box<dyn Fn() -> Result<(), MotionError> + Send + Sync>,
    ) -> Self {
        let notes = Arc::new(Notes::default());
        let token = Token(*uuid::Uuid::new_v4().as_bytes());
        let particulars = Particulars::new(token, uuid::Uuid::new_v4(), "m", "new", 0).unwrap();
        let peer = PeerAddress {
            address: Address::Fd("main".into()),
            descriptors: Arc::new(Descriptors::one("main", link.into())),
            sibling: Some(Arc::new(Sibling { fate, start })),
        };
        let journal = Box::new(MemoryJournal::default());
        let job =
            SourceJob::start(machine.clone(), particulars, peer, options, journal, notes.clone());
        Self { machine, job: job.unwrap(), notes }
    }

    fn until(&self, status: Status) {
        while self.job.progress().status.0 != status {
            std::thread::yield_now();
        }
    }

    /// Waits until even the job has ended; a source that shares RAM has nobody to wait for.
    fn end(&self) -> Report {
        let report = self.job.wait();
        while !self.job.is_over() {
            std::thread::yield_now();
        }
        assert_eq!(self.notes.undecided.load(Ordering::SeqCst), 0, "nothing is ever undecided");
        report
    }

    /// It failed with this, and the guest goes on.
    fn kept(&self, code: Code) -> Report {
        let report = self.end();
        assert_eq!(report.error.as_ref().map(|error| error.code), Some(code), "{report:#?}");
        assert!(self.machine.is_running() && self.machine.has_permit(), "{report:#?}");
        assert!(self.machine.write(5, 5));
        let (stopped, resumed) = (&self.notes.stopped, &self.notes.resumed);
        assert_eq!(stopped.load(Ordering::SeqCst), resumed.load(Ordering::SeqCst));
        report
    }

    /// The guest is the other's, and this one says so.
    fn gave(&self) -> Report {
        let report = self.end();
        assert_eq!(report.status.0, Status::Completed, "{report:#?}");
        assert!(report.error.is_none(), "{report:#?}");
        assert!(!self.machine.is_running() && !self.machine.has_permit());
        assert_eq!(self.notes.resumed.load(Ordering::SeqCst), 0);
        assert!(!self.notes.seen.lock().unwrap().contains(&Status::Failing));
        report
    }
}

struct New {
    job: DestinationJob,
    builder: Arc<Builder>,
    notes: Arc<Notes>,
}

impl New {
    fn start(
        machine: &Simulated,
        link: UnixStream,
        fate: Arc<Fate>,
        options: DestinationOptions,
    ) -> Self {
        let given = Descriptors::one("main", link.into());
        let listener = Listener::bind(&Address::Fd("main".into()), &given).unwrap();
        let (builder, notes) = (Arc::new(Builder::default()), Arc::new(Notes::default()));
        *builder.shared.lock().unwrap() = Some(machine.ram_file());
        let journal = Box::new(MemoryJournal::default());
        let fate = Some(fate);
        let (b, n) = (builder.clone(), notes.clone());
        let job = DestinationJob::listen(listener, b, options, journal, n, fate).unwrap();
        Self { job, builder, notes }
    }

    fn built(&self) -> Arc<Simulated> {
        self.builder.built().unwrap()
    }

    /// It has the guest, and nothing left to do.
    fn has_it(&self, runs: bool) -> Report {
        let report = self.job.wait();
        assert_eq!(report.status.0, Status::Completed, "{report:#?}");
        assert!(self.built().has_permit());
        assert_eq!(self.built().is_running(), runs);
        while self.job.phase() != Phase::Ended {
            std::thread::yield_now();
        }
        assert_eq!(self.notes.undecided.load(Ordering::SeqCst), 0, "nothing is ever undecided");
        report
    }

    /// It never gets the guest.
    fn goes_without(&self) {
        let report = self.job.wait();
        assert_eq!(report.status.0, Status::Failed, "{report:#?}");
        assert!(self.builder.built().is_none_or(|machine| !machine.has_permit()));
        assert_eq!(self.notes.undecided.load(Ordering::SeqCst), 0, "nothing is ever undecided");
    }
}

/// Both, as they are.
fn both(options: SourceOptions) -> (Old, New) {
    let machine = Simulated::booted();
    machine.write(3, 9);
    let (here, there) = UnixStream::pair().unwrap();
    let (mine, theirs) = fates();
    let new = New::start(&machine, there, theirs, waiting());
    (Old::start(machine, here, mine, options), new)
}

/// One side of a conversation, said by hand.
struct Spoken {
    link: UnixStream,
    fate: Arc<Fate>,
    token: [u8; 16],
}

impl Spoken {
    fn say(&mut self, message: &Message) {
        wire::write_message(&mut self.link, message).unwrap();
    }

    /// What comes next of this kind; pings are answered meanwhile.
    fn hear(&mut self, kind: Kind) -> Message {
        loop {
            match wire::read_message(&mut self.link).unwrap() {
                Message::Ping(number) => self.say(&Message::Pong(number, 0)),
                message if message.kind() == kind => return message,
                _ => {}
            }
        }
    }

    /// The other side has closed the connection, whatever it said before.
    fn hear_the_end(&mut self) {
        while wire::read_message(&mut self.link).is_ok() {}
    }

    /// A new process, up to where it would build a machine.
    fn new(link: UnixStream, fate: Arc<Fate>) -> Self {
        let mut new = Self { link, fate, token: [0; 16] };
        wire::read_magic(&mut new.link).unwrap();
        new.link.write_all(&MAGIC).unwrap();
        let Message::Hello(hello) = new.hear(Kind::Hello) else { panic!("no hello") };
        new.say(&Message::Welcome(hello.answer(wall_clock()).unwrap()));
        let Message::Describe(describe) = new.hear(Kind::Describe) else { panic!("nothing") };
        assert_eq!((describe.connections, describe.check_only), (0, false));
        new.token = describe.token;
        new
    }

    fn accept(&mut self) {
        self.say(&Message::Accepted { save: 1000, restore: 1000 });
    }

    fn ready(&mut self) {
        self.say(&Message::Ready(Ready { token: self.token, restore: 1000 }));
    }

    /// An old process, with the destination's answer to its description.
    fn old(link: UnixStream, fate: Arc<Fate>, connections: u16) -> (Self, Message) {
        let mut old = Self { link, fate, token: [3; 16] };
        old.link.write_all(&MAGIC).unwrap();
        old.say(&Message::Hello(Hello::new([1; 16], [2; 16], Role::Control, 0)));
        wire::read_magic(&mut old.link).unwrap();
        let Message::Welcome(_) = old.hear(Kind::Welcome) else { panic!("no welcome") };
        let description = Simulated::empty().describe().unwrap().encode();
        let token = old.token;
        old.say(&Message::Describe(Describe {
            description,
            connections,
            check_only: false,
            token,
        }));
        let answer = loop {
            match wire::read_message(&mut old.link).unwrap() {
                Message::Pong(..) => {}
                answer => break answer,
            }
        };
        (old, answer)
    }

    fn send_state(&mut self) {
        let mut state = Bundle::new();
        state.put("", &Counter { writes: 7 });
        let (state, run) = (state.encode(), true);
        self.say(&Message::State(State { state, run, data_pages: 0, zero_pages: 0 }));
    }
}

fn wall_clock() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_nanos()).unwrap()
}

/// A source whose destination is played.
fn old(options: SourceOptions) -> (Old, Spoken) {
    let (here, there) = UnixStream::pair().unwrap();
    let (mine, theirs) = fates();
    let old = Old::start(Simulated::booted(), here, mine, options);
    (old, Spoken::new(there, theirs))
}

/// A destination whose source is played, and has sent the state if `with_state`.
fn new(with_state: bool) -> (New, Spoken) {
    let (here, there) = UnixStream::pair().unwrap();
    let (mine, theirs) = fates();
    let new = New::start(&Simulated::empty(), there, theirs, waiting());
    let (mut source, answer) = Spoken::old(here, mine, 0);
    assert!(matches!(answer, Message::Accepted { .. }), "{answer:?}");
    if with_state {
        source.send_state();
        source.hear(Kind::Ready);
    }
    (new, source)
}

#[test]
fn a_running_guest_goes_over_and_nothing_of_its_ram_is_sent() {
    let (old, new) = both(sharing());
    let report = old.gave();
    assert_eq!((report.ram.data_pages, report.ram.zero_pages, report.ram.bytes), (0, 0, 0));
    assert!(report.passes.is_empty() && report.connections == 0, "{report:#?}");
    let blackout = report.blackout.unwrap();
    assert!(blackout.ns > 0 && blackout.predicted_ns > 0, "{blackout:#?}");
    assert_eq!((blackout.pages, blackout.bytes), (0, 0));
    let stages: u64 = blackout.stages.iter().map(|stage| stage.ns).sum();
    assert!(stages.abs_diff(blackout.ns) <= blackout.ns / 20, "{blackout:#?}");
    assert_eq!(old.job.progress().predicted_blackout_ns, blackout.predicted_ns);

    let there = new.has_it(true);
    assert_eq!((there.ram.data_pages, there.connections), (0, 0));
    assert_eq!(new.built().writes(), old.machine.writes());
    // It is one RAM, and nobody logged what was written to it.
    assert!(new.built().write(8, 1) && !old.machine.write(8, 2));
    assert_eq!(new.built().contents(), old.machine.contents());
    assert!(!old.machine.is_logging());
    let seen = old.notes.seen.lock().unwrap().clone();
    assert_eq!(seen, [Status::Setup, Status::Active, Status::Device, Status::Completed]);
}

#[test]
fn a_paused_guest_stays_paused() {
    let machine = Simulated::booted();
    machine.pause().unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    let (mine, theirs) = fates();
    let new = New::start(&machine, there, theirs, waiting());
    let old = Old::start(machine, here, mine, sharing());
    let report = old.gave();
    assert!(report.blackout.is_none(), "it stood still anyway: {report:#?}");
    new.has_it(false);
    assert_eq!(old.notes.stopped.load(Ordering::SeqCst), 0);
    assert_eq!(new.notes.resumed.load(Ordering::SeqCst), 0);
}

#[test]
fn what_goes_ahead_goes_while_the_guest_runs() {
    let (old, new) = both(sharing());
    old.gave();
    new.has_it(true);
    assert_eq!(*old.machine.sent_ahead.lock().unwrap(), [true]);

    let machine = Simulated::booted();
    let error = MachineError::new(Code::HostIo, "sending descriptors", "the channel is closed");
    *machine.cannot_send.lock().unwrap() = Some(error);
    let (here, there) = UnixStream::pair().unwrap();
    let (mine, theirs) = fates();
    let new = New::start(&machine, there, theirs, waiting());
    let old = Old::start(machine, here, mine, sharing());
    let report = old.kept(Code::HostIo);
    assert!(report.given_up_pause_ns.is_none(), "it was never stopped: {report:#?}");
    assert_eq!(old.notes.stopped.load(Ordering::SeqCst), 0);
    new.goes_without();
}

#[test]
fn a_guest_that_is_held_before_the_switchover_goes_on_when_told() {
    let (old, new) = both(SourceOptions { pause_before_switchover: true, ..sharing() });
    old.until(Status::PreSwitchover);
    assert!(!old.machine.is_running());
    assert_eq!(*old.machine.sent_ahead.lock().unwrap(), [true]);
    old.job.proceed().unwrap();
    let blackout = old.gave().blackout.unwrap();
    let stages: u64 = blackout.stages.iter().map(|stage| stage.ns).sum();
    assert!(stages.abs_diff(blackout.ns) <= blackout.ns / 20, "{blackout:#?}");
    new.has_it(true);
}

#[test]
fn a_destination_that_refuses_or_fails_has_no_guest() {
    let refusal = || vec![Refusal::new(Code::IncompatibleCpu, "x", "y", "z")];
    for (refuses, fails) in [(refusal(), vec![]), (vec![], refusal())] {
        let machine = Simulated::booted();
        let (here, there) = UnixStream::pair().unwrap();
        let (mine, theirs) = fates();
        let new = New::start(&machine, there, theirs, waiting());
        *new.builder.refusals.lock().unwrap() = refuses;
        *new.builder.fails.lock().unwrap() = fails;
        let old = Old::start(machine, here, mine, sharing());
        let report = old.end();
        assert_eq!(report.refusals.len(), 1, "{report:#?}");
        assert!(old.machine.is_running() && old.machine.has_permit());
        assert_eq!(old.notes.stopped.load(Ordering::SeqCst), 0);
        // Nobody else will ever come to it.
        new.goes_without();
    }
}

#[test]
fn a_state_that_cannot_be_loaded_leaves_the_guest_where_it_was() {
    let (old, mut new) = old(sharing());
    new.accept();
    new.hear(Kind::State);
    let why = "the state is of no use".to_owned();
    new.say(&Message::Failed(Failed { code: Code::BadState, why }));
    let report = old.kept(Code::BadState);
    assert!(report.given_up_pause_ns.is_some());
    assert!(!new.fate.enter());
}

#[test]
fn a_destination_that_dies_before_it_enters_leaves_the_guest_where_it_was() {
    for step in 0..4 {
        let (old, mut new) = old(sharing());
        if step > 0 {
            new.accept();
            new.hear(Kind::State);
        }
        if step > 1 {
            new.ready();
            new.hear(Kind::Commit);
        }
        if step > 2 {
            // Half of what it would have said.
            let running = Message::Running(Running { token: new.token, start: 1, held: 1 });
            new.link.write_all(&running.encode()[..9]).unwrap();
        }
        drop(new.link);
        old.kept(Code::LinkLost);
        let outcome = new.fate.outcome();
        // Before the guest was stopped there was nothing to decide.
        assert_eq!(outcome, if step == 0 { Outcome::Open } else { Outcome::Kept }, "step {step}");
    }
}

#[test]
fn a_destination_that_dies_with_ready_on_its_way_has_no_guest() {
    let (old, mut new) = old(sharing());
    new.accept();
    new.hear(Kind::State);
    new.ready();
    drop(new.link);
    old.kept(Code::LinkLost);
    assert_eq!(new.fate.outcome(), Outcome::Kept);
}

#[test]
fn what_a_destination_entered_never_runs_at_the_source_again() {
    for says_so in [false, true] {
        let (old, mut new) = old(sharing());
        new.accept();
        new.hear(Kind::State);
        new.ready();
        new.hear(Kind::Commit);
        assert!(new.fate.enter());
        if says_so {
            new.say(&Message::Running(Running { token: new.token, start: 1, held: 1 }));
        }
        drop(new.link);
        let report = old.gave();
        assert_eq!(report.blackout.is_some(), says_so, "what nobody knows is not reported");
        assert!(old.job.cancel().is_err());
    }
}

/// It took over from a source that stood still; and that one wakes up.
#[test]
fn a_source_that_slept_through_it_says_that_the_guest_has_gone() {
    for ready_came in [false, true] {
        let (old, mut new) = old(SourceOptions { blackout: Blackout::Unlimited, ..sharing() });
        new.accept();
        new.hear(Kind::State);
        assert!(new.fate.enter());
        if ready_came {
            new.ready();
        }
        drop(new.link);
        old.gave();
    }
    // Nor can it be cancelled any more.
    let (old, mut new) = old(SourceOptions { blackout: Blackout::Unlimited, ..sharing() });
    new.accept();
    new.hear(Kind::State);
    old.until(Status::Device);
    assert!(new.fate.enter());
    assert_eq!(old.job.cancel().unwrap_err().code, Code::TooLate);
    old.gave();
}

#[test]
fn a_source_that_dies_before_ready_takes_the_guest_with_it() {
    let (new, source) = new(false);
    drop(source.link);
    new.goes_without();
    assert_eq!(source.fate.outcome(), Outcome::Open);
}

#[test]
fn a_destination_that_is_ready_takes_over_from_a_source_that_dies() {
    let (new, source) = new(true);
    drop(source.link);
    new.has_it(true);
    assert_eq!(source.fate.outcome(), Outcome::Entered);
    assert!(!source.fate.keep());
}

#[test]
fn a_guest_that_was_kept_is_not_taken_over() {
    let (new, source) = new(true);
    assert!(source.fate.keep());
    drop(source.link);
    new.goes_without();
}

#[test]
fn a_word_to_go_on_that_comes_too_late_is_none() {
    let (new, mut source) = new(true);
    assert!(source.fate.keep());
    let token = source.token;
    source.say(&Message::Commit(token));
    let Message::Answer(_, verdict) = source.hear(Kind::Answer) else { panic!("no answer") };
    assert_eq!(verdict, wire::Verdict::Refused);
    drop(source.link);
    new.goes_without();
}

#[test]
fn a_destination_that_stands_still_is_forestalled() {
    let blackout = Blackout::Limit(Duration::from_secs(2));
    // Before READY, which then comes too late; and after COMMIT.
    for is_ready in [false, true] {
        let (old, mut new) = old(SourceOptions { blackout, ..sharing() });
        new.accept();
        new.hear(Kind::State);
        if is_ready {
            new.ready();
            new.hear(Kind::Commit);
        }
        let report = old.kept(Code::BudgetExceeded);
        assert!(report.given_up_pause_ns.is_some());
        // It goes on, and reads what has come meanwhile.
        if !is_ready {
            let _ = wire::write_message(
                &mut new.link,
                &Message::Ready(Ready { token: new.token, restore: 1 }),
            );
        }
        assert!(!new.fate.enter());
        new.hear_the_end();
    }
}

/// What counts is whether it has entered by then, not whether it has said so.
#[test]
fn a_destination_that_has_entered_in_time_may_take_its_time_to_say_so() {
    let blackout = Blackout::Limit(Duration::from_secs(1));
    let (old, mut new) = old(SourceOptions { blackout, ..sharing() });
    new.accept();
    new.hear(Kind::State);
    new.ready();
    new.hear(Kind::Commit);
    assert!(new.fate.enter());
    std::thread::sleep(Duration::from_millis(1500));
    let running = Running { token: new.token, start: 1000, held: 2000 };
    new.say(&Message::Running(running));
    assert!(old.gave().blackout.is_some());
}

#[test]
fn a_way_of_ram_that_the_other_does_not_take_is_refused() {
    // Data connections to one that shares.
    let (here, there) = UnixStream::pair().unwrap();
    let (mine, theirs) = fates();
    let new = New::start(&Simulated::empty(), there, theirs, waiting());
    let (source, answer) = Spoken::old(here, mine, 1);
    let Message::Refused(refusals) = answer else { panic!("{answer:?}") };
    assert_eq!(refusals[0].code, Code::ProtocolError);
    assert_eq!(source.fate.outcome(), Outcome::Open);
    assert!(new.builder.built().is_none());

    // None to one that does not.
    let machine = Simulated::booted();
    let (here, there) = UnixStream::pair().unwrap();
    let (mine, theirs) = fates();
    let new = New::start(&machine, there, theirs, DestinationOptions::default());
    let old = Old::start(machine, here, mine, sharing());
    let report = old.end();
    assert_eq!(report.refusals[0].code, Code::ProtocolError, "{report:#?}");
    assert!(old.machine.is_running() && new.builder.built().is_none());
}

#[test]
fn an_update_can_be_cancelled_until_it_is_committed() {
    // While the new process builds, while the guest is held, while the state is loaded.
    let (old_a, _new) = old(sharing());
    old_a.job.cancel().unwrap();
    old_a.kept(Code::Cancelled);

    let (old_b, new) = both(SourceOptions { pause_before_switchover: true, ..sharing() });
    old_b.until(Status::PreSwitchover);
    old_b.job.cancel().unwrap();
    old_b.kept(Code::Cancelled);
    new.goes_without();

    let (old_c, mut new) = old(sharing());
    new.accept();
    new.hear(Kind::State);
    old_c.job.cancel().unwrap();
    old_c.kept(Code::Cancelled);
    assert!(!new.fate.enter());
    // Whoever is ready is told at once.
    new.hear(Kind::Abort);

    let (old_d, mut new) = old(SourceOptions { blackout: Blackout::Unlimited, ..sharing() });
    new.accept();
    new.hear(Kind::State);
    new.ready();
    new.hear(Kind::Commit);
    assert_eq!(old_d.job.cancel().unwrap_err().code, Code::TooLate);
    assert!(old_d.job.command(Command::Ask).is_err());
    assert!(new.fate.enter());
    new.say(&Message::Running(Running { token: new.token, start: 1, held: 1 }));
    old_d.gave();
}

/// As with a process that does not even greet.
#[test]
fn an_update_to_somebody_who_says_nothing_can_be_cancelled() {
    let (here, there) = UnixStream::pair().unwrap();
    let (mine, theirs) = fates();
    let old = Old::start(Simulated::booted(), here, mine, sharing());
    old.until(Status::Setup);
    old.job.cancel().unwrap();
    old.kept(Code::Cancelled);
    drop((there, theirs));
}

#[test]
fn a_process_that_cannot_be_started_leaves_the_guest_running() {
    let (here, there) = UnixStream::pair().unwrap();
    let (mine, theirs) = fates();
    let fails = || Err(MotionError::new(Code::HostIo, "starting it: no such file"));
    let machine = Simulated::booted();
    let old = Old::once_started(machine, here, mine, sharing(), Box::new(fails));
    let report = old.kept(Code::HostIo);
    assert!(report.error.unwrap().why.contains("no such file"));
    assert_eq!(old.notes.stopped.load(Ordering::SeqCst), 0);
    assert_eq!(theirs.outcome(), Outcome::Open);
    drop(there);
}

#[test]
fn ram_is_not_shared_where_no_word_decides() {
    let (here, there) = UnixStream::pair().unwrap();
    let given = Descriptors::one("main", there.into());
    let listener = Listener::bind(&Address::Fd("main".into()), &given).unwrap();
    let (builder, notes) = (Arc::new(Builder::default()), Arc::new(Notes::default()));
    let journal = Box::new(MemoryJournal::default());
    let (b, n) = (builder, notes.clone());
    assert!(DestinationJob::listen(listener, b, waiting(), journal, n, None).is_err());

    let particulars =
        Particulars::new(Token([1; 16]), uuid::Uuid::new_v4(), "m", "new", 0).unwrap();
    let peer = PeerAddress {
        address: Address::Fd("main".into()),
        descriptors: Arc::new(Descriptors::one("main", here.into())),
        sibling: None,
    };
    let journal = Box::new(MemoryJournal::default());
    let machine = Simulated::booted();
    let started = SourceJob::start(machine, particulars, peer, sharing(), journal, notes);
    assert!(started.is_err());
}
