//! Guests that are written to files: what is in the file, and who has the guest, whatever fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

extern crate whimbrel_motion as motion;

mod simulated;

use memory::{PageRange, PageSet};
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
    begin(machine, path, options).wait()
}

fn begin(machine: &Arc<Simulated>, path: &Path, options: SourceOptions) -> SourceJob {
    let target = Target::Path { path: path.to_owned(), offset: 0, force: false };
    let place = FilePlace { target, direct: true, builder: "test".to_owned() };
    let journal = Box::<MemoryJournal>::default();
    let notes = Arc::new(Notes::default());
    let job = SourceJob::write(machine.clone(), particulars(), place, options, journal, notes);
    job.unwrap()
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

fn at_start() -> SourceOptions {
    SourceOptions { purpose: Purpose::CopyAtStart, ..SourceOptions::default() }
}

/// Slow enough that the guest writes while it is copied.
fn slowly(rate: u64) -> SourceOptions {
    SourceOptions { max_bandwidth: NonZeroU64::new(rate), ..at_start() }
}

/// A guest that writes all the time, until the value is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Busy {
    fn begin(machine: &Arc<Simulated>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        Self { thread: Some(busy(machine, &stop)), stop }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// The guest is as if nothing had happened: it runs, and no write of it waits for anything.
fn is_unharmed(machine: &Simulated) {
    assert!(machine.is_running() && machine.has_permit() && !machine.ram().may_wait());
    for page in 0..machine.ram().pages() {
        assert!(machine.write(page, 1));
    }
}

#[test]
fn a_copy_of_the_start_is_what_ram_was_then_whatever_is_written_meanwhile() {
    for connections in [1, 2, 5] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let machine = Simulated::booted();
        fill(&machine);
        let guest = Busy::begin(&machine);
        let options = SourceOptions { connections, ..slowly(8 << 20) };
        let job = begin(&machine, &path, options);
        let report = job.wait();
        assert_eq!(report.status.0, Status::Completed, "{report:#?}");
        drop(guest);
        let (reader, ram, writes) = read(&path);
        assert_eq!(reader.header().kind, Kind::Snapshot);
        assert!(machine.writes() > writes, "the guest went on");
        assert!(ram == contents(writes), "what is in the file is not what was in RAM at the start");
        let copy = report.copy.unwrap();
        assert!(copy.fault_pages > 0, "{copy:?}");
        assert_eq!(copy.fault_pages + copy.streamed_pages, copy.protected_pages);
        assert_eq!(report.passes.len(), 1, "nothing is written twice");
        let ram = report.ram;
        assert_eq!(ram.data_pages + ram.skipped_pages, ram.total_pages, "{ram:?}");
        let blackout = report.blackout.unwrap();
        assert_eq!(blackout.stages.iter().map(|s| s.ns).sum::<u64>(), blackout.ns);
        is_unharmed(&machine);
    }
}

#[test]
fn what_is_first_touched_after_the_start_is_not_in_the_copy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let machine = Simulated::booted();
    // In a block of which nothing else was touched, beside a page that was, and in between.
    machine.write(10, 1);
    machine.write(1034, 2);
    let hold = SourceOptions { pause_before_switchover: true, ..slowly(4096) };
    let job = begin(&machine, &path, hold);
    wait_for(|| job.progress().status.0 == Status::PreSwitchover);
    assert!(!machine.is_running());
    job.proceed().unwrap();
    wait_for(|| machine.is_running());
    for page in [11, 600, 1000, 1033, 1035, 4000] {
        machine.write(page, 9);
    }
    machine.write(1034, 9);
    let mut report = job.report();
    assert!(report.is_none(), "it is slow");
    job.command(Command::SetBandwidth(None)).unwrap();
    report = Some(job.wait());
    assert_eq!(report.unwrap().status.0, Status::Completed);
    let (reader, ram, _) = read(&path);
    let present: Vec<_> = reader.present().runs().collect();
    assert_eq!(present, [PageRange::new(10, 1), PageRange::new(1034, 1)]);
    assert_eq!((ram[10 * 4096], ram[1034 * 4096]), (1, 2));
    is_unharmed(&machine);
}

