//! What a source says, as a file takes it, and what becomes of the file, as a source hears it:
//! decided here, without threads.

use super::lane::FileLane;
use super::patience::{LIMIT, SLOWEST_DISK};
use super::{FilePlace, apart, code};
use crate::clock::nanos;
use crate::handover::{self, Particulars, Token, Verdict};
use crate::ram::{Pass, PassKind};
use crate::report::FileReport;
use crate::rules::{Rule, keeps};
use crate::source::Event;
use crate::{MotionError, Purpose, RamWay, SourceMachine, SourceOptions};
use memory::{GuestRam, MemoryFile, PageRange, PageSet};
use snapshot::{Header, Kind, WriteError, WriteOptions, Writer, Written};
use state::{Code, Refusal};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use wire::{Message, Ready, Running};

/// A file under way.
pub struct FileDesk {
    /// What the file is called in messages.
    peer: String,
    token: Token,
    header: Header,
    /// Until it is made: where it goes, and what goes into it.
    place: Option<(FilePlace, Arc<GuestRam>)>,
    writer: Option<Arc<Writer>>,
    /// What RAM stays in, where it is not to be written.
    apart: Option<Arc<MemoryFile>>,
    pass: Option<Arc<Pass>>,
    /// What the guest wrote last, as far as that is known: of one that stood still all the time nothing is.
    recent: PageSet,
    /// Bytes given to the file so far.
    bytes: u64,
    mark: Mark,
    /// What became of the file, once that is certain.
    outcome: Option<Verdict>,
    hung: bool,
}

/// The mark of completeness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Nobody has begun to write it.
    Missing,
    /// It is being written.
    UnderWay,
    /// Writing it has failed, and so has taking it back.
    Doubtful,
}

/// Something to be done to the file as a whole, which may take long and may not come back.
pub struct Errand {
    task: Task,
    limit: Duration,
}

enum Task {
    Create {
        place: FilePlace,
        header: Header,
        description: Vec<u8>,
        ram: Arc<GuestRam>,
        apart: Option<Arc<MemoryFile>>,
    },
    Finish {
        writer: Arc<Writer>,
        state: Vec<u8>,
        recent: PageSet,
    },
    FinishApart {
        writer: Arc<Writer>,
        state: Vec<u8>,
        memory_file: Arc<MemoryFile>,
    },
    Complete(Arc<Writer>),
    Abandon(Arc<Writer>),
}

/// What came of an errand.
pub struct Outcome(Done);

enum Done {
    Created(Result<Arc<Writer>, WriteError>),
    Finished(Result<(), WriteError>),
    Completed(Result<(Written, Option<String>), WriteError>),
    Abandoned(Result<bool, WriteError>),
}

/// What is to be done about what a source says.
pub enum Todo {
    /// This is to be done, and what comes of it is to be [heard](FileDesk::hear).
    Errand(Box<Errand>),
    /// The source is to be told this.
    Event(Event),
    /// It is news to nobody.
    Nothing,
}

impl Errand {
    /// What a thread is called that does it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.task {
            Task::Create { .. } => "file-create",
            Task::Finish { .. } | Task::FinishApart { .. } => "file-finish",
            Task::Complete(_) => "file-complete",
            Task::Abandon(_) => "file-abandon",
        }
    }

    /// What is being done, in words.
    #[must_use]
    pub fn doing(&self) -> &'static str {
        match self.task {
            Task::Create { .. } => "making the file",
            Task::Finish { .. } => "making the file durable",
            Task::FinishApart { .. } => "making the memory file and the state durable",
            Task::Complete(_) => "completing the file",
            Task::Abandon(_) => "removing the file",
        }
    }

    /// What takes longer will not come back.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Does it.
    #[must_use]
    pub fn run(self) -> Outcome {
        Outcome(match self.task {
            Task::Create { place, header, description, ram, apart } => {
                let options = WriteOptions { direct: place.direct };
                let made = Writer::create(place.target, header, &description, &options);
                Done::Created(made.and_then(|writer| {
                    match apart {
                        // The guest still runs.
                        Some(file) => apart::write_back(&file)?,
                        None => reserve(&writer, &ram),
                    }
                    Ok(writer)
                }))
            }
            Task::Finish { writer, state, recent } => {
                Done::Finished(writer.finish(&state, &recent))
            }
            Task::FinishApart { writer, state, memory_file } => {
                Done::Finished(apart::finish(&writer, &state, &memory_file))
            }
            Task::Complete(writer) => Done::Completed(
                writer
                    .commit()
                    .map(|written| (written, writer.buffered_because().map(str::to_owned))),
            ),
            Task::Abandon(writer) => Done::Abandoned(writer.abandon()),
        })
    }
}

