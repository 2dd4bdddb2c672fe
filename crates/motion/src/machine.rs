//! What the engine asks of a machine. The VMM implements it over KVM, the simulator over nothing
//! but memory.

use crate::handover::RunPermit;
use memory::{DirtyLog, GuestRam};
use state::{Bundle, Code, Refusal};
use std::sync::Arc;

/// Why a machine could not do what the engine asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}: {why}")]
pub struct MachineError {
    /// The machine-readable reason.
    pub code: Code,
    /// What was being done, to what.
    pub what: String,
    /// Why it failed, and what to try where that is known.
    pub why: String,
}

impl MachineError {
    /// An error in doing `what`.
    pub fn new(code: Code, what: impl Into<String>, why: impl ToString) -> Self {
        Self { code, what: what.into(), why: why.to_string() }
    }
}

/// A machine at either end of a motion.
///
/// Whether it may run is not a matter of its run state but of the [`RunPermit`] that it holds: it
/// runs only while it has one. All methods may be called from any thread.
pub trait Machine: Send + Sync {
    /// Its RAM, which whoever fills it while the guest runs keeps as long as the machine does.
    fn ram(&self) -> &Arc<GuestRam>;

    /// Whether its vCPUs are running, as opposed to stopped by whomever.
    fn is_running(&self) -> bool;

    /// Stops all vCPUs (signal all, then wait once), drains the devices and flushes interrupts that
    /// are on their way, so that [`SourceMachine::save`] sees everything. Returns when no vCPU can
    /// execute another guest instruction. No-op on a machine that is stopped.
    ///
    /// # Errors
    /// [`MachineError`]; the machine may then still be running.
    fn pause(&self) -> Result<(), MachineError>;

    /// Takes the permit out of a stopped machine: from now on nobody can make it run but who holds
    /// the permit. `None` when it has none, or is not stopped.
    fn surrender(&self) -> Option<RunPermit>;

    /// Gives the permit back without running: for a machine that was stopped before the motion.
    fn grant(&self, permit: RunPermit);

    /// Gives the permit and runs all vCPUs. Returns once they have been told to.
    ///
    /// # Errors
    /// [`MachineError`]; the machine holds the permit and is stopped.
    fn run(&self, permit: RunPermit) -> Result<(), MachineError>;
}

/// What saving and restoring a machine's state takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rehearsal {
    /// Saving it.
    pub save: std::time::Duration,
    /// Restoring it.
    pub restore: std::time::Duration,
}

/// The machine that a motion starts from.
pub trait SourceMachine: Machine {
    /// Everything that the destination must know to build and check a machine like this one before
    /// the guest stops: memory layout, CPUID, TSC, clocks, the schemas of all devices.
    ///
    /// # Errors
    /// [`MachineError`] when KVM does not say.
    fn describe(&self) -> Result<Bundle, MachineError>;

    /// The same in at most so many bytes, encoded, where that can be: what only a later reset of the
    /// guest needs is left out.
    ///
    /// # Errors
    /// As of [`SourceMachine::describe`].
    fn describe_within(&self, most: u64) -> Result<Bundle, MachineError> {
        let _ = most;
        self.describe()
    }

    /// All reasons why it cannot be moved. Asked before anything is paused.
    fn refusals(&self) -> Vec<Refusal>;

    /// Gives the destination what it must have beside RAM and state, while the guest still runs: the
    /// descriptors of a process that is replaced. Called once, before the guest is stopped, where RAM
    /// is [shared](crate::RamWay::Shared).
    ///
    /// # Errors
    /// [`MachineError`]; nothing is the destination's.
    fn send_ahead(&self) -> Result<(), MachineError> {
        Ok(())
    }

    /// Lets the guest have its processors for a moment, right before it is stopped while it runs. What led
    /// up to that may have taken them from vCPUs: their guest would be away from then on, and not from
    /// when it is stopped.
    fn yield_to_guest(&self) {}

    /// Its source of dirty pages.
    fn dirty_log(&self) -> &dyn DirtyLog;

    /// Saves everything but RAM. Called only between [`Machine::pause`] and a run.
    ///
    /// # Errors
    /// [`MachineError`]; the machine is stopped and unchanged.
    fn save(&self) -> Result<Bundle, MachineError>;
}

/// A machine that was built for one that is to come.
pub trait DestinationMachine: Machine {
    /// Saves and restores the machine as it was built, and says what that took: predictions begin
    /// with it.
    ///
    /// # Errors
    /// [`MachineError`]; the machine is of no further use.
    fn rehearse(&self) -> Result<Rehearsal, MachineError>;

    /// Loads what [`SourceMachine::save`] saved. Every payload must be consumed and every value
    /// checked. Writes nothing to RAM: what would (some MSRs do) waits for [`Machine::run`].
    ///
    /// # Errors
    /// [`MachineError`] naming the payload; the machine is of no further use.
    fn restore(&self, state: Bundle) -> Result<(), MachineError>;

    /// How long ago the last of its vCPUs went into the guest, once [`Machine::run`] has told them
    /// to; waits a little for them. `None` where that is not known yet.
    fn running_for(&self) -> Option<std::time::Duration>;

    /// How long the hypervisor took to give it memory slots when it was built, which it does for each page of
    /// RAM; where that is known.
    fn slots_took(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Builds machines for guests that come from elsewhere.
pub trait MachineBuilder: Send + Sync {
    /// All reasons why a machine of this description cannot be had here. Builds nothing that lasts.
    fn check(&self, description: &Bundle) -> Vec<Refusal>;

    /// Builds the whole machine, with RAM, vCPUs, their threads and the devices, so that nothing of
    /// it is left to do when the guest is stopped. Called after [`MachineBuilder::check`] found
    /// nothing against it.
    ///
    /// # Errors
    /// All the reasons why it cannot be built here after all.
    fn build(&self, description: Bundle) -> Result<Arc<dyn DestinationMachine>, Vec<Refusal>>;
}
