//! `update`: the machine goes to a new process.

use super::channel::{Channel, Kind};
use super::exec::{Image, Parent, running_program};
use super::held::{Held, Role};
use super::leaving::{Leaving, refused};
use super::namespace;
use super::outset::{self, SavedBuilder};
use super::successor::{Successor, own_program};
use crate::monitor::Monitor;
use crate::observer::Observer;
use crate::outgoing::{Outgoing, blackout};
use crate::{Ending, Error};
use devices::lock;
use links::{Address, Descriptors};
use memory::userfault;
use motion::handover::{Fate, MemoryJournal, Outcome};
use motion::source::{PeerAddress, Sibling, SourceJob};
use motion::{Machine, MotionError, RamWay, Report, SourceMachine, SourceOptions, Status};
use qmp::command::{Update, UpdateMode};
use qmp::reply::{MigrationInfo, MigrationStatus};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::json;
use state::{Bundle, Code, Refusal};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use vmm::Vm;

/// So many times as long as it may be silent later, a new process may take to say who it is: it has to be read
/// from disk.
const STARTING: u32 = 4;
/// How long the new image of a process may take: it was read a moment ago, but a host may be busy.
const RETURNING: Duration = Duration::from_secs(10);
/// How long it may take to hear how it went.
const TELLING: Duration = Duration::from_secs(2);
/// The name of the motion's connection.
const LINK: &str = "successor";
/// Why a machine does not go to another process of a PID namespace of which its own is the first.
const ENDS_WITH_US: &str = "it is the first of its PID namespace: when it ends, as it does when another has taken its \
                            machine over, the kernel ends all others in it, and the guest with them";
/// What to do instead.
const OTHERWISE: &str = "use --mode exec, which is the default there; or have another process be the first, such as \
                         tini (`docker run --init`); or have the new process started outside of the namespace, with \
                         `run --incoming update:unix:PATH`";

/// A process that is to take the machine over.
pub(crate) struct Renewal {
    whom: Whom,
    /// Where the machine is to come back to this process: what it becomes.
    image: Mutex<Option<Image>>,
    /// The other end of that one's channel.
    back: Mutex<Option<OwnedFd>>,
    /// The process before this one, where the machine goes back there.
    parent: Option<Arc<Parent>>,
    /// A new image that ends takes its guardian along.
    unguarded: bool,
    fate: Arc<Fate>,
    /// What the new process opens it with.
    word: Mutex<Option<OwnedFd>>,
    /// This side's end of the motion's connection; the other is the new process's.
    there: Mutex<Option<OwnedFd>>,
    successor: Mutex<Option<Successor>>,
    /// It is over: nothing is started any more.
    over: AtomicBool,
    channel: Mutex<Option<Arc<Channel>>>,
    /// Who the new process says it is.
    builder: Mutex<Option<SavedBuilder>>,
}

/// Who takes it over.
enum Whom {
    /// This program, which is started.
    Started(PathBuf),
    /// The process that waits there.
    Waiting(PathBuf),
    /// The process that this one has the machine from.
    Parent(Arc<Parent>),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(path) => write!(f, "a new process of {}", path.display()),
            Self::Waiting(path) => write!(f, "the process at {}", path.display()),
            Self::Parent(_) => f.write_str("the new image of the process that it came from"),
        }
    }
}