impl FileDesk {
    /// A guest is to be written to a file, as these options say.
    pub fn new(
        machine: &dyn SourceMachine,
        particulars: &Particulars,
        options: &SourceOptions,
        place: FilePlace,
    ) -> Self {
        let memory_file = machine.ram().memory_file().cloned();
        Self {
            peer: particulars.peer().to_owned(),
            token: particulars.token(),
            header: header(machine, particulars, options, &place),
            apart: memory_file.filter(|_| options.ram == RamWay::Shared),
            recent: PageSet::new(machine.ram().pages()),
            place: Some((place, machine.ram().clone())),
            writer: None,
            pass: None,
            bytes: 0,
            mark: Mark::Missing,
            outcome: None,
            hung: false,
        }
    }

    /// Names what will be in the file.
    #[must_use]
    pub fn snapshot(&self) -> uuid::Uuid {
        self.header.snapshot
    }

    /// The longest description that fits into the file, in bytes.
    #[must_use]
    pub fn most_description(&self) -> u64 {
        snapshot::most_description(if self.header.apart { 0 } else { self.header.ram() })
    }

    /// A source says this.
    pub fn send(&mut self, message: &Message) -> Todo {
        match message {
            Message::Describe(describe) => self.create(describe.description.clone()),
            Message::Ping(number) => {
                Todo::Event(Event::Message(Message::Pong(*number, self.bytes)))
            }
            Message::State(state) => {
                let state = state.state.clone();
                match self.apart.clone() {
                    Some(memory_file) => {
                        self.errand(|writer| Task::FinishApart { writer, state, memory_file })
                    }
                    None => {
                        let recent = self.recent.clone();
                        self.errand(|writer| Task::Finish { writer, state, recent })
                    }
                }
            }
            Message::Commit(_) => self.complete(),
            Message::Abort(_) => self.abandon(),
            // A file that is not completed goes with the motion's end.
            _ => Todo::Nothing,
        }
    }

    /// For so long a file that is not to be is tried to be taken back before the source lets go of it.
    pub const SETTLING: Duration = super::super::SETTLING;

    /// A source asks, or says again, as over a new connection.
    pub fn ask(&mut self, message: handover::Message) -> Todo {
        use handover::Word;
        match (message.word, self.outcome, self.mark) {
            (_, Some(verdict), _) => {
                Todo::Event(Event::Told(self.token.says(Word::Answer(verdict))))
            }
            (Word::Abort, None, _) => self.abandon(),
            (Word::Commit, None, Mark::Missing) => self.complete(),
            // Until it is certain that there is no mark, nobody can be told.
            (_, None, Mark::Doubtful) => self.abandon(),
            (_, None, Mark::Missing | Mark::UnderWay) => Todo::Event(Event::NotAsked),
        }
    }

    /// The motion has ended, or the source gives up waiting.
    pub fn hang_up(&mut self) -> Todo {
        match (self.outcome, &self.writer) {
            (None, Some(_)) => self.abandon(),
            _ => Todo::Nothing,
        }
    }

    /// A pass begins. No lane is writing.
    pub fn begin_pass(&mut self, pass: &Arc<Pass>) {
        if pass.kind() == PassKind::Later && !pass.set().is_empty() {
            self.recent.clone_from(pass.set());
        }
        // What a running guest has written since lies scattered.
        if pass.kind() == PassKind::Later
            && let Some(Err(error)) = self.writer.as_ref().map(|writer| writer.gather())
        {
            tracing::debug!(%error, "the rest is written past the page cache too");
        }
        self.pass = Some(pass.clone());
    }

    /// The guest wrote these while its copy of the beginning was taken.
    pub(super) fn was_written(&mut self, pages: &PageSet) {
        self.recent.clone_from(pages);
    }

    /// All of the pass is in the file.
    pub fn end_pass(&mut self) -> Vec<Event> {
        let Some(pass) = &self.pass else { return Vec::new() };
        self.bytes += pass.totals().bytes;
        vec![Event::PassSent, Event::Message(Message::PassDone(pass.number()))]
    }

    /// One worker's way into the file. `epoch` is when the motion began.
    ///
    /// # Errors
    /// When there is no file yet.
    pub fn lane(&self, epoch: Instant) -> Result<FileLane, MotionError> {
        let none = || MotionError::new(Code::Internal, "there is no file to write to");
        self.writer
            .as_ref()
            .map(|writer| FileLane::new(writer.lane(), epoch, &self.peer))
            .ok_or_else(none)
    }

    /// Something takes so long that it will not come back. Said once.
    pub fn hangs(&mut self, doing: &str) -> Option<Event> {
        if std::mem::replace(&mut self.hung, true) || !keeps(Rule::HangsAreNoticed) {
            return None;
        }
        let why = format!(
            "{}: {doing} takes too long: the disk, or the network behind it, hangs",
            self.peer
        );
        Some(Event::Lost(MotionError::new(Code::LinkStalled, why)))
    }

