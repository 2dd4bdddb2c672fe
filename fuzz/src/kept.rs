//! A guest on its way to a file and out of it again, on storage that fails wherever the input says, with
//! people who interfere at any time.

use crate::allocation;
use crate::input::Input;
use crate::messages::{MACHINE, SESSION, TOKEN};
use crate::stage::{Builder, Quiet, Stage};
use motion::clock::Moment;
use motion::handover::{self, MemoryJournal, Particulars, Side};
use motion::ram::Pass;
use motion::restore::{Claimant, How, Phase as AtRestore, RestoreJob, RestoreOptions, Terms};
use motion::source::{
    Command, Errand, Event, FileDesk, FileLane, FilePlace, Phase, Source, SourceIo, Todo,
};
use motion::{Blackout, Machine, MotionError, Purpose, SourceOptions, Status};
use snapshot::{Act, Course, Disk, Kind, Origin, Reader, Target, watched_by};
use state::Code;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// More than any motion to a file needs once nothing fails.
const MOST_STEPS: usize = 400;
/// Buffers of lanes, which have a fixed size, and the pages of the file itself.
const BUFFERS: usize = 48 << 20;

/// Plays a save or a copy, then up to three restores.
///
/// # Panics
/// When the guest may run here while it lies in a complete file, or is in neither; when a copy costs
/// the guest anything; when a saved guest goes on twice, or unclaimed.
pub fn run(data: &[u8]) {
    allocation::bounded(data.len() + BUFFERS / 256, || {
        let mut input = Input::new(data);
        let file = rustix::fs::memfd_create("kept", rustix::fs::MemfdFlags::CLOEXEC);
        let file = File::from(file.expect("memory is left"));
        let mut play = Play::new(&mut input, &file);
        play.begin();
        for _ in 0..input.byte() {
            play.step(&mut input);
            play.check();
        }
        play.calm();
        restores(&mut input, &file);
    });
}

/// Storage that fails as it is told.
#[derive(Default)]
struct Storage(RefCell<VecDeque<u8>>);

impl Disk for Storage {
    fn pass(&self, _: Act) -> io::Result<Course> {
        match self.0.borrow_mut().pop_front() {
            // EIO and ENOSPC.
            Some(0) => Err(io::Error::from_raw_os_error(5)),
            Some(1) => Err(io::Error::from_raw_os_error(28)),
            _ => Ok(Course::Done),
        }
    }
}

struct Office {
    now: u64,
    desk: FileDesk,
    storage: Rc<Storage>,
    machine: Arc<Stage>,
    lanes: Vec<FileLane>,
    errands: VecDeque<Errand>,
    events: VecDeque<Event>,
    pass: Option<Arc<Pass>>,
}

impl Office {
    fn see_to(&mut self, todo: Todo) {
        match todo {
            Todo::Errand(errand) => self.errands.push_back(*errand),
            Todo::Event(event) => self.events.push_back(event),
            Todo::Nothing => {}
        }
    }

    fn run_errand(&mut self) {
        if let Some(errand) = self.errands.pop_front() {
            let outcome = watched_by(self.storage.clone(), || errand.run());
            self.events.extend(self.desk.hear(outcome));
        }
    }

    fn write_pass(&mut self) {
        let Some(pass) = self.pass.take() else { return };
        let machine = self.machine.clone();
        let lanes = &mut self.lanes;
        let written = watched_by(self.storage.clone(), || {
            for lane in lanes {
                while let Some(chunk) = pass.claim() {
                    pass.count(lane.write(&*machine, &pass, chunk, &mut |_| 64)?);
                }
                lane.flush()?;
            }
            Ok(())
        });
        match written {
            Ok(()) => self.events.extend(self.desk.end_pass()),
            Err(error) => self.events.push_back(Event::Lost(error)),
        }
    }
}

impl SourceIo for Office {
    fn now(&self) -> Moment {
        Moment(self.now)
    }

    fn dial(&mut self) {
        let round_trip = Duration::ZERO;
        self.events.push_back(Event::Welcomed { clock_ahead: 0, round_trip });
    }

    fn join(&mut self, _: u16) {
        let lane = self.desk.lane(Instant::now());
        self.events.push_back(match lane {
            Ok(lane) => {
                self.lanes.push(lane);
                Event::Joined
            }
            Err(error) => Event::Lost(error),
        });
    }

    fn send(&mut self, message: &wire::Message) -> Result<(), MotionError> {
        let todo = self.desk.send(message);
        self.see_to(todo);
        Ok(())
    }

    fn send_by(&mut self, _: Option<Moment>) {}