impl Renewal {
    /// Why the guest would not outlive this process.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let ends = matches!(self.whom, Whom::Started(_)) && lock(&self.image).is_none();
        (ends && namespace::is_first())
            .then(|| Refusal::new(Code::NotMovable, "process", ENDS_WITH_US, OTHERWISE))
    }

    /// Whether a guardian cannot help where the new image of a process ends: it ends with it.
    pub fn is_unguarded(&self) -> bool {
        self.unguarded
    }

    pub(super) fn channel(&self) -> Result<Arc<Channel>, Error> {
        let none = || Error::new(Code::Internal, "there is no new process to give anything to");
        lock(&self.channel).clone().ok_or_else(none)
    }

    /// Starts the new process and tells it what machine it is to build.
    fn start(&self, monitor: &Weak<Monitor>, guest: &Vm) -> Result<(), Error> {
        let gone = || Error::new(Code::Cancelled, "the update is over, or this process ends");
        let monitor = monitor.upgrade().ok_or_else(gone)?;
        let channel = match &self.whom {
            Whom::Started(program) => {
                let (successor, channel) = Successor::start(program)?;
                let mut place = lock(&self.successor);
                if self.over.load(Ordering::Acquire) {
                    return Err(gone());
                }
                *place = Some(successor);
                Arc::new(channel)
            }
            Whom::Waiting(path) => Channel::connect(path).map(Arc::new).map_err(|e| {
                Error::new(Code::ConnectFailed, format!("connecting to {}: {e}", path.display()))
            })?,
            Whom::Parent(parent) => parent.channel.clone(),
        };
        *lock(&self.channel) = Some(channel.clone());
        let mut held = Held::default();
        let started = || Error::new(Code::Internal, "the new process was started");
        let link = lock(&self.there).take().ok_or_else(started)?;
        let word = lock(&self.word).take().ok_or_else(started)?;
        held.put(Role::Link, LINK, link);
        let duplicate = |what: &str, result: io::Result<OwnedFd>| {
            result.map_err(|e| Error::host(format!("duplicating {what}"), &e))
        };
        held.put(Role::Fate, "fate", word);
        held.put(Role::Name, monitor.name.as_str(), duplicate("the lock", monitor.lock_of_name())?);
        let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
        if let Ok(stdin) = stdin {
            held.put(Role::Stdin, "stdin", stdin);
        }
        let device = userfault::handed_over();
        if let Some(device) = device.map_err(|e| Error::host("duplicating a device", &e))? {
            held.put(Role::Userfault, "userfaultfd", device);
        }
        let boot = guest.boot_files().map_err(|e| Error::host("looking for the kernel", &e))?;
        let cmdline = boot.map(|boot| {
            let (name, file) = boot.kernel;
            held.put(Role::Kernel, name, file);
            if let Some((name, file)) = boot.initrd {
                held.put(Role::Initrd, name, file);
            }
            boot.cmdline
        });
        let mut origin = None;
        if let Some(back) = lock(&self.back).take() {
            held.put(Role::Back, "the way back", back);
            let program = running_program();
            held.put(Role::Program, outset::builder(), duplicate("this program", program)?);
        }
        if let Some(parent) = &self.parent {
            origin = Some(parent.builder.clone());
            let program = parent.program.try_clone();
            held.put(Role::Program, parent.builder.as_str(), duplicate("a program", program)?);
        }
        let (content, descriptors) = outset::of(&monitor, guest.ram(), held, origin, cmdline)?;
        let starting = Duration::from_millis(monitor.state().parameters.stall_limit) * STARTING;
        let limit = if self.parent.is_some() { RETURNING } else { starting };
        let answer = channel
            .send(Kind::Outset, &content, &descriptors, limit)
            .and_then(|()| channel.receive(limit));
        match answer {
            Ok(Some(letter)) if letter.kind == Kind::Welcome => {
                let builder = Bundle::decode(&letter.content)
                    .and_then(|mut bundle| bundle.take::<SavedBuilder>(""))
                    .map_err(|e| Error::new(Code::IncompatibleVersion, e.to_string()))?;
                let within = builder.namespace.is_some() && builder.namespace == namespace::own();
                if matches!(self.whom, Whom::Waiting(_)) && namespace::is_first() && within {
                    let why = format!("this process: {ENDS_WITH_US} ({OTHERWISE})");
                    return Err(Error::new(Code::NotMovable, why));
                }
                *lock(&self.builder) = Some(builder);
                Ok(())
            }
            Ok(Some(letter)) if letter.kind == Kind::Refused => {
                self.has_refused();
                Err(refused(&letter.content))
            }
            Ok(Some(letter)) => {
                let why = format!("the new process answered with {:?}", letter.kind);
                Err(Error::new(Code::ProtocolError, why))
            }
            Ok(None) => Err(self.silent(None)),
            Err(error) => Err(self.silent(Some(&error))),
        }
    }

    /// It was read of the new process that it does not take the machine.
    pub fn has_refused(&self) {
        if let Some(parent) = &self.parent {
            parent.has_refused();
        }
    }

    /// Why the new process says nothing.
    fn silent(&self, error: Option<&io::Error>) -> Error {
        let became = lock(&self.successor).as_mut().map(Successor::fate);
        let became = became.unwrap_or_else(|| format!("{} says nothing", self.whom));
        let code = match error.map(io::Error::kind) {
            Some(io::ErrorKind::TimedOut) => Code::LinkStalled,
            _ => Code::PeerFailed,
        };
        let error = error.map(|error| format!(" ({error})")).unwrap_or_default();
        Error::new(code, format!("{became}{error}"))
    }

    /// Closes what was meant for a new process that does not take the guest over.
    fn let_go(&self) {
        *lock(&self.channel) = None;
        for descriptor in [&self.word, &self.there, &self.back] {
            *lock(descriptor) = None;
        }
        *lock(&self.image) = None;
    }

    /// Whether the guest is the new process's.
    pub fn has_taken_over(&self) -> bool {
        self.fate.outcome() == Outcome::Entered
    }

    /// The versions of both processes, as people call them.
    pub fn versions(&self) -> (String, Option<String>) {
        let to = lock(&self.builder).as_ref().map(|builder| builder.builder.clone());
        let from = self.parent.as_ref().map(|parent| parent.builder.clone());
        (from.unwrap_or_else(outset::builder), to)
    }
}

