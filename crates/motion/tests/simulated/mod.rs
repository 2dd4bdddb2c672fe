//! A machine without KVM: RAM, a counter of what its guest wrote, and a permit.

#![allow(dead_code, reason = "each test uses a part of it")]

use memory::{Backing, DirtyLog, DirtyLogError, GuestRam, PageRange, PageSet, RamImage};
use motion::fill::{FillReport, Outage};
use motion::handover::RunPermit;
use motion::{
    DestinationMachine, Machine, MachineBuilder, MachineError, Observer, Rehearsal, Report,
    SourceMachine, Status,
};
use state::{Bundle, Code, Refusal, Saved};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the simulated machine saves: how many writes its guest has done.
#[derive(Debug, PartialEq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Counter {
    #[n(0)]
    pub writes: u64,
}

impl Saved for Counter {
    const SCHEMA: &'static str = "simulated.counter";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// What it describes: the size of its RAM.
#[derive(Debug, PartialEq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Description {
    #[n(0)]
    pub ram: u64,
}

impl Saved for Description {
    const SCHEMA: &'static str = "simulated.description";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// Dirty pages by the book: a page is reported until it is rearmed, and again once it is written
/// after that.
#[derive(Default)]
struct Log {
    dirty: Mutex<Option<PageSet>>,
    pages: u64,
    /// How often it was switched on.
    starts: AtomicU64,
}

impl DirtyLog for Log {
    fn start(&self) -> Result<(), DirtyLogError> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        *self.dirty.lock().unwrap() = Some(PageSet::full(self.pages));
        Ok(())
    }

    fn collect(&self, into: &mut PageSet) -> Result<(), DirtyLogError> {
        into.union_with(self.dirty.lock().unwrap().as_ref().expect("logging is on"));
        Ok(())
    }

    fn rearm(&self, set: &PageSet, range: PageRange) -> Result<(), DirtyLogError> {
        let mut dirty = self.dirty.lock().unwrap();
        let dirty = dirty.as_mut().expect("logging is on");
        set.runs_in(range).for_each(|run| dirty.remove(run));
        Ok(())
    }

    fn stop(&self) -> Result<(), DirtyLogError> {
        *self.dirty.lock().unwrap() = None;
        Ok(())
    }
}

/// A machine whose guest writes when the test tells it to, or all the time on a thread.
pub struct Simulated {
    ram: Arc<GuestRam>,
    log: Log,
    running: AtomicBool,
    permit: Mutex<Option<RunPermit>>,
    writes: AtomicU64,
    /// Held while the guest writes, so that pausing waits for the instruction to end.
    cpu: Mutex<()>,
    pub refusals: Mutex<Vec<Refusal>>,
    pub pause_takes: Mutex<Duration>,
    pub restore_takes: Mutex<Duration>,
    /// What the rehearsal says of it: the truth, or not.
    pub rehearsed: Mutex<Duration>,
    /// Whether the guest ran, each time that something was to be sent ahead.
    pub sent_ahead: Mutex<Vec<bool>>,
    /// How often the guest was given its processors, which it had to be running for.
    pub yielded: AtomicU64,
    /// Why nothing can be sent ahead.
    pub cannot_send: Mutex<Option<MachineError>>,
}

pub const RAM: u64 = 16 << 20;

impl Simulated {
    pub fn booted() -> Arc<Self> {
        let machine = Self::empty();
        *machine.permit.lock().unwrap() = Some(RunPermit::for_new_machine());
        machine.running.store(true, Ordering::SeqCst);
        machine
    }

    pub fn empty() -> Arc<Self> {
        Self::with_ram(GuestRam::new(RAM, Backing::Small).unwrap())
    }

