//! A file, as a source's end: what a destination would do with pages and state, done to a file.
//!
//! READY means that everything but the mark of completeness is durable, COMMIT that the file is to be
//! marked as complete and put in its place, RUNNING that it is, and `refused` that it never will be.
//!
//! Where RAM is [shared](crate::RamWay::Shared) it stays in its memory file, and only state goes here.

mod apart;
mod before_write;
mod desk;
mod lane;
mod patience;

pub use self::before_write::BeforeWriteLane;
pub use self::desk::{Errand, FileDesk, Outcome, Todo};
pub use self::lane::FileLane;
use self::patience::Patience;
use super::job::{End, Setting};
use super::workers::{Bandwidth, Carry, Leave, Word, Workers};
use super::{Event, Source, SourceIo, SourceJob};
use crate::clock::{Moment, nanos};
use crate::guard::Guard;
use crate::handover::{self, Journal, Particulars};
use crate::ram::{Pacer, Pass};
use crate::{MotionError, Observer, Purpose, RamWay, SourceMachine, SourceOptions};
use links::wait_readable;
use memory::PageSet;
use snapshot::{Target, WriteError};
use state::{Code, Refusal};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use wire::Message;

/// A file that a guest is to be written to.
#[derive(Debug)]
pub struct FilePlace {
    /// Which.
    pub target: Target,
    /// Past the page cache, where the file system can do that.
    pub direct: bool,
    /// Who builds it: the program and its version.
    pub builder: String,
}

impl FilePlace {
    /// So many threads write well. What a running guest has written since lies scattered, and each
    /// piece of it waits for the disk.
    pub const WRITERS: u16 = 8;
}

/// Between two looks whether anything hangs.
const LOOK: Duration = Duration::from_millis(500);
/// The peer that a source listens to never is silent here: what hangs is noticed by [`Patience`].
const NEVER: Duration = Duration::from_secs(1 << 32);

impl SourceJob {
    /// Starts to write `machine` to a file.
    ///
    /// # Errors
    /// When the host has no descriptors or threads left, or has no random numbers.
    pub fn write(
        machine: Arc<dyn SourceMachine>,
        particulars: Particulars,
        place: FilePlace,
        options: SourceOptions,
        journal: Box<dyn Journal + Send>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, MotionError> {
        let session = *uuid::Uuid::new_v4().as_bytes();
        let io_stall = options.stall_limit;
        let options = SourceOptions { stall_limit: NEVER, ..options };
        let keeps = options.purpose == Purpose::CopyAtStart;
        let desk = FileDesk::new(&*machine, &particulars, &options, place);
        let refusals = match options.ram {
            RamWay::Passes => Vec::new(),
            RamWay::Shared => apart::refusals(machine.ram()),
        };
        let bandwidth = options.max_bandwidth;
        let kept = machine.clone();
        Self::begin(
            observer,
            |observer| Source::new(kept, particulars, options, session, journal, observer),
            |setting| FileEnd {
                bandwidth: Bandwidth::new(Pacer::new(bandwidth), setting.epoch),
                clerk: Arc::new(Patience::new(setting.epoch)),
                lanes: Vec::new(),
                setting,
                machine,
                desk,
                refusals,
                keeps,
                io_stall,
                guard: None,
                workers: None,
            },
        )
    }
}

/// The machine-readable reason why a file could not be written.
fn code(error: &WriteError) -> Code {
    match error {
        WriteError::Exists(_) => Code::FileExists,
        WriteError::NotRegular { .. } | WriteError::Header(_) => Code::InvalidArgument,
        WriteError::TooLarge { .. } => Code::Unsupported,
        WriteError::Io { .. } | WriteError::Ram { .. } => Code::HostIo,
        WriteError::Misused { .. } => Code::Internal,
        WriteError::NotUndone { failure, .. } => code(failure),
    }
}

/// What its threads have to say.
enum News {
    Event(Box<Event>),
    Sent,
    Failed(MotionError),
    Done(Outcome),
}

/// A file under way, and whoever works at it.
struct FileEnd {
    setting: Setting<News>,
    machine: Arc<dyn SourceMachine>,
    bandwidth: Bandwidth,
    desk: FileDesk,
    /// What is against it.
    refusals: Vec<Refusal>,
    /// RAM is to be kept as it is at the beginning.
    keeps: bool,
    /// The guest waits no longer than this for the disk.
    io_stall: Duration,
    /// What keeps it.
    guard: Option<Arc<Guard>>,
    workers: Option<Workers<Box<dyn Carry>>>,
    /// Whoever does what concerns the file as a whole.
    clerk: Arc<Patience>,
    lanes: Vec<Arc<Patience>>,
}

impl FileEnd {
    fn see_to(&self, todo: Todo) {
        match todo {
            Todo::Errand(errand) => self.spawn(*errand),
            Todo::Event(event) => self.later(event),
            Todo::Nothing => {}
        }
    }

