//! The handover floor: the least that a blackout can be.
//!
//! In one process, two machines on one memory file: the guest runs in the first, is stopped, saved,
//! restored into the second, which was built before, and runs there. No pages travel, no process is
//! asked, nothing is written down. What the guest sees is the floor that a move's blackout is
//! compared with.

use crate::Row;
use crate::console::Follower;
use devices::console::{Console, ConsoleError, Spec};
use devices::event_loop::EventLoop;
use guest::Builtin;
use guest::report::Line;
use memory::{Backing, GuestRam, RamError};
use motion::handover::RunPermit;
use motion::{DestinationMachine, Machine, MachineError, SourceMachine};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;
use vmm::boot::Image;
use vmm::{BootSource, EventSink, Hypervisor, MachineConfig, OpenError, Vm, VmError};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// RAM of the guest, in bytes.
    pub memory: u64,
    /// What backs it.
    pub backing: Backing,
    /// vCPUs of the guest.
    pub vcpus: u32,
    /// Those of them that watch the clock; the others halt.
    pub watchers: u32,
    /// Handovers to measure.
    pub runs: usize,
}

/// Why it could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// KVM cannot be used.
    #[error(transparent)]
    Kvm(#[from] OpenError),
    /// RAM cannot be had.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// A machine cannot be built.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// A machine failed at one step of the handover.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The guest's console cannot be opened.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A file of the benchmark's own.
    #[error("the benchmark's own files: {0}")]
    Io(#[from] io::Error),
    /// The guest does not speak.
    #[error("the guest said nothing {0} within ten seconds")]
    Silent(&'static str),
}

impl FloorError {
    /// The machine-readable reason.
    #[must_use]
    pub fn code(&self) -> state::Code {
        match self {
            Self::Kvm(e) => e.code(),
            Self::Ram(_) => state::Code::MemoryUnavailable,
            Self::Machine(e) => e.code,
            Self::Vm(_) => state::Code::Kvm,
            Self::Console(_) | Self::Io(_) => state::Code::HostIo,
            Self::Silent(_) => state::Code::GuestError,
        }
    }
}

/// How long to wait for the guest's word.
const WORD: Duration = Duration::from_secs(10);

struct Bench<'a> {
    options: &'a Options,
    hypervisor: Hypervisor,
    events: EventLoop,
    console: PathBuf,
    uuid: Uuid,
}

/// The stages of one handover, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stages {
    /// Stopping the vCPUs.
    pub pause: f64,
    /// Saving their state and the devices'.
    pub save: f64,
    /// Loading it into the other machine.
    pub restore: f64,
    /// Having its vCPUs run.
    pub run: f64,
    /// What the guest saw of it all.
    pub gap: f64,
}

/// Measures the floor, as rows. `seen` is called after each handover, for those who watch.
///
/// # Errors
/// [`FloorError`]
pub fn measure(options: &Options, seen: impl FnMut(usize)) -> Result<Vec<Row>, FloorError> {
    Ok(rows(options, &handovers(options, seen)?))
}

/// Measures handovers. `seen` is called after each, for those who watch.
///
/// # Errors
/// [`FloorError`]
pub fn handovers(
    options: &Options,
    mut seen: impl FnMut(usize),
) -> Result<Vec<Stages>, FloorError> {
    let folder = tempfile::tempdir()?;
    let console = folder.path().join("console");
    std::fs::write(&console, "")?;
    let bench = Bench {
        options,
        hypervisor: Hypervisor::open()?,
        events: EventLoop::start("bench-events")?,
        console: console.clone(),
        uuid: Uuid::new_v4(),
    };
    let mut running = bench.first()?;
    let mut follower = Follower::open(&console)?;
    follower.clock(WORD)?.ok_or(FloorError::Silent("at its start"))?;
    let mut all = Vec::new();
    for run in 0..options.runs {
        let (next, stages) = bench.hand_over(running, &mut follower)?;
        running = next;
        all.push(stages);
        seen(run + 1);
    }
    running.pause()?;
    Ok(all)
}

fn rows(options: &Options, all: &[Stages]) -> Vec<Row> {
    let case = format!(
        "{} MiB, {} vCPU{}",
        options.memory >> 20,
        options.vcpus,
        if options.vcpus == 1 { "" } else { "s" }
    );
    let row = |metric: &str, of: fn(&Stages) -> f64| {
        Row::of("floor", &case, metric, "µs", all.iter().map(of).collect())
    };
    [
        row("stop the vCPUs", |s| s.pause),
        row("save the state", |s| s.save),
        row("restore it", |s| s.restore),
        row("run the vCPUs", |s| s.run),
        row("gap that the guest saw", |s| s.gap),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Bench<'_> {
    fn vm(&self, ram: GuestRam) -> Result<Vm, FloorError> {
        let Options { memory, backing, vcpus, .. } = *self.options;
        let config =
            MachineConfig { name: "floor".to_owned(), uuid: self.uuid, memory, backing, vcpus };
        let console = self.open_console(&self.console)?;
        let events: EventSink = Arc::new(|_| {});
        Ok(Vm::new(&self.hypervisor, config, ram, console, events)?)
    }

    fn open_console(&self, path: &Path) -> Result<Console, FloorError> {
        Ok(Console::open(&Spec::File(path.to_owned()), self.events.handle(), || {})?)
    }

    /// The guest's first machine, running.
    fn first(&self) -> Result<Vm, FloorError> {
        let ram = GuestRam::new(self.options.memory, self.options.backing)?;
        let vm = self.vm(ram)?;
        let kernel = Image::from_bytes("clock", Builtin::Clock.image());
        let cmdline = format!("report=1s gap=100us watch={}", self.options.watchers);
        vm.boot(BootSource { kernel, initrd: None, cmdline })?;
        vm.run(RunPermit::for_new_machine())?;
        Ok(vm)
    }

    fn hand_over(&self, from: Vm, follower: &mut Follower) -> Result<(Vm, Stages), FloorError> {
        let Options { memory, backing, .. } = *self.options;
        let file =
            from.ram().file().expect("a machine that was booted has one").try_clone_to_owned()?;
        let to = self.vm(GuestRam::from_file(file, memory, backing, None)?)?;
        // Whatever the guest saw while the second machine was built has been said by now.
        std::thread::sleep(Duration::from_millis(150));
        follower.lines()?;

        let stop = Instant::now();
        from.pause()?;
        let permit = from
            .surrender()
            .ok_or_else(|| MachineError::new(state::Code::NotOwner, "handing over", "no permit"))?;
        let paused = Instant::now();
        let state = from.save()?;
        let saved = Instant::now();
        to.restore(state)?;
        let restored = Instant::now();
        to.run(permit)?;
        let running = Instant::now();

        let away = |line: &Line| match line {
            Line::Clock(clock) if clock.cpu == 0 && clock.away > 0 => Some(clock.away),
            _ => None,
        };
        let away = follower.wait(WORD, away)?.ok_or(FloorError::Silent("of a handover"))?;
        let micros = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e6;
        #[expect(clippy::cast_precision_loss, reason = "a gap is far below 2⁵² ns")]
        let gap = away as f64 / 1e3;
        let stages = Stages {
            pause: micros(stop, paused),
            save: micros(paused, saved),
            restore: micros(saved, restored),
            run: micros(restored, running),
            gap,
        };
        drop(from);
        Ok((to, stages))
    }
}
