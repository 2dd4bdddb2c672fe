//! A file, as a source's end: what a destination would do with pages and state, done to a file.
//!
//! READY means that everything but the mark of completeness is durable, COMMIT that the file is to be
//! marked as complete and put in its place, RUNNING that it is, and `refused` that it never will be.

mod lane;
mod patience;

use self::lane::FileLane;
use self::patience::{LIMIT, Patience, SLOWEST_DISK};
use super::job::{End, Setting};
use super::workers::{Bandwidth, Leave, Word, Workers};
use super::{Event, Source, SourceIo, SourceJob};
use crate::clock::{Moment, nanos};
use crate::handover::{self, Journal, Particulars, Token, Verdict};
use crate::ram::{Pacer, Pass, PassKind};
use crate::report::FileReport;
use crate::{MotionError, Observer, Purpose, SourceMachine, SourceOptions};
use links::wait_readable;
use memory::PageSet;
use snapshot::{Header, Target, WriteError, WriteOptions, Writer};
use state::{Code, Refusal};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use wire::{Message, Ready, Running};

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
        let options = SourceOptions { stall_limit: NEVER, ..options };
        let header = header(&*machine, &particulars, &options, &place);
        let (token, bandwidth) = (particulars.token(), options.max_bandwidth);
        let peer = particulars.peer().to_owned();
        let kept = machine.clone();
        Self::begin(
            observer,
            |observer| Source::new(kept, particulars, options, session, journal, observer),
            |setting| FileEnd {
                bandwidth: Bandwidth::new(Pacer::new(bandwidth), setting.epoch),
                clerk: Arc::new(Patience::new(setting.epoch)),
                lanes: Vec::new(),
                recent: PageSet::new(machine.ram().pages()),
                setting,
                machine,
                peer,
                token,
                header,
                place: Some(place),
                writer: None,
                workers: None,
                pass: None,
                bytes: 0,
                outcome: None,
                hung: false,
            },
        )
    }
}

