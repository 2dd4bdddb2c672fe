//! One machine in one process, from its start to its end.

use crate::monitor::{Monitor, State};
use crate::renew::Succession;
use crate::restoring::OpenFile;
use crate::{
    BootSource, Claim, Ending, Error, Incoming, MachineName, MemoryPlace, Restore, RunConfig,
    RuntimeDir, Signals, Woken,
};
use devices::console::Spec;
use devices::event_loop::EventLoop;
use devices::lock;
use links::{Address, Descriptors};
use memory::{Backing, GuestRam, MemoryFile};
use motion::handover::{DirJournal, RunPermit};
use motion::{Machine as _, MotionError, Progress};
use qmp::{BindError, Event, Server};
use state::Code;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime};
use uuid::Uuid;
use vmm::boot::Image;
use vmm::{Hypervisor, MachineConfig, Vm};

/// How often whoever waits for a guest out of a file is told how far it is.
const TELLING: Duration = Duration::from_millis(100);
/// How long the end of a machine waits for somebody to read its console.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// One machine, held by this process.
pub struct Machine {
    monitor: Arc<Monitor>,
    signals: Signals,
    // Ends last.
    _events: EventLoop,
}

/// What a process begins with, wherever its guest comes from.
struct Beginning {
    signals: Signals,
    hypervisor: Hypervisor,
}

impl Beginning {
    fn new() -> Result<Self, Error> {
        let signals = Signals::catch()?;
        // First what is most likely to be missing.
        let hypervisor = Hypervisor::open().map_err(|e| Error::new(e.code(), e.to_string()))?;
        Ok(Self { signals, hypervisor })
    }

    /// A machine without a guest.
    fn machine(
        self,
        name: MachineName,
        config: RunConfig,
        runtime: &RuntimeDir,
        claim: Option<Claim>,
        server: &Server,
    ) -> Result<Machine, Error> {
        let Self { signals, hypervisor } = self;
        let failed = |e| Error::host(format!("cannot start `{name}`"), &e);
        let events = EventLoop::start("devices").map_err(failed)?;
        let (happenings, happened) = mpsc::channel();
        let mut sockets = vec![runtime.socket(&name)];
        sockets.extend(config.qmp.iter().map(|socket| socket.path.clone()));
        let mut state = State::default();
        if let Some(limit) = config.stall_limit {
            state.parameters.stall_limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        }
        let monitor = Arc::new(Monitor {
            name: name.clone(),
            config,
            hypervisor: Arc::new(hypervisor),
            devices: events.handle().clone(),
            events: server.events(),
            runtime: runtime.clone(),
            claim: Mutex::new(claim),
            server: Mutex::default(),
            image: Mutex::default(),
            journal: runtime.handovers()?,
            sockets,
            happenings,
            waker: signals.waker(),
            console: Mutex::new(None),
            state: Mutex::new(state),
        });
        let listener = monitor.clone();
        std::thread::Builder::new()
            .name("happenings".into())
            .spawn(move || happened.iter().for_each(|event| listener.happened(event)))
            .map_err(failed)?;
        Ok(Machine { monitor, signals, _events: events })
    }
}

impl Machine {
    /// Builds a machine and lets it run, or begins to wait for one, or to restore one.
    ///
    /// # Errors
    /// [`Error`]; nothing of it is left.
    pub fn start(config: RunConfig, runtime: &RuntimeDir) -> Result<Self, Error> {
        let beginning = Beginning::new()?;
        let file = match &config.boot {
            BootSource::Restore(restore) => Some(OpenFile::of(restore, config.backing)?),
            BootSource::Incoming(Incoming::At(Address::File(path))) => {
                Some(OpenFile::of(&Restore::of(path.clone()), config.backing)?)
            }
            _ => None,
        };
        let (name, claim) = take_name(&config, file.as_ref(), runtime)?;
        sweep(&runtime.handovers()?);
        let server = bind(&config, runtime.socket(&name))?;
        let machine = beginning.machine(name, config, runtime, Some(claim), &server)?;
        let monitor = &machine.monitor;
        match file {
            Some(file) => {
                prepare(monitor)?;
                let config = &monitor.config;
                let at_start = matches!(config.boot, BootSource::Restore(_));
                monitor.restore(file, config.paused, config.keep_waiting, at_start)?;
            }
            None => begin(monitor)?,
        }
        let failed = |e| Error::host(format!("cannot start `{}`", monitor.name), &e);
        monitor.serve(server).map_err(failed)?;
        Ok(machine)
    }