/// Whether this process has to stay the same one: others wait for it, or its terminal is its own.
fn must_stay() -> bool {
    namespace::is_first() || std::fs::File::open("/dev/tty").is_ok()
}

impl Monitor {
    /// `x-whimbrel-update`
    pub fn update(self: &Arc<Self>, command: &Update) -> Result<(), Error> {
        let program = || match &command.binary {
            Some(path) => Ok(path.clone()),
            None => own_program(),
        };
        let usual = if must_stay() { UpdateMode::Exec } else { UpdateMode::Transfer };
        match (&command.to, command.mode.unwrap_or(usual)) {
            (Some(path), _) => self.renew(Whom::Waiting(path.clone()), None, command.check),
            (None, UpdateMode::Transfer) => {
                self.renew(Whom::Started(program()?), None, command.check)
            }
            (None, UpdateMode::Exec) => {
                let program = program()?;
                let image = Image::of(&program)?;
                self.renew(Whom::Started(program), Some(image), command.check)
            }
        }
    }

    /// The machine goes back to the process that it came from, which has become another program.
    pub(super) fn go_back(self: &Arc<Self>, parent: Arc<Parent>) -> Result<Arc<Outgoing>, Error> {
        self.renew(Whom::Parent(parent), None, false)?;
        let gone = || Error::new(Code::Internal, "the way back was lost");
        self.state().outgoing.clone().ok_or_else(gone)
    }

