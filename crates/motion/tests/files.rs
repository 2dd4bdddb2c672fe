//! Guests that are written to files: what is in the file, and who has the guest, whatever fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

extern crate whimbrel_motion as motion;

mod simulated;

use memory::PageRange;
use motion::clock::Moment;
use motion::handover::{self, MemoryJournal, Particulars, Side, Token, Verdict};
use motion::ram::Pass;
use motion::source::{Command, Event, FilePlace, Phase, Source, SourceIo, SourceJob};
use motion::{
    Blackout, Machine, MotionError, Purpose, Report, SourceOptions, Status, TimeoutAction,
};
use proptest::prelude::*;
use simulated::{Counter, Notes, Simulated};
use snapshot::{Buffer, Kind, Origin, Reader, Target};
use state::{Bundle, Code};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wire::{Message, Ready, Running};

const TOKEN: Token = Token([7; 16]);

fn particulars() -> Particulars {
    Particulars::new(TOKEN, uuid::Uuid::from_u128(5), "m", "file:/x", 0).unwrap()
}

fn fill(machine: &Simulated) {
    for page in 0..600 {
        assert!(machine.write(page * 3, u8::try_from(page % 255).unwrap()));
    }
}

/// What the guest that [`busy`] runs has in RAM after so many writes.
fn contents(writes: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(simulated::RAM).unwrap()];
    let mut write = |page: u64, value: u8| {
        let at = usize::try_from(page * 4096).unwrap();
        bytes[at..at + 4096].fill(value);
    };
    (0..600).for_each(|page| write(page * 3, u8::try_from(page % 255).unwrap()));
    (1..=writes - 600).for_each(|n| write(n * 7 % 4096, u8::try_from(n % 251).unwrap()));
    bytes
}

/// Writes page after page until told to stop.
fn busy(machine: &Arc<Simulated>, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let (machine, stop) = (machine.clone(), stop.clone());
    std::thread::spawn(move || {
        let mut n = 1u64;
        while !stop.load(Ordering::SeqCst) {
            if machine.write(n * 7 % 4096, u8::try_from(n % 251).unwrap()) {
                n += 1;
            } else {
                std::thread::yield_now();
            }
        }
    })
}

fn write(machine: &Arc<Simulated>, path: &Path, options: SourceOptions) -> Report {
    let target = Target::Path { path: path.to_owned(), offset: 0, force: false };
    let place = FilePlace { target, direct: true, builder: "test".to_owned() };
    let journal = Box::<MemoryJournal>::default();
    let notes = Arc::new(Notes::default());
    let job = SourceJob::write(machine.clone(), particulars(), place, options, journal, notes);
    job.unwrap().wait()
}

/// What is in a file: the RAM, and how many writes the guest had done.
fn read(path: &Path) -> (Reader, Vec<u8>, u64) {
    let origin = Origin::Path { path: path.to_owned(), offset: 0 };
    let reader = Reader::open(origin, false).unwrap();
    let pages = simulated::RAM / 4096;
    let mut buffer = Buffer::new(pages);
    reader.read(PageRange::new(0, pages), &mut buffer).unwrap();
    let mut state = Bundle::decode(reader.state()).unwrap();
    let counter: Counter = state.take("").unwrap();
    (reader, buffer.as_slice().to_vec(), counter.writes)
}

#[test]
fn a_saved_guest_is_in_its_file_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let machine = Simulated::booted();
    fill(&machine);
    let options = SourceOptions { frozen: true, ..SourceOptions::default() };
    let report = write(&machine, &path, options);
    assert_eq!(report.status.0, Status::Completed, "{report:#?}");
    assert!(!machine.is_running() && !machine.has_permit() && !machine.is_logging());
    let (reader, ram, writes) = read(&path);
    assert_eq!((reader.header().kind, writes), (Kind::Save, 600));
    assert!(ram == machine.contents(), "what is in the file is not what was in RAM");
    // The page of zeroes was touched, and is a hole.
    assert_eq!(reader.present().count(), 597);
    assert_eq!(report.file.unwrap().kind, "save");
}

#[test]
fn a_copy_is_of_one_moment_while_the_guest_writes_on() {
    for connections in [1, 2, 5] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let machine = Simulated::booted();
        fill(&machine);
        let stop = Arc::new(AtomicBool::new(false));
        let guest = busy(&machine, &stop);
        let options = SourceOptions {
            purpose: Purpose::Copy,
            connections,
            blackout: Blackout::Unlimited,
            timeout: Some(Duration::from_secs(2)),
            timeout_action: TimeoutAction::Switch,
            ..SourceOptions::default()
        };
        let report = write(&machine, &path, options);
        assert_eq!(report.status.0, Status::Completed, "{report:#?}");
        assert!(machine.is_running() && machine.has_permit() && !machine.is_logging());
        stop.store(true, Ordering::SeqCst);
        guest.join().unwrap();
        let (reader, ram, writes) = read(&path);
        assert_eq!(reader.header().kind, Kind::Snapshot);
        assert!(ram == contents(writes), "what is in the file never was in RAM at one moment");
        let blackout = report.blackout.unwrap();
        assert_eq!(blackout.stages.iter().map(|s| s.ns).sum::<u64>(), blackout.ns);
    }
}