fn header(
    machine: &dyn SourceMachine,
    particulars: &Particulars,
    options: &SourceOptions,
    place: &FilePlace,
) -> Header {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Header {
        kind: match options.purpose {
            Purpose::Move => snapshot::Kind::Save,
            Purpose::Copy | Purpose::CopyAndStop => snapshot::Kind::Snapshot,
        },
        machine: particulars.machine(),
        name: particulars.name().to_owned(),
        snapshot: uuid::Uuid::new_v4(),
        taken: nanos(now),
        builder: place.builder.clone(),
        regions: machine.ram().layout().regions().to_vec(),
        backing: machine.ram().backing(),
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
    Created(Result<Arc<Writer>, WriteError>),
    Sent,
    Failed(MotionError),
    Finished(Result<(), WriteError>),
    Completed(Result<FileReport, WriteError>),
    Abandoned(Result<(), WriteError>),
}

/// A file under way.
struct FileEnd {
    setting: Setting<News>,
    machine: Arc<dyn SourceMachine>,
    bandwidth: Bandwidth,
    /// What the file is called in messages.
    peer: String,
    token: Token,
    header: Header,
    /// Until it is made.
    place: Option<FilePlace>,
    writer: Option<Arc<Writer>>,
    workers: Option<Workers<FileLane>>,
    /// Whoever does what concerns the file as a whole.
    clerk: Arc<Patience>,
    lanes: Vec<Arc<Patience>>,
    pass: Option<Arc<Pass>>,
    /// What the guest wrote last.
    recent: PageSet,
    /// Bytes given to the file so far.
    bytes: u64,
    /// What became of the file after COMMIT.
    outcome: Option<Verdict>,
    hung: bool,
}

impl FileEnd {
    /// Does something to the file on a thread of its own, which may take so long.
    fn spawn(
        &self,
        name: &str,
        doing: &'static str,
        limit: Duration,
        task: impl FnOnce() -> News + Send + 'static,
    ) {
        let (mouth, clerk) = (self.setting.mouth.clone(), self.clerk.clone());
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let news = clerk.during(doing, limit, task);
            mouth.say(news);
        });
        if let Err(error) = spawned {
            let error = MotionError::sending("starting a thread", error);
            self.setting.mouth.say(News::Failed(error));
        }
    }

    /// What may be written back at once takes its time, even where nothing hangs.
    fn sync_limit(&self) -> Duration {
        LIMIT + Duration::from_secs(self.bytes / SLOWEST_DISK)
    }

    fn with_writer(
        &self,
        name: &str,
        doing: &'static str,
        task: impl FnOnce(&Writer) -> News + Send + 'static,
    ) {
        match self.writer.clone() {
            Some(writer) => self.spawn(name, doing, self.sync_limit(), move || task(&writer)),
            // There is no file yet, and will be none.
            None => self.setting.mouth.say(News::Abandoned(Ok(()))),
        }
    }

    fn create(&mut self, description: Vec<u8>) {
        let Some(place) = self.place.take() else { return };
        let header = self.header.clone();
        self.spawn("file-create", "making the file", LIMIT, move || {
            let options = WriteOptions { direct: place.direct };
            News::Created(Writer::create(place.target, header, &description, &options))
        });
    }

    fn finish(&self, state: Vec<u8>) {
        let recent = self.recent.clone();
        self.with_writer("file-finish", "making the file durable", move |writer| {
            News::Finished(writer.finish(&state, &recent))
        });
    }

    fn complete(&self) {
        let (id, kind) = (self.header.snapshot, self.header.kind.as_str());
        self.with_writer("file-complete", "completing the file", move |writer| {
            News::Completed(writer.commit().map(|written| FileReport {
                snapshot: id.to_string(),
                kind,
                size: written.size,
                on_disk: written.allocated,
                buffered_because: writer.buffered_because().map(str::to_owned),
            }))
        });
    }

    fn abandon(&self) {
        self.with_writer("file-abandon", "removing the file", |writer| {
            News::Abandoned(writer.abandon())
        });
    }

    fn start_workers(&mut self, count: u16) -> Result<(), MotionError> {
        let Some(writer) = &self.writer else {
            return Err(MotionError::new(Code::Internal, "there is no file to write to"));
        };
        let lane = |_| FileLane::new(writer.lane(), self.setting.epoch, &self.peer);
        let lanes: Vec<FileLane> = (0..count).map(lane).collect();
        self.lanes = lanes.iter().map(FileLane::patience).collect();
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

    /// Whether something takes so long that it will not come back, the first time that it is seen.
    fn hangs(&mut self) -> Option<MotionError> {
        if self.hung {
            return None;
        }
        let doing = self.lanes.iter().chain([&self.clerk]).find_map(|p| p.exceeded())?;
        self.hung = true;
        let why = format!(
            "{}: {doing} takes too long: the disk, or the network behind it, hangs",
            self.peer
        );
        Some(MotionError::new(Code::LinkStalled, why))
    }

    fn failed(&self, doing: &str, error: &WriteError) -> MotionError {
        MotionError::new(code(error), format!("{doing} {}: {error}", self.peer))
    }

    /// What the source is told when it has done what it is at.
    fn later(&self, event: Event) {
        self.setting.mouth.say(News::Event(Box::new(event)));
    }

    /// Why there is no file, before anything was done to the guest.
    fn not_made(&self, error: &WriteError) -> Event {
        match code(error) {
            Code::HostIo => Event::Lost(self.failed("making the file", error)),
            code => Event::Refused(vec![Refusal::new(code, &self.peer, error.to_string(), "")]),
        }
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

    fn send(&mut self, message: &Message) -> Result<(), MotionError> {
        match message {
            Message::Describe(describe) => self.create(describe.description.clone()),
            Message::Ping(number) => {
                self.later(Event::Message(Message::Pong(*number, self.bytes)));
            }
            Message::State(state) => self.finish(state.state.clone()),
            Message::Commit(_) => self.complete(),
            Message::Abort(_) => self.abandon(),
            // The rest is news to nobody: a file that is not completed goes with the motion's end.
            _ => {}
        }
        Ok(())
    }

    fn send_by(&mut self, _: Option<Moment>) {}

    fn most_description(&self) -> u64 {
        snapshot::most_description(self.header.ram())
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

    fn start_pass(&mut self, pass: &Arc<Pass>) {
        if pass.kind() == PassKind::Later && !pass.set().is_empty() {
            self.recent.clone_from(pass.set());
        }
        // What a running guest has written since lies scattered. No lane writes between two passes.
        if pass.kind() == PassKind::Later
            && let Some(Err(error)) = self.writer.as_ref().map(|writer| writer.gather())
        {
            tracing::debug!(%error, "the rest is written past the page cache too");
        }
        self.pass = Some(pass.clone());
        if let Some(workers) = &self.workers {
            workers.send(pass);
        }
    }

    fn ask(&mut self, message: handover::Message) {
        match (message.word, self.outcome) {
            (handover::Word::Abort, None) => self.abandon(),
            (handover::Word::Commit, None) if !self.clerk.is_busy() => self.complete(),
            (_, Some(verdict)) => {
                let answer = self.token.says(handover::Word::Answer(verdict));
                self.later(Event::Told(answer));
            }
            (_, None) => self.later(Event::NotAsked),
        }
    }

    fn set_bandwidth(&mut self, limit: Option<NonZeroU64>) {
        let now = self.now();
        self.bandwidth.lock().set_limit(limit, now);
    }

    fn stop_workers(&mut self) {
        self.workers = None;
    }

    fn hang_up(&mut self) {
        self.workers = None;
        if self.outcome.is_none() && self.writer.is_some() {
            self.abandon();
        }
    }
}

impl End for FileEnd {
    type News = News;

    fn hear(&mut self, news: News) -> Vec<Event> {
        let answer = |verdict| Event::Message(Message::Answer(self.token.0, verdict));
        match news {
            News::Event(event) => vec![*event],
            News::Failed(error) => vec![Event::Lost(error)],
            News::Created(Ok(writer)) => {
                self.writer = Some(writer);
                vec![Event::Message(Message::Accepted { save: 0, restore: 0 })]
            }
            News::Created(Err(error)) => vec![self.not_made(&error)],
            News::Sent => {
                let Some(pass) = &self.pass else { return Vec::new() };
                self.bytes += pass.totals().bytes;
                vec![Event::PassSent, Event::Message(Message::PassDone(pass.number()))]
            }
            News::Finished(Ok(())) => {
                let ready = Ready { token: self.token.0, restore: 0 };
                vec![Event::Message(Message::Ready(ready))]
            }
            News::Finished(Err(error)) => {
                vec![Event::Lost(self.failed("making the file durable", &error))]
            }
            News::Completed(Ok(report)) => {
                self.outcome = Some(Verdict::Committed);
                let running = Running { token: self.token.0, start: 0, held: u64::MAX };
                vec![Event::Filed(report), Event::Message(Message::Running(running))]
            }
            News::Completed(Err(error)) => {
                let sure = !matches!(error, WriteError::NotUndone { .. });
                let error = self.failed("completing the file", &error);
                if sure {
                    self.outcome = Some(Verdict::Refused);
                    vec![Event::Denied(error)]
                } else {
                    vec![Event::Lost(error)]
                }
            }
            News::Abandoned(Ok(())) => {
                self.outcome = Some(Verdict::Refused);
                vec![answer(wire::Verdict::Refused)]
            }
            News::Abandoned(Err(error)) => {
                let path = &self.peer;
                tracing::warn!(%error, %path, "what was written so far is left behind, incomplete");
                self.outcome = Some(Verdict::Refused);
                vec![answer(wire::Verdict::Refused)]
            }
        }
    }

    fn wait(&mut self, until: Option<Instant>) -> Vec<Event> {
        let busy = self.lanes.iter().chain([&self.clerk]).any(|patience| patience.is_busy());
        let look = busy.then(|| Instant::now() + LOOK);
        let until = [until, look].into_iter().flatten().min();
        if let Err(error) = wait_readable(&[], self.setting.mouth.waker(), until) {
            return vec![Event::Lost(MotionError::sending("waiting for the disk", error))];
        }
        self.hangs().map(Event::Lost).into_iter().collect()
    }
}