    fn renew(
        self: &Arc<Self>,
        whom: Whom,
        image: Option<(Image, OwnedFd)>,
        check_only: bool,
    ) -> Result<(), Error> {
        let doing = format!("cannot update `{}`", self.name);
        let guest = self.guest("update")?;
        self.may_begin(&doing)?;
        let restoring = self.state().restoring.clone();
        // One that runs has been claimed, if what claimed it has not come to its end yet.
        if restoring.is_some_and(|restoring| restoring.is_held()) && !guest.is_running() {
            let why =
                "its guest is held in the file that it comes from; `whimbrel resume` it first";
            return Err(Error::new(Code::InvalidState, format!("{doing}: {why}")));
        }
        let failed = |e: io::Error| Error::host(doing.clone(), &e);
        let parent = match &whom {
            Whom::Parent(parent) => Some(parent.clone()),
            Whom::Started(_) | Whom::Waiting(_) => None,
        };
        let unguarded = match &parent {
            Some(parent) => parent.is_first,
            None => image.is_some() && namespace::is_first(),
        };
        let (image, back) = image.unzip();
        let peer = whom.to_string();
        let (here, there) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|e| failed(e.into()))?;
        let (fate, word) = Fate::new().map_err(failed)?;
        let fate = Arc::new(fate);
        let renewal = Arc::new(Renewal {
            whom,
            image: Mutex::new(image),
            back: Mutex::new(back),
            parent,
            unguarded,
            fate: fate.clone(),
            word: Mutex::new(Some(word)),
            there: Mutex::new(Some(there)),
            successor: Mutex::default(),
            over: AtomicBool::new(false),
            channel: Mutex::default(),
            builder: Mutex::default(),
        });
        let particulars = self.particulars(&guest, &peer, &doing)?;
        let start = {
            let (renewal, monitor, guest) = (renewal.clone(), Arc::downgrade(self), guest.clone());
            move || renewal.start(&monitor, &guest).map_err(|e| MotionError::new(e.code, e.message))
        };
        let address = PeerAddress {
            address: Address::Fd(LINK.to_owned()),
            descriptors: Arc::new(Descriptors::one(LINK, here)),
            sibling: Some(Arc::new(Sibling { fate, start: Box::new(start) })),
        };
        let options = {
            let state = self.state();
            SourceOptions {
                ram: RamWay::Shared,
                blackout: blackout(&state.parameters),
                pause_before_switchover: state.capabilities.pause_before_switchover,
                check_only,
                stall_limit: Duration::from_millis(state.parameters.stall_limit),
                ..SourceOptions::default()
            }
        };
        let ran = guest.is_running();
        let leaving = Arc::new(Leaving::new(guest.clone(), self.clone(), renewal.clone()));
        let observer = Arc::new(Observer::silent());
        let machine: Arc<dyn SourceMachine> = leaving.clone();
        let journal = Box::new(MemoryJournal::default());
        let job =
            SourceJob::start(machine, particulars, address, options, journal, observer.clone())
                .map_err(|e| Error::new(e.code, format!("{doing}: {e}")))?;
        let motion = Arc::new(Outgoing::of_update(job, observer, peer, renewal.clone(), ran));
        self.state().outgoing = Some(motion.clone());
        let monitor = self.clone();
        std::thread::Builder::new()
            .name("updated".into())
            .spawn(move || {
                let report = motion.wait();
                monitor.updated(&renewal, &leaving, &report);
            })
            .map_err(failed)?;
        Ok(())
    }

    /// How the update went, whatever way the guest took.
    fn story(&self, renewal: &Renewal) -> MigrationInfo {
        let mut info = self.migration();
        if let Some(refusal) = renewal.parent.as_ref().and_then(|parent| parent.refusal()) {
            info.status = Some(MigrationStatus::Failed);
            if let Some(report) = &mut info.report {
                report["status"] = json!(Status::Failed);
                report["error"] = json!(refusal);
            }
            info.error_code = Some(refusal.code.to_string());
            info.error_desc = Some(refusal.why);
        }
        let first = self.state().succession.clone().and_then(|before| before.blackout());
        if let Some(first) = first
            && let Some(report) = &mut info.report
        {
            report["update"]["first-blackout-ns"] = first["ns"].clone();
            report["update"]["first-stages"] = first["stages"].clone();
        }
        info
    }

    /// Tells the new process how it went, and waits until a supervisor knows of it: who ends before that
    /// takes all that belongs to it along.
    fn tell(&self, channel: &Channel, renewal: &Renewal, report: &Report) {
        if report.status.0 == Status::Completed
            && let Ok(info) = serde_json::to_vec(&self.story(renewal))
            && let Err(error) = channel.send(Kind::Report, &info, &[] as &[OwnedFd], TELLING)
        {
            tracing::warn!(%error, "the new process was not told how the update went");
        }
        match channel.receive(TELLING) {
            Ok(Some(letter)) if letter.kind == Kind::Taken => {}
            other => {
                tracing::warn!(?other, "the new process does not say that it serves everybody");
            }
        }
    }

    /// It is decided where the machine is.
    fn updated(&self, renewal: &Renewal, leaving: &Leaving, report: &Report) {
        if !renewal.has_taken_over() {
            leaving.stay();
            // It ends with this, if it has not ended already.
            let successor = {
                let mut place = lock(&renewal.successor);
                renewal.over.store(true, Ordering::Release);
                place.take()
            };
            drop(successor);
            renewal.let_go();
            return;
        }
        if let Some(successor) = lock(&renewal.successor).as_mut() {
            successor.let_go();
        }
        match renewal.channel() {
            Ok(channel) => self.tell(&channel, renewal, report),
            Err(error) => tracing::warn!(%error, "telling the new process how the update went"),
        }
        *lock(&self.image) = lock(&renewal.image).take();
        self.end(Ending::Renewed);
    }
}