    /// Does something to the file on a thread of its own.
    fn spawn(&self, errand: Errand) {
        let (mouth, clerk) = (self.setting.mouth.clone(), self.clerk.clone());
        let (name, doing, limit) = (errand.name(), errand.doing(), errand.limit());
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let outcome = clerk.during(doing, limit, || errand.run());
            mouth.say(News::Done(outcome));
        });
        if let Err(error) = spawned {
            let error = MotionError::sending("starting a thread", error);
            self.setting.mouth.say(News::Failed(error));
        }
    }

    fn start_workers(&mut self, count: u16) -> Result<(), MotionError> {
        let lane = |_| self.desk.lane(self.setting.epoch);
        let lanes = (0..count).map(lane).collect::<Result<Vec<FileLane>, _>>()?;
        self.lanes = lanes.iter().map(FileLane::patience).collect();
        if self.keeps {
            let mouth = self.setting.mouth.clone();
            let fail = Box::new(move |error| mouth.say(News::Failed(error)));
            self.guard = Some(Guard::start(self.machine.ram(), self.io_stall, fail)?);
        }
        let carry = |lane: FileLane| -> Box<dyn Carry> {
            match &self.guard {
                Some(guard) => Box::new(BeforeWriteLane::new(lane, guard.clone())),
                None => Box::new(lane),
            }
        };
        let lanes = lanes.into_iter().map(carry).collect();
        let mouth = self.setting.mouth.clone();
        let say = move |word| {
            mouth.say(match word {
                Word::Sent => News::Sent,
                Word::Failed(error) => News::Failed(error),
            });
        };
        let (machine, bandwidth) = (self.machine.clone(), self.bandwidth.clone());
        self.workers =
            Some(Workers::start(machine, bandwidth, lanes, Leave::Alone, Box::new(say))?);
        Ok(())
    }

    /// Nobody waits to write RAM any more.
    fn lift(&self) {
        if let Some(guard) = &self.guard {
            guard.lift();
        }
    }

    /// All that was to be kept of RAM is in the file, unless it was given up meanwhile: why is other news.
    fn kept(&mut self) -> Option<Vec<Event>> {
        let Some(guard) = &self.guard else { return Some(Vec::new()) };
        let report = guard.end()?;
        self.desk.was_written(&guard.overwritten());
        Some(vec![Event::Copied(Box::new(report))])
    }

    /// What the source is told when it has done what it is at.
    fn later(&self, event: Event) {
        self.setting.mouth.say(News::Event(Box::new(event)));
    }
}

impl SourceIo for FileEnd {
    fn now(&self) -> Moment {
        Moment(nanos(self.setting.epoch.elapsed()))
    }

    fn dial(&mut self) {
        self.later(Event::Welcomed { clock_ahead: 0, round_trip: Duration::ZERO });
    }

    fn join(&mut self, count: u16) {
        let event = match self.start_workers(count) {
            Ok(()) => Event::Joined,
            Err(error) => Event::Lost(error),
        };
        self.later(event);
    }

    fn log(
        &mut self,
        machine: &Arc<dyn SourceMachine>,
        on: bool,
    ) -> Option<Result<(), MotionError>> {
        self.setting.switch_log(machine, on, |event| News::Event(Box::new(event)))
    }

    fn send(&mut self, message: &Message) -> Result<(), MotionError> {
        let todo = self.desk.send(message);
        self.see_to(todo);
        Ok(())
    }

    fn send_by(&mut self, _: Option<Moment>) {}

    fn refusals(&self) -> Vec<Refusal> {
        self.refusals.clone()
    }

    fn most_description(&self) -> u64 {
        self.desk.most_description()
    }

    fn inline_pages(&self) -> u64 {
        // The coordinator does not wait for disks.
        0
    }

    fn send_pass(&mut self, pass: &Pass) -> Result<(), MotionError> {
        if pass.set().is_empty() {
            return Ok(());
        }
        Err(MotionError::new(Code::Internal, "a pass to a file is its workers' to write"))
    }

    fn keep_ram(&mut self, by: Option<Moment>) -> Result<PageSet, MotionError> {
        let epoch = self.setting.epoch;
        let now = || Moment(nanos(epoch.elapsed()));
        let none = || MotionError::new(Code::Internal, "nothing was made ready to keep RAM");
        self.guard.as_ref().ok_or_else(none)?.keep(by, &now)
    }

    fn start_pass(&mut self, pass: &Arc<Pass>) {
        self.desk.begin_pass(pass);
        if let Some(workers) = &self.workers {
            workers.send(pass);
        }
    }

    fn tells_for(&self) -> Option<Duration> {
        Some(FileDesk::SETTLING)
    }

    fn ask(&mut self, message: handover::Message) {
        let todo = self.desk.ask(message);
        self.see_to(todo);
    }

    fn set_bandwidth(&mut self, limit: Option<NonZeroU64>) {
        let now = self.now();
        self.bandwidth.lock().set_limit(limit, now);
    }

    fn stop_workers(&mut self) {
        self.lift();
        self.workers = None;
    }

    fn hang_up(&mut self) {
        self.lift();
        self.workers = None;
        let todo = self.desk.hang_up();
        self.see_to(todo);
    }
}

impl End for FileEnd {
    type News = News;

    fn hear(&mut self, news: News) -> Vec<Event> {
        match news {
            News::Event(event) => vec![*event],
            News::Failed(error) => vec![Event::Lost(error)],
            News::Sent => {
                let Some(mut events) = self.kept() else { return Vec::new() };
                events.extend(self.desk.end_pass());
                events
            }
            News::Done(outcome) => self.desk.hear(outcome),
        }
    }

    fn wait(&mut self, until: Option<Instant>) -> Vec<Event> {
        // However idle all are at this moment: whoever begins something later does not say so here.
        let look = Instant::now() + LOOK;
        let until = until.map_or(look, |until| until.min(look));
        if let Err(error) = wait_readable(&[], self.setting.mouth.waker(), Some(until)) {
            return vec![Event::Lost(MotionError::sending("waiting for the disk", error))];
        }
        let doing = self.lanes.iter().chain([&self.clerk]).find_map(|p| p.exceeded());
        doing.and_then(|doing| self.desk.hangs(doing)).into_iter().collect()
    }
}