    fn most_description(&self) -> u64 {
        self.desk.most_description()
    }

    fn inline_pages(&self) -> u64 {
        0
    }

    fn send_pass(&mut self, _: &Pass) -> Result<(), MotionError> {
        Ok(())
    }

    fn start_pass(&mut self, pass: &Arc<Pass>) {
        self.desk.begin_pass(pass);
        self.pass = Some(pass.clone());
    }

    fn ask(&mut self, message: handover::Message) {
        let todo = self.desk.ask(message);
        self.see_to(todo);
    }

    fn set_bandwidth(&mut self, _: Option<NonZeroU64>) {}

    fn stop_workers(&mut self) {
        self.pass = None;
        self.lanes.clear();
    }

    fn hang_up(&mut self) {
        self.stop_workers();
        let todo = self.desk.hang_up();
        self.see_to(todo);
    }
}

struct Play<'a> {
    source: Source,
    machine: Arc<Stage>,
    office: Office,
    purpose: Purpose,
    file: &'a File,
    guest_gone: bool,
    /// Something took too long, and comes back.
    hung: bool,
}

impl<'a> Play<'a> {
    fn new(input: &mut Input<'_>, file: &'a File) -> Self {
        let machine = Stage::booted();
        let purpose = match input.byte() % 3 {
            0 => Purpose::Move,
            1 => Purpose::Copy,
            _ => Purpose::CopyAndStop,
        };
        let options = SourceOptions {
            purpose,
            connections: 1,
            frozen: purpose == Purpose::Move,
            pause_before_switchover: input.byte() > 200,
            blackout: Blackout::Unlimited,
            stall_limit: Duration::from_secs(1 << 32),
            ..SourceOptions::default()
        };
        let mut journal = MemoryJournal::default();
        journal.failures = u32::from(input.byte().saturating_sub(250));
        let uuid = Uuid::from_bytes(MACHINE);
        let particulars =
            Particulars::new(TOKEN, uuid, "fuzz", "file:it", 1).expect("the texts are short");
        let target =
            Target::Descriptor { file: copy(file), direct: None, offset: 0, name: "it".into() };
        let place = FilePlace { target, direct: false, builder: "fuzz".into() };
        let desk = FileDesk::new(&*machine, &particulars, &options, place);
        let journal = Box::new(journal);
        let source =
            Source::new(machine.clone(), particulars, options, SESSION, journal, Arc::new(Quiet));
        let storage = Rc::new(Storage::default());
        let ails = input.byte();
        storage.0.borrow_mut().extend((0..ails).map(|_| input.byte() % 32));
        let office = Office {
            now: 0,
            desk,
            storage,
            machine: machine.clone(),
            lanes: Vec::new(),
            errands: VecDeque::new(),
            events: VecDeque::new(),
            pass: None,
        };
        Self { source, machine, office, purpose, file, guest_gone: false, hung: false }
    }

    fn begin(&mut self) {
        self.source.begin(&mut self.office);
    }

    fn handle(&mut self, event: Event) {
        if !self.source.is_over() {
            self.source.handle(event, &mut self.office);
        }
    }

    /// What came first is heard first.
    fn hear(&mut self) {
        let event = self.office.events.pop_front();
        event.into_iter().for_each(|event| self.handle(event));
    }

