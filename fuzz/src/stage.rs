//! A machine without KVM, whose state is empty, and an observer that looks away.

use memory::{Backing, DirtyLog, DirtyLogError, GuestRam, PageRange, PageSet};
use motion::handover::RunPermit;
use motion::{
    DestinationMachine, Machine, MachineBuilder, MachineError, Observer, Rehearsal, Report,
    SourceMachine, Status,
};
use state::{Bundle, Code, Refusal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The least that a machine can have, in bytes.
const RAM: u64 = 16 << 20;

/// RAM of machines that are gone, empty again: making it anew costs more than all the rest.
static POOL: Mutex<Vec<Arc<GuestRam>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine.
#[derive(Debug)]
pub struct Stage {
    ram: Option<Arc<GuestRam>>,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    permit: Option<RunPermit>,
    running: bool,
    /// How often it was given a permit.
    permits: u32,
    restored: bool,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Nobody else keeps it once its machine is gone, or it is not reused.
        if let Some(mut ram) = self.ram.take()
            && let Some(alone) = Arc::get_mut(&mut ram)
        {
            alone.clear().expect("memory can be given back");
            lock(&POOL).push(ram);
        }
    }
}

impl Stage {
    /// A machine that was built for a guest that is to come.
    fn empty() -> Arc<Self> {
        let ram = lock(&POOL).pop();
        let ram = ram.unwrap_or_else(|| {
            Arc::new(
                GuestRam::new(RAM, Backing::Small).expect("16 MiB of shared memory can be had"),
            )
        });
        Arc::new(Self { ram: Some(ram), parts: Mutex::default() })
    }

    /// A machine whose guest runs, and has written a few pages.
    pub fn booted() -> Arc<Self> {
        let stage = Self::empty();
        for page in 1..4 {
            let slice = stage.ram().slice(PageRange::new(page, 1)).expect("the page is there");
            slice.copy_from(&[page.to_le_bytes()[0]; 64]);
        }
        *lock(&stage.parts) = Parts {
            permit: Some(RunPermit::for_new_machine()),
            running: true,
            permits: 0,
            restored: true,
        };
        stage
    }

    /// Whether its guest may run here.
    pub fn has_permit(&self) -> bool {
        lock(&self.parts).permit.is_some()
    }

    /// How often the permit came to it by a motion.
    pub fn permits(&self) -> u32 {
        lock(&self.parts).permits
    }

    /// Whether a state was loaded.
    pub fn is_restored(&self) -> bool {
        lock(&self.parts).restored
    }
}

impl Machine for Stage {
    fn ram(&self) -> &Arc<GuestRam> {
        self.ram.as_ref().expect("it is there until the machine is dropped")
    }

    fn is_running(&self) -> bool {
        lock(&self.parts).running
    }

    fn pause(&self) -> Result<(), MachineError> {
        lock(&self.parts).running = false;
        Ok(())
    }

    fn surrender(&self) -> Option<RunPermit> {
        lock(&self.parts).permit.take()
    }

    fn grant(&self, permit: RunPermit) {
        let mut parts = lock(&self.parts);
        assert!(parts.permit.is_none(), "a machine was given a second permit");
        parts.permit = Some(permit);
        parts.permits += 1;
    }

    fn run(&self, permit: RunPermit) -> Result<(), MachineError> {
        self.grant(permit);
        lock(&self.parts).running = true;
        Ok(())
    }
}

impl DirtyLog for Stage {
    fn start(&self) -> Result<(), DirtyLogError> {
        Ok(())
    }

    fn collect(&self, into: &mut PageSet) -> Result<(), DirtyLogError> {
        into.insert(PageRange::new(1, 2));
        Ok(())
    }

    fn rearm(&self, _: &PageSet, _: PageRange) -> Result<(), DirtyLogError> {
        Ok(())
    }

    fn stop(&self) -> Result<(), DirtyLogError> {
        Ok(())
    }
}

impl SourceMachine for Stage {
    fn describe(&self) -> Result<Bundle, MachineError> {
        Ok(Bundle::new())
    }

    fn refusals(&self) -> Vec<Refusal> {
        Vec::new()
    }

    fn dirty_log(&self) -> &dyn DirtyLog {
        self
    }

    fn save(&self) -> Result<Bundle, MachineError> {
        assert!(!self.is_running(), "a running machine was saved");
        Ok(Bundle::new())
    }
}

impl DestinationMachine for Stage {
    fn rehearse(&self) -> Result<Rehearsal, MachineError> {
        Ok(Rehearsal { save: Duration::from_micros(100), restore: Duration::from_micros(200) })
    }

    fn restore(&self, state: Bundle) -> Result<(), MachineError> {
        assert!(!self.is_running(), "state was loaded into a running machine");
        let bad = |e| MachineError::new(Code::BadState, "loading nothing", e);
        state.finish().map_err(bad)?;
        lock(&self.parts).restored = true;
        Ok(())
    }

    fn running_for(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

/// Builds such machines, and knows the last one for as long as it is there.
#[derive(Debug, Default)]
pub struct Builder {
    built: Mutex<std::sync::Weak<Stage>>,
}

impl Builder {
    /// The machine that was built last.
    pub fn machine(&self) -> Option<Arc<Stage>> {
        lock(&self.built).upgrade()
    }
}

impl MachineBuilder for Builder {
    fn check(&self, description: &Bundle) -> Vec<Refusal> {
        let refuse = |p: &state::Payload| {
            Refusal::new(Code::IncompatibleDevice, &p.schema, "there is no such thing here", "")
        };
        description.payloads().iter().map(refuse).collect()
    }

    fn build(&self, _: Bundle) -> Result<Arc<dyn DestinationMachine>, Vec<Refusal>> {
        let machine = Stage::empty();
        *lock(&self.built) = Arc::downgrade(&machine);
        Ok(machine)
    }
}

/// Looks away.
#[derive(Debug)]
pub struct Quiet;

impl Observer for Quiet {
    fn status(&self, _: Status) {}
    fn pass(&self, _: u32) {}
    fn stopped(&self) {}
    fn resumed(&self) {}
    fn handover(&self, _: &str, _: &'static str) {}
    fn finished(&self, _: &Report) {}
}
