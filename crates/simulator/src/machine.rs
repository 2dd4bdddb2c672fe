//! A machine without KVM. Its guest writes between any two things that the engine does.

use crate::book::Book;
use crate::gate::{Access, Gate};
use crate::guest::{self, Guest, RAM, SharedGuest};
use crate::keep::Cellar;
use crate::life::Life;
use memory::{Backing, DirtyLog, DirtyLogError, GuestRam, PageRange, PageSet};
use motion::handover::RunPermit;
use motion::{DestinationMachine, Machine, MachineError, Rehearsal, SourceMachine};
use state::{Bundle, Code, Refusal, Saved};
use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What is saved: how many writes the guest has done.
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

/// What a machine can be asked to do, and may fail to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Describe,
    Pause,
    Save,
    Run,
    StartLog,
    Collect,
    Rearm,
    Build,
    Rehearse,
    Restore,
}

impl Operation {
    pub const ALL: [Self; 10] = [
        Self::Describe,
        Self::Pause,
        Self::Save,
        Self::Run,
        Self::StartLog,
        Self::Collect,
        Self::Rearm,
        Self::Build,
        Self::Rehearse,
        Self::Restore,
    ];
}

/// What is wrong with a machine on purpose, to see that the simulator finds out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Rearming forgets a page that was written since.
    ForgetsABit,
    /// Rearming takes effect only after the pages were read.
    RearmsLate,
    /// Logging is never switched off.
    KeepsLogging,
    /// A guest that is given back is not resumed.
    StaysStopped,
    /// Pausing returns while the guest still writes.
    PausesLate,
    /// Restoring writes to RAM, which is still the source's.
    WritesEarly,
    /// It runs on a memory file whose generation it has not raised.
    RunsUnentered,
}

/// How machines are in a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nature {
    /// What the steps of a blackout take, in nanoseconds.
    pub pause: u64,
    pub save: u64,
    pub restore: u64,
    /// What the rehearsal says that restoring takes.
    pub rehearsed: u64,
    /// What building takes.
    pub build: u64,
    pub fails: Option<Operation>,
    pub defect: Option<Defect>,
}

thread_local! {
    /// RAM of machines that are gone, empty again: making it anew costs more than a whole run.
    static POOL: RefCell<Vec<Arc<GuestRam>>> = const { RefCell::new(Vec::new()) };
}

fn empty_ram() -> Arc<GuestRam> {
    let used = POOL.with_borrow_mut(Vec::pop);
    used.unwrap_or_else(|| Arc::new(GuestRam::new(RAM, Backing::Small).expect("there are 16 MiB")))
}

/// A machine of one process.
pub struct SimMachine {
    /// Taken out only when it goes back to the pool.
    ram: Option<Arc<GuestRam>>,
    pub life: Arc<Life>,
    guest: SharedGuest,
    book: Book,
    nature: Nature,
    pub gate: Arc<Gate>,
    /// What its RAM was when that was last made durable, where it lasts.
    cellar: Option<Arc<Cellar>>,
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    running: bool,
    permit: Option<RunPermit>,
    writes: u64,
    dirty: Option<PageSet>,
    /// Rearmed, but not yet in effect: of a machine that rearms late.
    late: Vec<PageRange>,
    still_writes: u64,
    /// The permit was taken out by a motion, and has not come back.
    surrendered: bool,
    failed: bool,
    /// It ran, and was stopped because pages could not be had.
    io_error: bool,
    /// When the guest was last stopped, and for how long it then was before it went on here.
    stopped_at: u64,
    paused_for: Option<u64>,
    started_at: u64,
    /// The guest whose state was saved last.
    saved: Option<Guest>,
}

impl Drop for SimMachine {
    fn drop(&mut self) {
        // Nobody else keeps it once its machine is gone, or it is not reused.
        // Nobody waits for it any more.
        self.ram.iter().for_each(|ram| ram.let_go());
        if self.cellar.is_some() {
            return;
        }
        if let Some(mut ram) = self.ram.take()
            && let Some(alone) = Arc::get_mut(&mut ram)
        {
            alone.clear().expect("memory can be given back");
            POOL.with_borrow_mut(|pool| pool.push(ram));
        }
    }
}

impl SimMachine {
    pub fn empty(life: Arc<Life>, guest: SharedGuest, book: Book, nature: Nature) -> Arc<Self> {
        Self::over(empty_ram(), life, guest, book, nature)
    }