fn wait_for(is_so: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_guest_that_stood_still_may_be_run_while_it_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let machine = Simulated::booted();
    fill(&machine);
    machine.pause().unwrap();
    let job = begin(&machine, &path, slowly(4 << 20));
    wait_for(|| job.progress().status.0 == Status::Active && machine.has_permit());
    assert!(!machine.is_running(), "nobody has run it");
    let permit = machine.surrender().unwrap();
    machine.run(permit).unwrap();
    let guest = Busy::begin(&machine);
    assert_eq!(job.wait().status.0, Status::Completed);
    drop(guest);
    let (_, ram, writes) = read(&path);
    assert_eq!(writes, 600);
    assert!(ram == contents(writes));
}

#[test]
fn a_copy_of_the_start_that_is_cancelled_at_any_time_leaves_the_guest_unharmed_and_no_file() {
    let machine = Simulated::booted();
    fill(&machine);
    for delay in 0..25 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let guest = Busy::begin(&machine);
        let job = begin(&machine, &path, slowly(64 << 20));
        std::thread::sleep(Duration::from_millis(delay * 7 / 2));
        let cancelled = job.cancel();
        let report = job.wait();
        drop(guest);
        is_unharmed(&machine);
        if cancelled.is_ok() {
            assert_eq!(report.status.0, Status::Cancelled, "{report:#?}");
            let was_stopped = report.passes.len() == 1;
            assert!(!was_stopped || report.given_up_pause_ns.is_some(), "{report:#?}");
            wait_for(|| std::fs::read_dir(folder.path()).unwrap().count() == 0);
        } else {
            assert_eq!(report.status.0, Status::Completed, "{report:#?}");
        }
    }
}

/// A file system of so many KiB, until the value is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(kib: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={kib}k");
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(folder.path())
            .status();
        assert!(mount.unwrap().success(), "this test mounts a small file system, and may not");
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_that_is_full_at_any_write_leaves_the_guest_unharmed() {
    let machine = Simulated::booted();
    fill(&machine);
    (0..2048).for_each(|page| assert!(machine.write(page, 7)));
    // From not even a header to all but the last table.
    for kib in (4..8192).step_by(431) {
        let disk = SmallDisk::mount(kib);
        let guest = Busy::begin(&machine);
        let report = write(&machine, &disk.0.path().join("a"), at_start());
        drop(guest);
        assert_eq!(report.status.0, Status::Failed, "{kib} KiB: {report:#?}");
        assert_eq!(report.error.unwrap().code, Code::HostIo);
        is_unharmed(&machine);
        (2048..4096).for_each(|page| assert!(machine.write(page, 0)));
    }
}

#[test]
fn a_pause_that_would_be_too_long_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let machine = Simulated::booted();
    fill(&machine);
    let none = Blackout::Limit(Duration::from_nanos(1));
    let report = write(&machine, &path, SourceOptions { blackout: none, ..at_start() });
    assert_eq!(report.error.unwrap().code, Code::BudgetExceeded);
    assert!(report.given_up_pause_ns.is_some());
    is_unharmed(&machine);
    // Of the end, too: however little is left to copy when it stands still at last.
    let limit = Duration::from_millis(400);
    *machine.pause_takes.lock().unwrap() = limit;
    let options = SourceOptions {
        purpose: Purpose::Copy,
        blackout: Blackout::Limit(limit),
        ..SourceOptions::default()
    };
    let report = write(&machine, &path, options);
    assert_eq!(report.error.unwrap().code, Code::BudgetExceeded);
    assert!(report.given_up_pause_ns.is_some() && !path.exists());
    is_unharmed(&machine);
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
    cannot_keep: bool,
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
    fn keep_ram(&mut self, _: Option<Moment>) -> Result<PageSet, MotionError> {
        if self.cannot_keep {
            return Err(MotionError::new(Code::CannotProtect, "no"));
        }
        Ok(PageSet::full(4096))
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
            Just(Purpose::Move), Just(Purpose::Copy), Just(Purpose::CopyAtStart),
            Just(Purpose::CopyAndStop)
        ],
        runs in any::<bool>(),
        hold in any::<bool>(),
        cannot_keep in any::<bool>(),
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
        let mut stage = Stage { cannot_keep, ..Stage::default() };
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
            _ => prop_assert!(machine.has_permit()),
        }
        if machine.has_permit() && !gone {
            let stays = completed && purpose == Purpose::CopyAndStop;
            prop_assert_eq!(machine.is_running(), runs && !stays);
        }
        prop_assert!(!machine.is_logging());
    }
}
