//! The process that takes over.

use super::channel::{Channel, Kind};
use super::exec::{Parent, execute_old, reap};
use super::held::{Held, Role, SavedHeld};
use super::leaving::SavedSettings;
use super::namespace;
use super::outset::{self, Outset, SavedBuilder, SavedReason};
use super::succeeding::{Arrived, Successors};
use crate::arrival::Arrivals;
use crate::incoming::Waiting;
use crate::monitor::Monitor;
use crate::{Claim, Ending, Error, RunConfig, RuntimeDir, supervisor};
use devices::console::{Console, SavedConsoleEnd};
use devices::lock;
use links::{Address, Descriptors, Listener, Waker, wait_readable};
use memory::{GuestRam, userfault};
use motion::destination::DestinationJob;
use motion::handover::{Fate, MemoryJournal};
use motion::{DestinationOptions, RamWay, Status};
use qmp::Server;
use qmp::reply::MigrationInfo;
use state::{Bundle, Code};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vmm::{BootFiles, Builder, RamOrigin, Wishes};

/// How long the old process may take to say what machine it is.
const OUTSET: Duration = Duration::from_secs(10);
/// How long the old process may take until its guest stops: it answers for that itself.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long the old process may take to say how it went.
const TELLING: Duration = Duration::from_secs(10);
/// The name of the motion's connection.
const LINK: &str = "predecessor";

/// What a process takes over, and from whom.
pub(crate) struct Succession {
    channel: Channel,
    /// The program that is replaced.
    from: String,
    /// The process that has the machine now.
    old: u32,
    /// Where the machine goes back to, once it is here.
    parent: Option<Arc<Parent>>,
    /// What this process was before it became the program that it is.
    program: Mutex<Option<OwnedFd>>,
    /// The old process was told, or is about to be, that the machine is not taken.
    refused: AtomicBool,
    /// Who hears the old process out.
    attendant: Mutex<Option<JoinHandle<()>>>,
    /// Wakes it when the guest will not come.
    over: Waker,
    runtime: RuntimeDir,
    /// How long the old process may be silent, where that was set.
    stall: Option<Duration>,
    fate: Arc<Fate>,
    link: Mutex<Option<OwnedFd>>,
    ram: Mutex<Option<Arc<GuestRam>>>,
    /// What the guest boots when it is reset.
    boot: Mutex<Option<BootFiles>>,
    name: Mutex<Option<OwnedFd>>,
    /// The server that nobody serves yet.
    vacant: Mutex<Option<Server>>,
    stage: Mutex<Stage>,
    changed: Condvar,
}

/// How far it is.
#[derive(Default)]
struct Stage {
    /// What people hold on to.
    ahead: Option<Ahead>,
    /// Events that came after that.
    late: Vec<String>,
    /// The guest is here.
    entered: bool,
    /// It never will be.
    over: bool,
    /// How it went, as the old process says.
    info: Option<MigrationInfo>,
    /// The guest does not go back any more.
    stays: bool,
}

/// What is known of a machine that is to be taken over.
struct Heard {
    outset: Outset,
    fate: Fate,
    link: OwnedFd,
    name: OwnedFd,
    parent: Option<Arc<Parent>>,
}

/// What people hold on to.
struct Ahead {
    server: Server,
    settings: SavedSettings,
    /// When the guest came to be here: in an older process than this one.
    since: Option<Instant>,
}

impl Succession {
    /// Hears what machine it is. The configuration that belongs to it comes back too.
    ///
    /// # Errors
    /// Why it cannot be taken over. Where this process is the new image of one that has a program to go
    /// back to, it becomes that one instead.
    pub fn begin(channel: OwnedFd) -> Result<(Arc<Self>, RunConfig), Error> {
        let channel = Channel::over(channel);
        let over = Waker::new().map_err(|e| Error::host("cannot take a machine over", &e));
        let over = over.inspect_err(|error| refuse(&channel, error))?;
        let mut program = None;
        let begun = Self::hear(&channel, &mut program);
        match begun {
            Ok(Heard { outset, fate, link, name, parent }) => {
                let Outset { builder, pid, boot, config, runtime, ram, stall, held: _ } = outset;
                let succession = Self {
                    channel,
                    from: builder,
                    old: pid,
                    parent,
                    program: Mutex::new(program),
                    refused: AtomicBool::new(false),
                    attendant: Mutex::default(),
                    over,
                    runtime,
                    stall,
                    fate: Arc::new(fate),
                    link: Mutex::new(Some(link)),
                    ram: Mutex::new(Some(Arc::new(ram))),
                    boot: Mutex::new(boot),
                    name: Mutex::new(Some(name)),
                    vacant: Mutex::default(),
                    stage: Mutex::default(),
                    changed: Condvar::new(),
                };
                Ok((Arc::new(succession), config))
            }
            Err(error) => {
                refuse(&channel, &error);
                if let Some(program) = program {
                    become_old(&program, &channel);
                }
                Err(error)
            }
        }
    }