    /// Begins to take over the machine of the process at the other end of `channel`, which this one
    /// replaces. `settle` may change what is this process's own to say.
    ///
    /// # Errors
    /// [`Error`]; the other process was told, and keeps its machine.
    pub fn succeed(channel: OwnedFd, settle: impl FnOnce(&mut RunConfig)) -> Result<Self, Error> {
        let (succession, mut config) = Succession::begin(channel)?;
        settle(&mut config);
        succession.or_refuse(|| {
            let beginning = Beginning::new()?;
            let runtime = succession.runtime();
            let nameless = || Error::new(Code::Internal, "the machine has no name");
            let name = config.name.clone().ok_or_else(nameless)?;
            let failed = |e: BindError| Error::new(Code::HostIo, e.to_string());
            let server = Server::bind(&[]).map_err(failed)?;
            let machine = beginning.machine(name, config, runtime, None, &server)?;
            succession.take_over(&machine.monitor, server)?;
            Ok(machine)
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &MachineName {
        &self.monitor.name
    }

    /// What to tell whoever started it.
    #[must_use]
    pub fn greeting(&self) -> Vec<String> {
        let monitor = &self.monitor;
        let incoming = monitor.state().incoming.clone();
        let does = match (monitor.state().guest.is_some(), incoming) {
            (true, _) if monitor.config.paused => "is ready, and paused".to_owned(),
            (true, _) => "runs".to_owned(),
            (false, Some(waiting)) => format!("waits for a guest on {}", waiting.address()),
            (false, None) => "waits to be told where its guest comes from".to_owned(),
        };
        let mut lines = vec![format!("`{}` {does} (process {})", monitor.name, std::process::id())];
        match monitor.config.console {
            Spec::Stdio | Spec::Off => {}
            _ => lines.push(format!("console: {}", monitor.console_place())),
        }
        lines
    }

    /// Waits until a guest that is being restored is here, and tells how far that is. No-op for any
    /// other machine.
    ///
    /// # Errors
    /// Why it will not be here: the machine ends.
    pub fn wait_for_restore(&self, mut tell: impl FnMut(&Progress)) -> Result<(), Ending> {
        let Some(restoring) = self.monitor.state().restoring.clone() else { return Ok(()) };
        loop {
            if let Some(ending) = self.monitor.state().ending.clone() {
                return Err(ending);
            }
            if restoring.is_over() {
                return Ok(());
            }
            tell(&restoring.progress());
            if let Some(ending) = self.listen(Some(TELLING)) {
                return Err(ending);
            }
        }
    }

    /// Holds the machine until it ends, for whatever reason.
    #[must_use]
    pub fn wait(self) -> Ending {
        let mut ending = self.until_the_end();
        let Self { monitor, signals: _signals, _events: _ } = self;
        tracing::info!(%ending, "the machine ends");
        let motion = monitor.state().outgoing.clone();
        // Whoever listens hears how it ended before that the machine does.
        match &motion {
            Some(motion) if motion.has_ended() => drop(motion.wait()),
            Some(motion) => motion.abandon(),
            None => {}
        }
        if motion.is_some_and(|motion| motion.has_renewed()) {
            // Whatever this process was to end for: the machine is another's.
            ending = Ending::Renewed;
        } else {
            // Who was not served for the sake of an update hears of the end.
            monitor.serve_again();
        }
        if let Some(waiting) = monitor.state().incoming.clone() {
            waiting.leave();
        }
        if let Some(restoring) = monitor.state().restoring.clone()
            && let Err(error) = restoring.cancel()
        {
            tracing::debug!(%error, "giving up a restore at the end");
        }
        let guest = monitor.state().guest.take();
        if matches!(ending, Ending::Renewed | Ending::NotTaken) {
            // What people hold on to is another process's.
            monitor.release();
            let succession = monitor.state().succession.clone();
            if let (Ending::NotTaken, Some(succession)) = (&ending, succession) {
                succession.turn_back();
            }
            let image = lock(&monitor.image).take();
            return match image {
                None => ending,
                Some(image) => {
                    let error = image.execute();
                    let doing = "cannot become the new program; the guest runs in the child that was \
                                 to guard it";
                    Ending::Failed(Error::host(doing, &error))
                }
            };
        }
        let succession = monitor.state().succession.clone();
        if let Some(succession) = succession {
            succession.end_parent();
        }
        if let Some(guest) = &guest {
            match (guest.halt(), guest.ram().memory_file()) {
                // Whoever waits for the machine to be gone may want it at once.
                (Ok(()), Some(file)) => file.release(),
                (Ok(()), None) => {}
                (Err(error), _) => tracing::warn!(%error, "stopping the guest at the end"),
            }
        }
        let by_guest = ending == Ending::PoweredOff;
        monitor.events.send(&Event::Shutdown { guest: by_guest, reason: ending.cause() });
        if let Some(guest) = &guest {
            guest.console().flush(LAST_OUTPUT);
        }
        monitor.close_console();
        let server = lock(&monitor.server).take();
        drop(server);
        let claim = lock(&monitor.claim).take();
        drop(claim);
        ending
    }

    fn until_the_end(&self) -> Ending {
        loop {
            let (ending, leave_by) = {
                let state = self.monitor.state();
                (state.ending.clone(), state.leave_by)
            };
            if let Some(ending) = ending {
                return ending;
            }
            let left = leave_by.map(|by| by.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ending::Moved;
            }
            if let Some(ending) = self.listen(left) {
                return ending;
            }
        }
    }

    /// Waits for a signal, or to be woken, for so long. An ending is why it cannot.
    fn listen(&self, left: Option<Duration>) -> Option<Ending> {
        match self.signals.wait(left) {
            Ok(Woken::By(signal)) => {
                if let Err(error) = self.monitor.quit(Ending::Signal(signal)) {
                    tracing::error!("{error}");
                }
                None
            }
            Ok(Woken::Called | Woken::TimedOut) => None,
            Err(error) => Some(Ending::Failed(error)),
        }
    }
}

/// Removes records of handovers that nobody will ask about any more.
fn sweep(journal: &Path) {
    let swept = DirJournal::open(journal).and_then(|mut j| j.sweep(SystemTime::now()));
    if let Err(error) = swept {
        tracing::warn!(%error, "clearing old records of handovers away");
    }
}

/// The console, for a machine whose guest is to come.
fn prepare(monitor: &Arc<Monitor>) -> Result<(), Error> {
    monitor
        .prepare_console()
        .map_err(|e| Error::new(Code::HostIo, format!("cannot start `{}`: {e}", monitor.name)))
}

fn begin(monitor: &Arc<Monitor>) -> Result<(), Error> {
    let config = &monitor.config;
    let image = |e: vmm::boot::BootError| Error::new(Code::BadKernel, e.to_string());
    let (kernel, initrd) = match &config.boot {
        BootSource::Incoming(Incoming::Deferred | Incoming::Predecessor)
        | BootSource::Restore(_) => {
            return prepare(monitor);
        }
        BootSource::Incoming(Incoming::At(address)) => {
            prepare(monitor)?;
            let (wait, insecure) = (config.keep_waiting, config.insecure);
            return monitor.wait_for_guest(address, &Descriptors::none(), wait, insecure);
        }
        BootSource::Builtin(guest) => {
            guest.parse(&config.cmdline).map_err(|e| {
                let why = format!("{e}; `whimbrel guest list` shows what {guest} takes");
                Error::new(Code::InvalidArgument, why)
            })?;
            (Image::from_bytes(guest.name(), guest.image()), None)
        }
        BootSource::Files { kernel, initrd } => {
            let initrd = initrd.as_deref().map(Image::open).transpose().map_err(image)?;
            (Image::open(kernel).map_err(image)?, initrd)
        }
    };
    let boot = vmm::BootSource { kernel, initrd, cmdline: config.cmdline.clone() };
    let vm = Arc::new(build(monitor, boot)?);
    let permit = RunPermit::for_new_machine();
    let started = if config.paused {
        vm.grant(permit);
        Ok(())
    } else {
        vm.run(permit)
    };
    started.map_err(|e| Error::new(e.code, format!("cannot start `{}`: {e}", monitor.name)))?;
    monitor.settle(vm);
    Ok(())
}

fn build(monitor: &Arc<Monitor>, boot: vmm::BootSource) -> Result<Vm, Error> {
    let config = &monitor.config;
    let failed = |e: Error| Error::new(e.code, format!("cannot start `{}`: {}", monitor.name, e));
    let machine = MachineConfig {
        name: monitor.name.to_string(),
        uuid: config.uuid.unwrap_or_else(Uuid::new_v4),
        memory: config.memory.unwrap_or(RunConfig::DEFAULT_MEMORY),
        backing: config.backing.unwrap_or_default(),
        vcpus: config.cpus.unwrap_or(1).into(),
    };
    let ram = match &config.memory_file {
        Some(place) => named(place, &machine, config.overcommit).map_err(failed)?,
        None => {
            check_memory(machine.memory, config.overcommit)?;
            GuestRam::new(machine.memory, machine.backing)
                .map_err(|e| failed(Error::new(Code::MemoryUnavailable, e.to_string())))?
        }
    };
    let console =
        monitor.open_console().map_err(|e| failed(Error::new(Code::HostIo, e.to_string())))?;
    let made = Vm::new(&monitor.hypervisor, machine, ram, console, monitor.sink())
        .and_then(|vm| vm.boot(boot).map(|()| vm));
    made.map_err(|e| failed(Error::new(e.code(), e.to_string())))
}

/// RAM in a file with a name, begun anew.
fn named(place: &MemoryPlace, machine: &MachineConfig, room: bool) -> Result<GuestRam, Error> {
    let MemoryPlace { path, discard } = place;
    if machine.backing != Backing::Small {
        let why =
            format!("a memory file has pages of 4 KiB, and not --hugepages {}", machine.backing);
        return Err(Error::new(Code::InvalidArgument, why));
    }
    let (of, identity) = (machine.uuid.into_bytes(), Uuid::new_v4().into_bytes());
    let path = std::path::absolute(path)
        .map_err(|e| Error::host(format!("looking for {}", path.display()), &e))?;
    let file = MemoryFile::create(&path, machine.memory, of, identity, *discard, room)
        .map_err(MotionError::from)?;
    GuestRam::named(Arc::new(file)).map_err(|e| Error::new(Code::MemoryUnavailable, e.to_string()))
}

/// A guest that may use more memory than there is will one day be killed for it.
fn check_memory(memory: u64, overcommit: bool) -> Result<(), Error> {
    let host = rustix::system::sysinfo();
    let has = host.totalram.saturating_mul(host.mem_unit.into());
    if overcommit || memory <= has {
        return Ok(());
    }
    Err(Error::new(
        Code::MemoryUnavailable,
        format!(
            "cannot give the guest {memory} bytes of memory: this host has {has}; use a smaller \
             --memory, or --overcommit if the guest will never use all of it"
        ),
    ))
}

/// The name that was asked for, or the first that is free of those that suggest themselves.
fn take_name(
    config: &RunConfig,
    file: Option<&OpenFile>,
    runtime: &RuntimeDir,
) -> Result<(MachineName, Claim), Error> {
    if let Some(name) = &config.name {
        return Ok((name.clone(), runtime.claim(name)?));
    }
    let base = match &config.boot {
        BootSource::Builtin(guest) => guest.name(),
        BootSource::Files { .. } => "vm",
        BootSource::Incoming(_) => "incoming",
        BootSource::Restore(_) => file.map_or("restored", OpenFile::machine),
    };
    // A name that was a name elsewhere is one here; in a file there may be anything.
    let base = if base.parse::<MachineName>().is_ok() { base } else { "restored" };
    let names = std::iter::once(base.to_owned()).chain((2..).map(|n| format!("{base}-{n}")));
    for name in names {
        let name: MachineName =
            name.parse().map_err(|e| Error::new(Code::Internal, format!("{e}")))?;
        match runtime.claim(&name) {
            Err(error) if error.code == Code::NameTaken => {}
            claimed => return claimed.map(|claim| (name, claim)),
        }
    }
    Err(Error::new(Code::NameTaken, "every name is taken; give a --name"))
}

fn bind(config: &RunConfig, own: PathBuf) -> Result<Server, Error> {
    let mut paths = vec![(own, 0o600)];
    paths.extend(config.qmp.iter().map(|socket| (socket.path.clone(), socket.mode)));
    Server::bind(&paths).map_err(|e| Error::new(Code::HostIo, e.to_string()))
}