    /// One whose RAM another one has, too.
    pub fn over(
        ram: Arc<GuestRam>,
        life: Arc<Life>,
        guest: SharedGuest,
        book: Book,
        nature: Nature,
    ) -> Arc<Self> {
        Arc::new(Self {
            ram: Some(ram),
            life,
            guest,
            book,
            nature,
            gate: Arc::default(),
            cellar: None,
            parts: Mutex::default(),
        })
    }

    /// One whose RAM lies in a memory file.
    pub fn named(
        ram: GuestRam,
        cellar: Arc<Cellar>,
        life: Arc<Life>,
        guest: SharedGuest,
        book: Book,
        nature: Nature,
    ) -> Arc<Self> {
        let (ram, cellar) = (Some(Arc::new(ram)), Some(cellar));
        let (gate, parts) = (Arc::default(), Mutex::default());
        Arc::new(Self { ram, life, guest, book, nature, gate, cellar, parts })
    }

    /// A guest is about to run: its RAM is another one than any state was saved with.
    fn enter(&self) -> Result<(), MachineError> {
        let Some(file) = self.ram().memory_file() else { return Ok(()) };
        if self.nature.defect == Some(Defect::RunsUnentered) {
            return Ok(());
        }
        file.enter().map_err(|error| {
            self.parts().failed = true;
            MachineError::new(Code::HostIo, "raising the generation", error)
        })
    }

    /// Its RAM, for the process that is to replace this one.
    pub fn shared_ram(&self) -> Arc<GuestRam> {
        self.ram().clone()
    }

    /// A machine on which the guest begins.
    pub fn boot(&self, running: bool) {
        let touched = guest::lock(&self.guest).habits().touched;
        {
            let mut parts = self.parts();
            parts.permit = Some(RunPermit::for_new_machine());
            parts.running = true;
        }
        self.enter().expect("nothing fails before anything has begun");
        (0..touched).for_each(|_| self.write());
        self.parts().running = running;
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().expect("nobody panics while holding it")
    }

    /// One write of the guest, if it runs here.
    fn write(&self) {
        {
            let mut parts = self.parts();
            if !parts.running && parts.still_writes == 0 || self.life.is_dead() {
                return;
            }
            parts.still_writes = parts.still_writes.saturating_sub(1);
        }
        if !self.gate.all_wait() {
            let (page, value) = guest::lock(&self.guest).plan();
            self.access(Access::Write { page, value });
        }
    }

    /// The guest looks at a page, if it runs here.
    pub fn look(&self, page: u64) {
        if self.is_running() && !self.life.is_dead() && !self.gate.all_wait() {
            self.access(Access::Look { page });
        }
    }

    /// It gives a page back, if it runs here and that is more than forgetting it.
    pub fn discard(&self, page: u64) {
        if self.is_running() && !self.life.is_dead() && self.gate.discarded(page) {
            guest::store(self.ram(), page, 0);
            guest::lock(&self.guest).discarded(page);
        }
    }

    /// A processor of the guest gets at its RAM, or waits.
    pub fn access(&self, access: Access) {
        if self.gate.stops(access, self.time()) {
            return;
        }
        let mut parts = self.parts();
        let mut guest = guest::lock(&self.guest);
        let (Access::Write { page, .. } | Access::Look { page }) = access;
        if self.gate.stands()
            && let Some(difference) = guest.sees(self.ram(), page)
        {
            self.book.wrong(format!("the guest is shown what it has not written: {difference}"));
        }
        if let Access::Write { page, value } = access {
            if let Some(cellar) = &self.cellar {
                cellar.is_written(&self.life, self.ram(), page);
            }
            guest.wrote(page, value);
            guest::store(self.ram(), page, value);
            parts.writes += 1;
            if let Some(dirty) = &mut parts.dirty {
                dirty.insert(PageRange::new(page, 1));
            }
        }
    }

    /// What whoever has the machine does when pages cannot be had.
    pub fn stop_on_io_error(&self) {
        let mut parts = self.parts();
        if std::mem::take(&mut parts.running) {
            parts.io_error = true;
            self.gate.interrupt();
            self.book.note(|| format!("p{} stops the guest: io-error", self.life.pid));
        }
    }

    /// The same, when they are to be had again; whether it had been stopped for that.
    pub fn go_on_after_io_error(&self) -> bool {
        let mut parts = self.parts();
        let stopped = std::mem::take(&mut parts.io_error);
        parts.running |= stopped;
        stopped
    }

    /// The guest runs for this long.
    pub fn runs_for(&self, time: u64) {
        if self.parts().running {
            let writes = guest::lock(&self.guest).writes_in(time);
            (0..writes).for_each(|_| self.write());
        }
    }