    fn hear(channel: &Channel, program: &mut Option<OwnedFd>) -> Result<Heard, Error> {
        let doing = "cannot hear from the process that is to be replaced";
        let gone = || Error::new(Code::LinkLost, format!("{doing}: it has ended"));
        let next = || {
            let letter = channel.receive(OUTSET).map_err(|e| Error::host(doing, &e))?;
            letter.ok_or_else(gone)
        };
        let mut letter = next()?;
        while letter.kind == Kind::Ahead {
            // For what this process was before it turned back, which did not want it any more.
            letter = next()?;
        }
        if letter.kind != Kind::Outset {
            let why = format!("{doing}: it began with {:?}", letter.kind);
            return Err(Error::new(Code::ProtocolError, why));
        }
        let (mut outset, back) = outset::read(&letter.content, letter.descriptors, program)?;
        let held = &mut outset.held;
        let fate = Fate::open(held.take(Role::Fate)?).map_err(|e| Error::host(doing, &e))?;
        let (link, name) = (held.take(Role::Link)?, held.take(Role::Name)?);
        if let Some((_, stdin)) = held.take_optional(Role::Stdin)? {
            rustix::stdio::dup2_stdin(stdin).map_err(|e| Error::host(doing, &e.into()))?;
        }
        if let Some((_, device)) = held.take_optional(Role::Userfault)? {
            userfault::inherit(device).map_err(|e| Error::host(doing, &e))?;
        }
        std::mem::take(held).finish()?;
        let parent = match (back, program.take()) {
            (Some(back), Some(program)) => {
                let parent = Parent::of(outset.pid, back, program, outset.builder.clone());
                Some(Arc::new(parent.map_err(|e| Error::host(doing, &e))?))
            }
            (None, old) => {
                *program = old;
                None
            }
            (Some(_), None) => {
                let why = "there is a way back, and no program to go back to";
                return Err(Error::new(Code::ProtocolError, why));
            }
        };
        Ok(Heard { outset, fate, link, name, parent })
    }

    /// Does what has to be done to take over; where that fails the old process is told.
    pub fn or_refuse<T>(&self, task: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        task().inspect_err(|error| {
            self.refuse(error);
            self.turn_back();
        })
    }

    fn refuse(&self, error: &Error) {
        self.refused.store(true, Ordering::Release);
        refuse(&self.channel, error);
    }

    /// The machine is not taken over. Where this process is the new image of one that has a program to go
    /// back to, it becomes that one: the old process is told when nothing that it says is read here any
    /// more, and begins anew then.
    pub fn turn_back(&self) {
        let Some(program) = lock(&self.program).take() else { return };
        self.give_up();
        let attendant = lock(&self.attendant).take();
        if attendant.is_some_and(|attendant| attendant.join().is_err()) {
            tracing::error!("hearing the old process out has ended in a panic");
        }
        if !self.refused.load(Ordering::Acquire) {
            let why = "it has not taken the machine over, as it said on the motion's connection";
            self.refuse(&Error::new(Code::PeerFailed, why));
        }
        become_old(&program, &self.channel);
    }

    /// The machine ends here. Whatever the process has become that it was to go back to has nothing to wait
    /// for, and may be an image that would wait for ever.
    pub fn end_parent(&self) {
        if let (true, Some(parent)) = (self.stage().entered, &self.parent) {
            parent.end();
        }
    }

    /// What the guest boots when it is reset. Once.
    pub(super) fn take_boot(&self) -> Option<BootFiles> {
        lock(&self.boot).take()
    }