#[test]
fn a_file_that_cannot_be_made_leaves_the_guest_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    std::fs::write(&path, "old").unwrap();
    let machine = Simulated::booted();
    let frozen = SourceOptions { frozen: true, ..SourceOptions::default() };
    let report = write(&machine, &path, frozen.clone());
    assert_eq!(report.error.unwrap().code, Code::FileExists);
    assert!(report.given_up_pause_ns.is_none(), "it was not even stopped");
    let report = write(&machine, &folder.path().join("there/is/none"), frozen);
    assert_eq!(report.error.unwrap().code, Code::HostIo);
    assert!(machine.is_running() && machine.has_permit());
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

/// How far the file is that is written in a play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum File {
    #[default]
    None,
    Begun,
    Durable,
    /// The mark of completeness is being written.
    Marking,
    Complete,
    Gone,
}

/// What a play may do next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The file end does what it was asked to.
    Work,
    /// It fails at that, and makes sure that nothing is left.
    Fail,
    /// It takes too long.
    Hang,
    Command(Command),
    Tick(u64),
}

/// A file end that does what the play says, when it says it.
#[derive(Default)]
struct Stage {
    now: u64,
    file: File,
    todo: Vec<Todo>,
    pass: Option<Arc<Pass>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Todo {
    Welcome,
    Make,
    Join,
    Pass,
    Finish,
    Complete,
    Abandon,
    Answer,
}

impl SourceIo for Stage {
    fn now(&self) -> Moment {
        Moment(self.now)
    }
    fn dial(&mut self) {
        self.todo.push(Todo::Welcome);
    }
    fn join(&mut self, _: u16) {
        self.todo.push(Todo::Join);
    }
    fn send(&mut self, message: &Message) -> Result<(), MotionError> {
        match message {
            Message::Describe(_) => self.todo.push(Todo::Make),
            Message::State(_) => self.todo.push(Todo::Finish),
            Message::Commit(_) => {
                self.file = File::Marking;
                self.todo.push(Todo::Complete);
            }
            Message::Abort(_) => self.todo.push(Todo::Abandon),
            _ => {}
        }
        Ok(())
    }
    fn send_by(&mut self, _: Option<Moment>) {}
    fn inline_pages(&self) -> u64 {
        0
    }
    fn send_pass(&mut self, _: &Pass) -> Result<(), MotionError> {
        Ok(())
    }
    fn start_pass(&mut self, pass: &Arc<Pass>) {
        while pass.claim().is_some() {}
        self.pass = Some(pass.clone());
        self.todo.push(Todo::Pass);
    }
    fn ask(&mut self, message: handover::Message) {
        match message.word {
            handover::Word::Abort => self.todo.push(Todo::Abandon),
            _ => self.todo.push(Todo::Answer),
        }
    }
    fn set_bandwidth(&mut self, _: Option<NonZeroU64>) {}
    fn stop_workers(&mut self) {}
    fn hang_up(&mut self) {
        if matches!(self.file, File::Begun | File::Durable) {
            self.file = File::Gone;
        }
    }
}

impl Stage {
    /// Does the oldest thing that it was asked to do; what the source hears of it.
    fn work(&mut self, fails: bool) -> Vec<Event> {
        if self.todo.is_empty() {
            return Vec::new();
        }
        let failed = || MotionError::new(Code::HostIo, "no space left");
        match self.todo.remove(0) {
            Todo::Welcome => {
                vec![Event::Welcomed { clock_ahead: 0, round_trip: Duration::ZERO }]
            }
            Todo::Make if fails => vec![Event::Lost(failed())],
            Todo::Make => {
                self.file = File::Begun;
                vec![Event::Message(Message::Accepted { save: 0, restore: 0 })]
            }
            Todo::Join => vec![Event::Joined],
            Todo::Pass | Todo::Finish if fails => vec![Event::Lost(failed())],
            Todo::Pass => {
                let number = self.pass.as_ref().unwrap().number();
                vec![Event::PassSent, Event::Message(Message::PassDone(number))]
            }
            Todo::Finish => {
                if self.file == File::Begun {
                    self.file = File::Durable;
                }
                vec![Event::Message(Message::Ready(Ready { token: TOKEN.0, restore: 0 }))]
            }
            Todo::Complete if fails => {
                self.file = File::Gone;
                vec![Event::Denied(failed())]
            }
            Todo::Complete => {
                self.file = File::Complete;
                let running = Running { token: TOKEN.0, start: 0, held: u64::MAX };
                vec![Event::Message(Message::Running(running))]
            }
            Todo::Abandon => {
                assert_ne!(self.file, File::Complete, "a complete file was given up");
                self.file = File::Gone;
                vec![Event::Message(Message::Answer(TOKEN.0, wire::Verdict::Refused))]
            }
            Todo::Answer => match self.file {
                File::Complete => {
                    vec![Event::Told(TOKEN.says(handover::Word::Answer(Verdict::Committed)))]
                }
                File::Gone => {
                    vec![Event::Told(TOKEN.says(handover::Word::Answer(Verdict::Refused)))]
                }
                _ => vec![Event::NotAsked],
            },
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => Just(Step::Work),
        2 => Just(Step::Fail),
        1 => Just(Step::Hang),
        1 => Just(Step::Command(Command::Cancel)),
        2 => Just(Step::Command(Command::Proceed)),
        1 => Just(Step::Command(Command::GuestGone)),
        1 => Just(Step::Command(Command::Ask)),
        1 => Just(Step::Command(Command::Resolve { owner: Side::Here, fenced: false })),
        3 => (0u64..10_000_000_000).prop_map(Step::Tick),
    ]
}

proptest! {
    /// Never two: where the file is complete and the guest was given to it, it cannot run here.
    /// Never none: where the file is not complete it is here, and runs if it ran.
    #[test]
    fn the_guest_is_in_the_file_or_here_whatever_fails(
        steps in proptest::collection::vec(any_step(), 0..60),
        purpose in prop_oneof![
            Just(Purpose::Move), Just(Purpose::Copy), Just(Purpose::CopyAndStop)
        ],
        runs in any::<bool>(),
        hold in any::<bool>(),
    ) {
        let machine = Simulated::booted();
        machine.write(3, 3);
        if !runs {
            machine.pause().unwrap();
        }
        let options = SourceOptions {
            purpose,
            frozen: purpose == Purpose::Move,
            pause_before_switchover: hold,
            blackout: Blackout::Unlimited,
            stall_limit: Duration::from_secs(1 << 32),
            ..SourceOptions::default()
        };
        let journal = Box::<MemoryJournal>::default();
        let notes = Arc::new(Notes::default());
        let mut source =
            Source::new(machine.clone(), particulars(), options, [1; 16], journal, notes);
        let mut stage = Stage::default();
        let (mut gone, mut hung) = (false, false);
        source.begin(&mut stage);
        let calm = std::iter::repeat_n(Step::Work, 40);
        let told = [Step::Command(Command::Proceed)].into_iter().chain(calm.clone());
        let rest = calm.chain(told).chain([Step::Tick(200_000_000_000)]);
        for step in steps.into_iter().chain(rest.clone()).chain(rest) {
            let events = match step {
                Step::Work => stage.work(false),
                Step::Fail => stage.work(true),
                Step::Hang if !hung => {
                    hung = true;
                    vec![Event::Lost(MotionError::new(Code::LinkStalled, "it takes too long"))]
                }
                Step::Hang => Vec::new(),
                Step::Command(command) => {
                    gone |= command == Command::GuestGone;
                    let result = source.command(command, &mut stage);
                    if command == Command::Cancel && result.is_err() {
                        let too_late = matches!(
                            source.phase(),
                            Phase::Completing | Phase::AwaitingRunning | Phase::Undecided
                                | Phase::Settling | Phase::Ended
                        );
                        prop_assert!(too_late, "not cancelled in {:?}", source.phase());
                    }
                    Vec::new()
                }
                Step::Tick(time) => {
                    stage.now += time;
                    vec![Event::Tick]
                }
            };
            for event in events {
                if !source.is_over() {
                    source.handle(event, &mut stage);
                }
            }
            prop_assert!(!machine.is_running() || machine.has_permit());
            if purpose == Purpose::Move && matches!(stage.file, File::Marking | File::Complete) {
                prop_assert!(!machine.has_permit(), "the guest is in the file, and here");
            }
        }
        let phase = source.phase();
        if phase == Phase::Undecided {
            prop_assert!(hung && purpose == Purpose::Move, "undecided, and nothing hung");
            return Ok(());
        }
        prop_assert_eq!(phase, Phase::Ended);
        let completed = source.report().status.0 == Status::Completed;
        let in_the_file = stage.file == File::Complete;
        prop_assert!(in_the_file || !completed, "there is no file");
        prop_assert!(completed || !in_the_file || hung, "there is a file, and it is said there is none");
        match purpose {
            Purpose::Move => prop_assert_eq!(machine.has_permit(), !in_the_file),
            Purpose::Copy | Purpose::CopyAndStop => prop_assert!(machine.has_permit()),
        }
        if machine.has_permit() && !gone {
            let stays = completed && purpose == Purpose::CopyAndStop;
            prop_assert_eq!(machine.is_running(), runs && !stays);
        }
        prop_assert!(!machine.is_logging());
    }
}