    /// A failure is heard before what came earlier from another thread. All else follows from what the
    /// source said when it had heard what came before.
    fn hear_failure(&mut self) {
        let is_failure = |event: &mut Event| matches!(event, Event::Lost(_));
        let event = self.office.events.pop_back_if(is_failure);
        event.into_iter().for_each(|event| self.handle(event));
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..=4 => self.hear(),
            5 => self.hear_failure(),
            6..=8 => self.office.run_errand(),
            9 | 10 => self.office.write_pass(),
            11 => {
                self.office.now += u64::from(input.short()) * 1_000_000;
                self.handle(Event::Tick);
            }
            12 => {
                let hangs = self.office.desk.hangs("doing something");
                self.hung |= hangs.is_some();
                hangs.into_iter().for_each(|event| self.handle(event));
            }
            _ => self.command(input),
        }
    }

    fn command(&mut self, input: &mut Input<'_>) {
        let owner = if input.flag() { Side::Here } else { Side::Peer };
        let command = match input.byte() % 8 {
            0 | 1 => Command::Cancel,
            2..=4 => Command::Proceed,
            5 => Command::Ask,
            6 => Command::Resolve { owner, fenced: false },
            _ => Command::GuestGone,
        };
        self.guest_gone |= command == Command::GuestGone;
        if !self.source.is_over() {
            let result = self.source.command(command, &mut self.office);
            let resolved = matches!(command, Command::Resolve { .. }) && result.is_ok();
            assert!(!resolved, "an operator resolves without `fenced`");
        }
    }

    fn reader(&self) -> Option<Reader> {
        open(self.file)
    }

    fn check(&self) {
        if self.machine.is_running() {
            assert!(self.machine.has_permit(), "the guest runs without a permit");
        }
        if self.purpose == Purpose::Move && self.machine.has_permit() {
            assert!(self.reader().is_none(), "the guest may run here, and is in the file");
        }
    }

    /// Nothing fails any more, and everybody does what is to be done.
    fn calm(&mut self) {
        self.office.storage.0.borrow_mut().clear();
        for _ in 0..MOST_STEPS {
            self.office.run_errand();
            self.office.write_pass();
            self.hear();
            if self.source.phase() == Phase::PreSwitchover {
                let _ = self.source.command(Command::Proceed, &mut self.office);
            }
            if let Some(at) = self.source.deadline() {
                self.office.now = self.office.now.max(at.0);
                self.handle(Event::Tick);
            }
            self.check();
        }
        let (phase, report) = (self.source.phase(), self.source.report());
        assert_eq!(phase, Phase::Ended, "{report:?}");
        let completed = report.status.0 == Status::Completed;
        // A copy that nobody waited for any more may be complete all the same.
        let may_come_late = self.hung && self.purpose != Purpose::Move;
        let is_there = self.reader().is_some();
        assert!(is_there == completed || is_there && may_come_late, "{report:?}");
        let gives = completed && self.purpose == Purpose::Move;
        assert_eq!(self.machine.has_permit(), !gives, "{report:?}");
        let stops = completed && self.purpose == Purpose::CopyAndStop;
        if self.machine.has_permit() && !self.guest_gone {
            assert_eq!(self.machine.is_running(), !stops, "{report:?}");
        }
        let code = report.error.as_ref().map(|error| error.code);
        assert!(!matches!(code, Some(Code::ProtocolError | Code::Internal)), "{report:?}");
    }
}

/// Whoever wants takes the guest out of the file, while that fails now and then.
fn restores(input: &mut Input<'_>, file: &File) {
    let Some(reader) = open(file) else { return };
    let is_save = reader.header().kind == Kind::Save;
    let mut owners = 0;
    for _ in 0..3 {
        let (terms, paused) = (terms(input), input.byte() > 200);
        let storage = Rc::new(Storage::default());
        let ails = input.byte() % 32;
        storage.0.borrow_mut().extend((0..ails).map(|_| input.byte() % 16));
        let phase = watched_by(storage, || restore(file, terms, paused));
        let owns = phase == Some(AtRestore::Owner);
        if is_save && terms == Terms::AsSaved {
            owners += u32::from(owns);
            assert!(owners <= 1, "a saved guest went on twice");
        }
        if is_save && owns && terms != Terms::Clone {
            let claim = open(file).is_some_and(|reader| reader.claim().is_some());
            assert!(claim, "a saved guest runs, and its file does not say so");
        }
        if terms == Terms::Reclaim && owns {
            owners = 1;
        }
    }
}

fn restore(file: &File, terms: Terms, paused: bool) -> Option<AtRestore> {
    let reader = Reader::open(origin(file), false).ok()?;
    let options = RestoreOptions {
        terms,
        how: How::Eager,
        paused,
        claimant: Claimant { host: "here".into(), boot: Uuid::from_u128(1) },
        threads: 1,
        io_stall: Duration::from_secs(5),
        verify: true,
    };
    let builder = Arc::new(Builder::default());
    let prepared = RestoreJob::prepare(reader, "it", builder, options, Arc::new(Quiet)).ok()?;
    let job = prepared.job();
    prepared.run();
    if job.phase() == AtRestore::Held {
        // It may fail, and then it is held as before.
        let _ = job.cont();
    }
    Some(job.phase())
}

fn terms(input: &mut Input<'_>) -> Terms {
    match input.byte() % 8 {
        0 => Terms::Clone,
        1 => Terms::Reclaim,
        _ => Terms::AsSaved,
    }
}

fn open(file: &File) -> Option<Reader> {
    Reader::open(origin(file), false).ok()
}

fn origin(file: &File) -> Origin {
    Origin::Descriptor { file: copy(file), direct: None, offset: 0, name: "it".into() }
}

fn copy(file: &File) -> OwnedFd {
    file.try_clone().expect("descriptors are left").into()
}