    /// The guest gets in between two steps of the engine.
    pub fn interlude(&self) {
        let (writes, idle) = {
            let habits = guest::lock(&self.guest).habits();
            (habits.burst.min(2), habits.every > 10_000_000)
        };
        if !idle {
            (0..writes).for_each(|_| self.write());
        }
    }

    pub fn has_permit(&self) -> bool {
        self.parts().permit.is_some()
    }

    pub fn is_surrendered(&self) -> bool {
        self.parts().surrendered
    }

    pub fn is_logging(&self) -> bool {
        self.parts().dirty.is_some()
    }

    /// When the guest was last stopped here.
    pub fn stopped_at(&self) -> u64 {
        self.parts().stopped_at
    }

    /// When the guest was last started here.
    pub fn started_at(&self) -> u64 {
        self.parts().started_at
    }

    /// How long the guest was stopped when it last went on here.
    pub fn paused_for(&self) -> Option<u64> {
        self.parts().paused_for
    }

    /// What stopping and saving it takes: nothing can make it shorter.
    pub fn own_time(&self) -> u64 {
        self.nature.pause + self.nature.save
    }

    /// By the clock of its process.
    fn time(&self) -> u64 {
        self.book.time() + self.life.ahead()
    }

    /// The guest as it was when its state was saved, once.
    pub fn take_saved(&self) -> Option<Guest> {
        self.parts().saved.take()
    }

    /// Whether its RAM outlives it.
    pub fn lasts(&self) -> bool {
        self.cellar.is_some()
    }

    /// It was asked to do something and could not.
    pub fn has_failed(&self) -> bool {
        self.parts().failed
    }

    /// The guest shuts down by itself.
    pub fn shut_down(&self) {
        self.parts().running = false;
        self.gate.interrupt();
    }

    fn tries(&self, operation: Operation) -> Result<(), MachineError> {
        if self.nature.fails == Some(operation) && !self.life.is_dead() {
            self.parts().failed = true;
            self.book.note(|| format!("p{} fails to {operation:?}", self.life.pid));
            let what = format!("{operation:?}");
            return Err(MachineError::new(Code::Kvm, what, "it was told to fail"));
        }
        Ok(())
    }

    fn tries_log(&self, operation: Operation) -> Result<(), DirtyLogError> {
        let refused = |_| std::io::ErrorKind::Other.into();
        self.tries(operation)
            .map_err(refused)
            .map_err(|source| DirtyLogError { action: "simulating", source })
    }

    /// The permit comes: whoever gives it must have made sure of all that there is to it.
    fn receive(&self, permit: RunPermit) -> bool {
        if !self.life.acts() {
            return false;
        }
        let mut parts = self.parts();
        let mut guest = guest::lock(&self.guest);
        self.book.check(parts.permit.is_none(), || "a machine was given a second permit".into());
        self.book.check(parts.writes == guest.writes, || {
            let (has, wrote) = (parts.writes, guest.writes);
            format!("the guest is to go on from write {has}, and had done {wrote}")
        });
        let difference = match self.gate.missing() {
            None => guest.differs(self.ram()),
            // The others are looked at when they are there.
            Some(missing) => guest.differs_where_it_is(self.ram(), &missing),
        };
        if let Some(difference) = difference {
            self.book.wrong(format!("RAM is not the guest's where it is to run: {difference}"));
        }
        parts.permit = Some(permit);
        parts.surrendered = false;
        guest.holder = self.life.pid;
        guest.starts += 1;
        true
    }
}

impl Machine for SimMachine {
    fn ram(&self) -> &Arc<GuestRam> {
        self.ram.as_ref().expect("it is there until the machine is dropped")
    }

    fn is_running(&self) -> bool {
        self.parts().running
    }

    fn pause(&self) -> Result<(), MachineError> {
        self.interlude();
        self.tries(Operation::Pause)?;
        let mut parts = self.parts();
        if parts.running {
            parts.stopped_at = self.time();
            parts.paused_for = None;
            self.life.takes(self.nature.pause);
            self.book.note(|| format!("p{} stops the guest", self.life.pid));
            parts.running = false;
            self.gate.interrupt();
            if self.nature.defect == Some(Defect::PausesLate) {
                parts.still_writes = 2;
            }
        }
        Ok(())
    }

    fn surrender(&self) -> Option<RunPermit> {
        let mut parts = self.parts();
        self.book.check(!parts.running, || "a running machine was to give its permit".into());
        parts.surrendered = true;
        parts.permit.take()
    }