    pub fn with_ram(ram: GuestRam) -> Arc<Self> {
        let ram = Arc::new(ram);
        Arc::new(Self {
            log: Log { pages: ram.pages(), ..Log::default() },
            ram,
            running: AtomicBool::new(false),
            permit: Mutex::default(),
            writes: AtomicU64::new(0),
            cpu: Mutex::default(),
            refusals: Mutex::default(),
            pause_takes: Mutex::default(),
            restore_takes: Mutex::default(),
            rehearsed: Mutex::default(),
            sent_ahead: Mutex::default(),
            yielded: AtomicU64::new(0),
            cannot_send: Mutex::default(),
        })
    }

    /// The RAM of this machine, for another process.
    pub fn ram_file(&self) -> OwnedFd {
        self.ram.file().unwrap().try_clone_to_owned().unwrap()
    }

    /// One instruction of the guest: writes `value` into a page, if it runs.
    pub fn write(&self, page: u64, value: u8) -> bool {
        let _cpu = self.cpu.lock().unwrap();
        if !self.running.load(Ordering::SeqCst) {
            return false;
        }
        assert!(self.permit.lock().unwrap().is_some(), "the guest ran without a permit");
        self.ram.slice(PageRange::new(page, 1)).unwrap().copy_from(&[value; 4096]);
        if let Some(dirty) = self.log.dirty.lock().unwrap().as_mut() {
            dirty.insert(PageRange::new(page, 1));
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        true
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    pub fn has_permit(&self) -> bool {
        self.permit.lock().unwrap().is_some()
    }

    pub fn is_logging(&self) -> bool {
        self.log.dirty.lock().unwrap().is_some()
    }

    /// How often logging was switched on.
    pub fn log_starts(&self) -> u64 {
        self.log.starts.load(Ordering::SeqCst)
    }

    pub fn contents(&self) -> Vec<u8> {
        let all = PageRange::new(0, self.ram.pages());
        let mut bytes = vec![0; usize::try_from(RAM).unwrap()];
        self.ram.read(all, &mut bytes).unwrap();
        bytes
    }

    pub fn touched(&self) -> Vec<PageRange> {
        self.ram.touched(PageRange::new(0, self.ram.pages())).unwrap()
    }
}

impl Machine for Simulated {
    fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    fn pause(&self) -> Result<(), MachineError> {
        let _cpu = self.cpu.lock().unwrap();
        self.running.store(false, Ordering::SeqCst);
        std::thread::sleep(*self.pause_takes.lock().unwrap());
        Ok(())
    }

    fn surrender(&self) -> Option<RunPermit> {
        assert!(!self.is_running());
        self.permit.lock().unwrap().take()
    }

    fn grant(&self, permit: RunPermit) {
        assert!(self.permit.lock().unwrap().replace(permit).is_none());
    }

    fn run(&self, permit: RunPermit) -> Result<(), MachineError> {
        self.grant(permit);
        self.running.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl SourceMachine for Simulated {
    fn describe(&self) -> Result<Bundle, MachineError> {
        let mut bundle = Bundle::new();
        bundle.put("", &Description { ram: RAM });
        Ok(bundle)
    }

    fn refusals(&self) -> Vec<Refusal> {
        self.refusals.lock().unwrap().clone()
    }

    fn send_ahead(&self) -> Result<(), MachineError> {
        self.sent_ahead.lock().unwrap().push(self.is_running());
        self.cannot_send.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn yield_to_guest(&self) {
        assert!(self.is_running());
        self.yielded.fetch_add(1, Ordering::SeqCst);
    }

    fn dirty_log(&self) -> &dyn DirtyLog {
        &self.log
    }

    fn save(&self) -> Result<Bundle, MachineError> {
        assert!(!self.is_running());
        let mut bundle = Bundle::new();
        bundle.put("", &Counter { writes: self.writes() });
        Ok(bundle)
    }
}

impl DestinationMachine for Simulated {
    fn rehearse(&self) -> Result<Rehearsal, MachineError> {
        Ok(Rehearsal { save: Duration::from_micros(50), restore: *self.rehearsed.lock().unwrap() })
    }

    fn restore(&self, mut state: Bundle) -> Result<(), MachineError> {
        std::thread::sleep(*self.restore_takes.lock().unwrap());
        let bad = |e| MachineError::new(Code::BadState, "loading the counter", e);
        let counter: Counter = state.take("").map_err(bad)?;
        state.finish().map_err(bad)?;
        self.writes.store(counter.writes, Ordering::SeqCst);
        Ok(())
    }

    fn running_for(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

/// Builds simulated machines, and remembers the last one.
#[derive(Default)]
pub struct Builder {
    /// What RAM begins as.
    pub image: Mutex<Option<Arc<RamImage>>>,
    /// The RAM of the machine that is to come.
    pub shared: Mutex<Option<OwnedFd>>,
    /// Why building fails, though nothing was found against it.
    pub fails: Mutex<Vec<Refusal>>,
    pub built: Mutex<Option<Arc<Simulated>>>,
    pub refusals: Mutex<Vec<Refusal>>,
    pub restore_takes: Mutex<Duration>,
    pub rehearsed: Mutex<Duration>,
}

impl Builder {
    pub fn built(&self) -> Option<Arc<Simulated>> {
        self.built.lock().unwrap().clone()
    }
}

impl MachineBuilder for Builder {
    fn check(&self, description: &Bundle) -> Vec<Refusal> {
        let described: Result<Description, _> = description.clone().take("");
        assert_eq!(described, Ok(Description { ram: RAM }));
        self.refusals.lock().unwrap().clone()
    }

    fn build(&self, _: Bundle) -> Result<Arc<dyn DestinationMachine>, Vec<Refusal>> {
        let fails = self.fails.lock().unwrap().clone();
        if !fails.is_empty() {
            return Err(fails);
        }
        let shared = self.shared.lock().unwrap().as_ref().map(|file| file.try_clone().unwrap());
        let machine = match (self.image.lock().unwrap().clone(), shared) {
            (Some(image), _) => Simulated::with_ram(GuestRam::over(image).unwrap()),
            (None, Some(file)) => {
                Simulated::with_ram(GuestRam::from_file(file, RAM, Backing::Small, None).unwrap())
            }
            (None, None) => Simulated::empty(),
        };
        *machine.restore_takes.lock().unwrap() = *self.restore_takes.lock().unwrap();
        *machine.rehearsed.lock().unwrap() = *self.rehearsed.lock().unwrap();
        *self.built.lock().unwrap() = Some(machine.clone());
        Ok(machine)
    }
}

/// Notes what it is told.
#[derive(Default)]
pub struct Notes {
    pub seen: Mutex<Vec<Status>>,
    pub stopped: AtomicU64,
    pub resumed: AtomicU64,
    pub outages: Mutex<Vec<Outage>>,
    pub filled: AtomicU64,
    pub undecided: AtomicU64,
    pub phases: Mutex<Vec<&'static str>>,
}

impl Observer for Notes {
    fn status(&self, status: Status) {
        self.seen.lock().unwrap().push(status);
    }
    fn pass(&self, _: u32) {}
    fn stopped(&self) {
        self.stopped.fetch_add(1, Ordering::SeqCst);
    }
    fn resumed(&self) {
        self.resumed.fetch_add(1, Ordering::SeqCst);
    }
    fn handover(&self, _: &str, phase: &'static str) {
        let undecided = matches!(phase, "undecided" | "holding");
        self.undecided.fetch_add(undecided.into(), Ordering::SeqCst);
        self.phases.lock().unwrap().push(phase);
    }
    fn finished(&self, _: &Report) {}
    fn outage(&self, outage: &Outage) {
        self.outages.lock().unwrap().push(outage.clone());
    }
    fn filled(&self, _: &FillReport) {
        self.filled.fetch_add(1, Ordering::SeqCst);
    }
}