    /// What an errand came to.
    pub fn hear(&mut self, outcome: Outcome) -> Vec<Event> {
        let token = self.token.0;
        match outcome.0 {
            Done::Created(Ok(writer)) => {
                self.writer = Some(writer);
                vec![Event::Message(Message::Accepted { save: 0, restore: 0 })]
            }
            Done::Created(Err(error)) => vec![self.not_made(&error)],
            Done::Finished(Ok(())) => {
                vec![Event::Message(Message::Ready(Ready { token, restore: 0 }))]
            }
            Done::Finished(Err(error)) => {
                vec![Event::Lost(self.failed("making the file durable", &error))]
            }
            Done::Completed(Ok((written, buffered_because))) => {
                self.outcome = Some(Verdict::Committed);
                let report = FileReport {
                    snapshot: written.snapshot.to_string(),
                    kind: self.header.kind.as_str(),
                    size: written.size,
                    on_disk: written.allocated,
                    buffered_because,
                };
                let running = Running { token, start: 0, held: u64::MAX };
                vec![Event::Filed(report), Event::Message(Message::Running(running))]
            }
            Done::Completed(Err(error)) => {
                let in_doubt = matches!(error, WriteError::NotUndone { .. });
                let error = self.failed("completing the file", &error);
                if in_doubt && keeps(Rule::DoubtIsNoRefusal) {
                    self.mark = Mark::Doubtful;
                    vec![Event::Lost(error)]
                } else {
                    self.outcome = Some(Verdict::Refused);
                    vec![Event::Denied(error)]
                }
            }
            // It was completed before it could be given up: whoever completed it says so.
            Done::Abandoned(Ok(false)) if keeps(Rule::CompleteIsComplete) => Vec::new(),
            Done::Abandoned(Ok(_)) => self.refused(),
            Done::Abandoned(Err(error)) => {
                let path = &self.peer;
                if self.mark == Mark::Doubtful {
                    tracing::warn!(%error, %path, "it may look complete, and is not to");
                    return Vec::new();
                }
                tracing::warn!(%error, %path, "what was written so far is left behind, incomplete");
                self.refused()
            }
        }
    }

    fn refused(&mut self) -> Vec<Event> {
        self.outcome = Some(Verdict::Refused);
        vec![Event::Message(Message::Answer(self.token.0, wire::Verdict::Refused))]
    }

    fn create(&mut self, description: Vec<u8>) -> Todo {
        let Some((place, ram)) = self.place.take() else { return Todo::Nothing };
        let (header, apart) = (self.header.clone(), self.apart.clone());
        let limit = LIMIT + self.longest();
        let task = Task::Create { place, header, description, ram, apart };
        Todo::Errand(Box::new(Errand { task, limit }))
    }

    fn complete(&mut self) -> Todo {
        self.mark = Mark::UnderWay;
        self.errand(Task::Complete)
    }

    fn abandon(&mut self) -> Todo {
        self.errand(Task::Abandon)
    }

    fn errand(&mut self, task: impl FnOnce(Arc<Writer>) -> Task) -> Todo {
        match self.writer.clone() {
            // What may be written back at once takes its time, even where nothing hangs.
            Some(writer) => {
                let bytes = Duration::from_secs(self.bytes / SLOWEST_DISK);
                let limit = LIMIT + bytes + self.longest();
                Todo::Errand(Box::new(Errand { task: task(writer), limit }))
            }
            // There is no file yet, and will be none.
            None => {
                self.outcome = Some(Verdict::Refused);
                let refused = Message::Answer(self.token.0, wire::Verdict::Refused);
                Todo::Event(Event::Message(refused))
            }
        }
    }

    /// How long it may take to write RAM back that is elsewhere.
    fn longest(&self) -> Duration {
        self.apart.as_deref().map_or(Duration::ZERO, apart::longest)
    }

    fn failed(&self, doing: &str, error: &WriteError) -> MotionError {
        MotionError::new(code(error), format!("{doing} {}: {error}", self.peer))
    }

    /// Why there is no file, before anything was done to the guest.
    fn not_made(&self, error: &WriteError) -> Event {
        match code(error) {
            Code::HostIo => Event::Lost(self.failed("making the file", error)),
            code => Event::Refused(vec![Refusal::new(code, &self.peer, error.to_string(), "")]),
        }
    }
}

/// What is in use now is what will be written, or most of it.
fn reserve(writer: &Writer, ram: &GuestRam) {
    if let Ok(touched) = ram.resident(PageRange::new(0, ram.pages())) {
        writer.reserve(&touched);
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
            Purpose::Move => Kind::Save,
            Purpose::Copy | Purpose::CopyAtStart | Purpose::CopyAndStop => Kind::Snapshot,
        },
        machine: particulars.machine(),
        name: particulars.name().to_owned(),
        snapshot: uuid::Uuid::new_v4(),
        taken: nanos(now),
        builder: place.builder.clone(),
        regions: machine.ram().layout().regions().to_vec(),
        backing: machine.ram().backing(),
        apart: options.ram == RamWay::Shared,
    }
}