    fn grant(&self, permit: RunPermit) {
        if self.receive(permit) {
            self.book.note(|| format!("p{} has the guest, stopped", self.life.pid));
        }
    }

    fn run(&self, permit: RunPermit) -> Result<(), MachineError> {
        if !self.receive(permit) {
            return Ok(());
        }
        self.tries(Operation::Run)?;
        self.enter()?;
        if self.life.is_dead() {
            return Ok(());
        }
        let stays = self.nature.defect == Some(Defect::StaysStopped);
        let now = self.time();
        let mut parts = self.parts();
        parts.running = !stays;
        parts.paused_for = Some(now - parts.stopped_at);
        parts.started_at = now;
        drop(parts);
        self.book.note(|| format!("p{} runs the guest", self.life.pid));
        // An outage that came before this had nothing to stop.
        if self.ram().filling().is_some_and(|filling| filling.trouble().is_some()) {
            self.stop_on_io_error();
        }
        Ok(())
    }
}

impl DirtyLog for SimMachine {
    fn start(&self) -> Result<(), DirtyLogError> {
        self.tries_log(Operation::StartLog)?;
        self.parts().dirty = Some(PageSet::full(self.ram().pages()));
        self.interlude();
        Ok(())
    }

    fn collect(&self, into: &mut PageSet) -> Result<(), DirtyLogError> {
        self.interlude();
        self.tries_log(Operation::Collect)?;
        self.settle();
        into.union_with(self.parts().dirty.as_ref().expect("logging is on"));
        self.interlude();
        Ok(())
    }

    fn rearm(&self, set: &PageSet, range: PageRange) -> Result<(), DirtyLogError> {
        self.interlude();
        self.tries_log(Operation::Rearm)?;
        self.settle();
        {
            let mut parts = self.parts();
            let Parts { dirty, late, .. } = &mut *parts;
            let dirty = dirty.as_mut().expect("logging is on");
            match self.nature.defect {
                Some(Defect::RearmsLate) => late.extend(set.runs_in(range)),
                Some(Defect::ForgetsABit) => dirty.remove(range),
                _ => set.runs_in(range).for_each(|run| dirty.remove(run)),
            }
        }
        self.interlude();
        Ok(())
    }

    fn stop(&self) -> Result<(), DirtyLogError> {
        if self.nature.defect != Some(Defect::KeepsLogging) {
            self.parts().dirty = None;
        }
        Ok(())
    }
}

impl SimMachine {
    /// What was rearmed late takes effect.
    fn settle(&self) {
        let mut parts = self.parts();
        let Parts { dirty, late, .. } = &mut *parts;
        if let Some(dirty) = dirty {
            late.drain(..).for_each(|run| dirty.remove(run));
        }
    }
}

impl SourceMachine for SimMachine {
    fn describe(&self) -> Result<Bundle, MachineError> {
        self.tries(Operation::Describe)?;
        Ok(Bundle::new())
    }

    fn refusals(&self) -> Vec<Refusal> {
        Vec::new()
    }

    fn dirty_log(&self) -> &dyn DirtyLog {
        self
    }

    fn save(&self) -> Result<Bundle, MachineError> {
        self.tries(Operation::Save)?;
        self.book.check(!self.is_running(), || "a running machine was saved".into());
        self.life.takes(self.nature.save);
        let mut bundle = Bundle::new();
        bundle.put("", &Counter { writes: self.parts().writes });
        self.parts().saved = Some(guest::lock(&self.guest).clone());
        // Only a machine that pauses late still writes here.
        self.write();
        Ok(bundle)
    }
}

impl DestinationMachine for SimMachine {
    fn rehearse(&self) -> Result<Rehearsal, MachineError> {
        self.tries(Operation::Rehearse)?;
        let (save, restore) = (self.nature.save, self.nature.rehearsed);
        Ok(Rehearsal { save: Duration::from_nanos(save), restore: Duration::from_nanos(restore) })
    }

    fn restore(&self, mut state: Bundle) -> Result<(), MachineError> {
        self.life.takes(self.nature.restore);
        self.tries(Operation::Restore)?;
        let bad = |e| MachineError::new(Code::BadState, "loading the counter", e);
        let counter: Counter = state.take("").map_err(bad)?;
        state.finish().map_err(bad)?;
        self.parts().writes = counter.writes;
        if self.nature.defect == Some(Defect::WritesEarly) {
            guest::store(self.ram(), 0, u64::MAX);
        }
        Ok(())
    }

    fn running_for(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}