    /// Events that nobody was told of yet.
    pub(super) fn is_told_late(&self, events: Vec<String>) {
        self.stage().late = events;
    }

    /// The guest is here.
    pub(super) fn enter(&self) {
        self.change(|stage| stage.entered = true);
    }

    /// The guest will not come here.
    pub(super) fn give_up(&self) {
        self.change(|stage| stage.over = true);
        self.over.wake();
    }

    /// The runtime folder of the machine.
    pub fn runtime(&self) -> &RuntimeDir {
        &self.runtime
    }

    fn stage(&self) -> std::sync::MutexGuard<'_, Stage> {
        lock(&self.stage)
    }

    fn change(&self, change: impl FnOnce(&mut Stage)) {
        change(&mut self.stage());
        self.changed.notify_all();
    }

    /// Whether anybody still wants the guest to come here.
    pub(super) fn is_wanted(&self) -> bool {
        !self.stage().over
    }

    /// Lets go of all that was needed to take the machine over: how that went is what is left.
    fn settle(&self, monitor: &Monitor) {
        // The old process has ended without a word: that the guest is here says enough.
        let silent = || MigrationInfo {
            status: Some(qmp::reply::MigrationStatus::Completed),
            ..MigrationInfo::default()
        };
        let info = self.stage().info.take().unwrap_or_else(silent);
        let mut state = monitor.state();
        state.succeeded = Some(info);
        let over = (state.incoming.take(), state.succession.take());
        drop(state);
        drop(over);
        drop(lock(&self.program).take());
    }

    /// Whether the guest is to go back to the process that it came from.
    pub fn goes_back(&self) -> bool {
        self.parent.is_some() && !self.stage().stays
    }

    /// Waits until the guest is here, or never will be.
    fn wait_entered(&self) -> bool {
        let stage = self
            .changed
            .wait_while(self.stage(), |stage| !stage.entered && !stage.over)
            .unwrap_or_else(PoisonError::into_inner);
        stage.entered
    }

    /// Takes in what people hold on to.
    fn prepare(
        &self,
        monitor: &Arc<Monitor>,
        content: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Error> {
        let wrong = |e: state::LoadError| Error::new(Code::IncompatibleVersion, e.to_string());
        let mut bundle = Bundle::decode(content).map_err(wrong)?;
        let table: SavedHeld = bundle.take("").map_err(wrong)?;
        let mut held = Held::of_parts(table, descriptors)?;
        let vacant = lock(&self.vacant).take();
        let none = || Error::new(Code::ProtocolError, "what people hold on to came twice");
        let vacant = vacant.ok_or_else(none)?;
        let server = Server::adopt(bundle.take("").map_err(wrong)?, held.take_all(Role::Qmp))
            .map_err(|e| Error::new(Code::IncompatibleVersion, e.to_string()))?
            .in_place_of(vacant);
        let end: SavedConsoleEnd = bundle.take("").map_err(wrong)?;
        let console = lock(&monitor.console).clone();
        let none = || Error::new(Code::Internal, "there is no machine yet");
        console
            .ok_or_else(none)?
            .adopt(end, held.take_all(Role::Console))
            .map_err(|e| Error::new(Code::HostIo, e.to_string()))?;
        let settings: SavedSettings = bundle.take("").map_err(wrong)?;
        bundle.finish().map_err(wrong)?;
        held.finish()?;
        let since =
            settings.uptime.and_then(|ms| Instant::now().checked_sub(Duration::from_millis(ms)));
        self.stage().ahead = Some(Ahead { server, settings, since });
        Ok(())
    }

    /// Waits until the old process says something. Not for ever, and not when the guest will not come any
    /// more: what it says then is not for this program.
    fn is_spoken_to(&self) -> io::Result<bool> {
        let until = Some(Instant::now() + PATIENCE);
        let ready = wait_readable(&[self.channel.as_fd()], &self.over, until)?;
        Ok(!ready.readable.is_empty() && !self.stage().over)
    }

    /// Hears the old process out, and serves people from when the guest is here.
    fn attend(&self, monitor: &Arc<Monitor>) {
        let ahead = match self.is_spoken_to() {
            Ok(true) => self.channel.receive(TELLING),
            Ok(false) => return monitor.end(Ending::NotTaken),
            Err(error) => Err(error),
        };
        let prepared = match ahead {
            Ok(Some(letter)) if letter.kind == Kind::Ahead => {
                self.prepare(monitor, &letter.content, letter.descriptors)
            }
            // The motion's own connection says the same, if the old process came as far as that.
            Ok(None) => {
                self.give_up();
                return monitor.end(Ending::NotTaken);
            }
            Ok(Some(letter)) => {
                let why = format!("the old process went on with {:?}", letter.kind);
                Err(Error::new(Code::ProtocolError, why))
            }
            Err(error) => Err(Error::host("hearing from the old process", &error)),
        };
        if let Err(error) = prepared {
            tracing::info!(%error, "the update is refused");
            self.refuse(&error);
            return monitor.end(Ending::NotTaken);
        }
        if let Err(error) = self.channel.send(Kind::Prepared, &[], &[] as &[OwnedFd], TELLING) {
            tracing::info!(%error, "telling the old process that all is here");
            return monitor.end(Ending::NotTaken);
        }
        if !self.wait_entered() {
            return;
        }
        self.serve(monitor);
        if self.parent.is_none() {
            supervisor::main_process();
        }
        if let Err(error) = self.channel.send(Kind::Taken, &[], &[] as &[OwnedFd], TELLING) {
            tracing::debug!(%error, "the old process has ended already");
        }
        match self.channel.receive(TELLING) {
            Ok(Some(letter)) if letter.kind == Kind::Report => {
                let info = serde_json::from_slice(&letter.content);
                let info = info.inspect_err(|error| tracing::warn!(%error, "reading its report"));
                self.change(|stage| stage.info = info.ok());
            }
            other => tracing::warn!(?other, "the old process did not say how the update went"),
        }
        if let Some(parent) = &self.parent {
            if self.go_back(monitor, parent) {
                return;
            }
            tracing::warn!("the guest stays in this process");
            self.change(|stage| stage.stays = true);
            supervisor::main_process();
        }
        self.settle(monitor);
        monitor.events.send(&qmp::Event::Updated {
            from: self.from.clone(),
            to: outset::builder(),
            pid: std::process::id(),
        });
        // Where it is a child of this process nothing of it is left.
        reap(self.old);
    }

    /// Has the machine go back to the process that it came from, which has become the new program. If that
    /// refuses it becomes the one that it was, and can be asked once more.
    fn go_back(&self, monitor: &Arc<Monitor>, parent: &Arc<Parent>) -> bool {
        for _ in 0..2 {
            let report = match monitor.go_back(parent.clone()) {
                Ok(motion) => motion.wait(),
                Err(error) => {
                    tracing::warn!(%error, "the machine does not go back");
                    break;
                }
            };
            let Some(error) = &report.error else { return true };
            tracing::warn!(why = error.why, "the machine did not go back");
            if report.status.0 == Status::Cancelled || !parent.turns_back(error) {
                break;
            }
        }
        parent.end();
        false
    }

    /// How long the guest stood still when it came here, and where that went.
    pub fn blackout(&self) -> Option<serde_json::Value> {
        let info = self.stage().info.clone()?;
        info.report?.get("blackout").cloned()
    }

    /// Everybody is served here from now on.
    fn serve(&self, monitor: &Arc<Monitor>) {
        let (ahead, late) = {
            let mut stage = self.stage();
            (stage.ahead.take(), std::mem::take(&mut stage.late))
        };
        if let Some(lock_file) = lock(&self.name).take() {
            match Claim::adopt(&self.runtime, &monitor.name, lock_file) {
                Ok(claim) => *lock(&monitor.claim) = Some(claim),
                Err(error) => tracing::error!(%error, "the machine's name was not taken over"),
            }
        }
        let Some(Ahead { mut server, settings, since }) = ahead else { return };
        if since.is_some() {
            monitor.state().since = since;
        }
        monitor.adopt_settings(&settings.parameters, &settings.capabilities);
        server.deliver(late);
        if let Err(error) = monitor.serve(server) {
            tracing::error!(%error, "the control sockets are not served");
        }
    }

    /// Waits for the guest.
    pub fn take_over(
        self: &Arc<Self>,
        monitor: &Arc<Monitor>,
        vacant: Server,
    ) -> Result<(), Error> {
        let doing = format!("cannot take `{}` over", monitor.name);
        let fail = |code, why: String| Error::new(code, format!("{doing}: {why}"));
        *lock(&self.vacant) = Some(vacant);
        let link = lock(&self.link).take();
        let link = link.ok_or_else(|| fail(Code::Internal, "it is under way".to_owned()))?;
        let given = Descriptors::one(LINK, link);
        let listener = Listener::bind(&Address::Fd(LINK.to_owned()), &given)
            .map_err(|e| fail(e.code(), e.to_string()))?;
        let ram = lock(&self.ram).take();
        let ram = ram.ok_or_else(|| fail(Code::Internal, "it is under way".to_owned()))?;
        let ram = RamOrigin::Shared(ram);
        let wishes = Wishes { name: Some(monitor.name.to_string()), ram, ..Wishes::default() };
        let console = monitor.clone();
        let consoles = Box::new(move || console.vacant_console());
        let builder = Builder::new(monitor.hypervisor.clone(), wishes, consoles, monitor.sink());
        let arrivals = Arrivals::new(builder, Arc::downgrade(monitor));
        let builder = Arc::new(Successors { arrivals, succession: self.clone() });
        let mut options = DestinationOptions {
            name: monitor.name.to_string(),
            ram: RamWay::Shared,
            ..DestinationOptions::default()
        };
        options.stall_limit = self.stall.unwrap_or(options.stall_limit);
        let observer = Arc::new(Arrived { succession: self.clone() });
        let journal = Box::new(MemoryJournal::default());
        let fate = Some(self.fate.clone());
        let job = DestinationJob::listen(listener, builder, options, journal, observer, fate)
            .map_err(|e| fail(e.code, e.why))?;
        let waiting = Arc::new(Waiting::over(job));
        monitor.state().incoming = Some(waiting.clone());
        monitor.state().succession = Some(self.clone());
        let mut welcome = Bundle::new();
        let builder = SavedBuilder {
            builder: outset::builder(),
            pid: std::process::id(),
            namespace: namespace::own(),
        };
        welcome.put("", &builder);
        self.channel
            .send(Kind::Welcome, &welcome.encode(), &[] as &[OwnedFd], TELLING)
            .map_err(|e| Error::host(doing.clone(), &e))?;
        let (succession, holder) = (self.clone(), monitor.clone());
        let attended = std::thread::Builder::new().name("predecessor".into());
        let attendant = attended
            .spawn(move || succession.attend(&holder))
            .map_err(|e| Error::host(doing.clone(), &e))?;
        *lock(&self.attendant) = Some(attendant);
        let (succession, holder) = (self.clone(), Arc::downgrade(monitor));
        std::thread::Builder::new()
            .name("incoming".into())
            .spawn(move || {
                let report = waiting.wait();
                if report.status.0 != Status::Completed
                    && let Some(monitor) = holder.upgrade()
                {
                    succession.give_up();
                    let why = report.error.as_ref().map(|error| error.why.clone());
                    tracing::info!(why, "the old process keeps its guest");
                    monitor.end(Ending::NotTaken);
                }
            })
            .map_err(|e| Error::host(doing, &e))?;
        Ok(())
    }
}

/// Becomes the program that this process was. Returns if it cannot be.
fn become_old(program: &OwnedFd, channel: &Channel) {
    let error = execute_old(program, channel);
    tracing::error!(%error, "this process cannot go back to what it was");
}

/// Tells the old process why not. If it cannot be told it sees this one end.
fn refuse(channel: &Channel, error: &Error) {
    let mut bundle = Bundle::new();
    bundle.put("", &SavedReason { code: error.code, why: error.message.clone() });
    if let Err(error) = channel.send(Kind::Refused, &bundle.encode(), &[] as &[OwnedFd], TELLING) {
        tracing::debug!(%error, "telling the old process why not");
    }
}

/// The console of a machine whose console is still served elsewhere.
impl Monitor {
    fn vacant_console(self: &Arc<Self>) -> Result<Console, devices::console::ConsoleError> {
        let mut console = lock(&self.console);
        if let Some(console) = &*console {
            return Ok(console.clone());
        }
        let vacant = Console::vacant(&self.config.console, &self.devices, self.quitter())?;
        Ok(console.insert(vacant).clone())
    }
}
