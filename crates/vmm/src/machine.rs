//! The machine as the engine sees it.

use crate::status::RunState;
use crate::vm::Vm;
use memory::GuestRam;
use motion::handover::RunPermit;
use motion::{Machine, MachineError};
use state::Code;
use std::sync::Arc;
use std::time::Duration;

impl Machine for Vm {
    fn ram(&self) -> &Arc<GuestRam> {
        self.slots().ram()
    }

    fn is_running(&self) -> bool {
        self.state() == RunState::Running
    }

    fn pause(&self) -> Result<(), MachineError> {
        let _control = self.control();
        self.stop_vcpus()
    }

    fn surrender(&self) -> Option<RunPermit> {
        let mut control = self.control();
        // A vCPU that has been told to stop may yet be finishing an instruction.
        let stands = !self.is_running() && self.shared().gate.is_quiet();
        if stands { control.permit.take() } else { None }
    }

    fn grant(&self, permit: RunPermit) {
        self.control().permit = Some(permit);
        // What a save has held back is this side's to show again.
        self.console().thaw();
    }

    fn run(&self, permit: RunPermit) -> Result<(), MachineError> {
        let mut control = self.control();
        control.permit = Some(permit);
        self.run_vcpus(&mut control)
    }
}

impl Vm {
    /// Stops the guest because something of the host that it depends on failed: the run state
    /// becomes [`RunState::IoError`], and that is an event. Tells the vCPUs to stop without waiting
    /// for them; nothing of the guest is lost, and it goes on when it is run again.
    ///
    /// One that does not run has nothing to stop, and stays what it is; it is stopped as soon as it
    /// runs, if its RAM still cannot be filled.
    pub fn stop_on_io_error(&self, reason: &str) {
        if !self.is_running() {
            return;
        }
        let shared = self.shared();
        shared.gate.close();
        shared.status.fail_io(reason);
    }

    /// Stops the guest for somebody who must not be kept waiting: also while vCPUs wait for pages of
    /// RAM that are yet to come, or to be copied. Most are brought out of that; one that waits inside KVM, which was
    /// accessing RAM on its behalf, stays there until the page comes. It enters the guest no more, but
    /// the instruction that it is in may still be completed, so that the machine can only be run,
    /// saved or moved once the page has come: [`motion::Machine::pause`] waits for that.
    ///
    /// # Errors
    /// [`MachineError`] when a vCPU does not stop, and not for such a reason.
    pub fn halt(&self) -> Result<(), MachineError> {
        /// Most of a second is at once for a person, and a thousand times what a vCPU needs.
        const SOON: Duration = Duration::from_millis(100);
        let shared = self.shared();
        // Without the lock, which somebody may hold who does wait.
        if !self.ram().may_wait() || shared.gate.stop_within(SOON).is_ok() {
            return self.pause();
        }
        tracing::debug!("a vCPU waits inside KVM for a page of RAM");
        if shared.status.state() == RunState::Running {
            shared.status.set(RunState::Paused);
        }
        Ok(())
    }

    /// Stops all vCPUs.
    pub(crate) fn stop_vcpus(&self) -> Result<(), MachineError> {
        let shared = self.shared();
        self.wait_for_vcpus()?;
        if shared.status.state() == RunState::Running {
            shared.status.set(RunState::Paused);
        }
        Ok(())
    }

    /// Tells all vCPUs to stop, and waits until they have.
    fn wait_for_vcpus(&self) -> Result<(), MachineError> {
        /// Who waits longer for a page hears of an outage anyhow.
        const PAGE: Duration = Duration::from_secs(2);
        let gate = &self.shared().gate;
        let may_wait = self.ram().may_wait();
        let stopped = if may_wait { gate.stop_within(PAGE) } else { gate.stop() };
        stopped.map_err(|e| {
            let hint = if may_wait {
                ": KVM waits for a page of its RAM, which has not come or was not copied yet; try again"
            } else {
                ""
            };
            MachineError::new(Code::Kvm, "stopping the vCPUs", format!("{e}{hint}"))
        })
    }

    /// Runs all vCPUs, if the guest can go on.
    pub(crate) fn run_vcpus(&self, control: &mut crate::vm::Control) -> Result<(), MachineError> {
        let shared = self.shared();
        let failed = |code, why: String| MachineError::new(code, "running the guest", why);
        if control.permit.is_none() {
            return Err(failed(Code::NotOwner, "this side may not run it".to_owned()));
        }
        // Whoever closed the gate from within did not wait for the others.
        self.wait_for_vcpus().map_err(|e| failed(e.code, e.why))?;
        if shared.status.reset_wanted() {
            self.reset_all(control)?;
        }
        let state = shared.status.state();
        if state.is_end() {
            let why = format!("it is in state {state}; reset it first");
            return Err(failed(Code::InvalidState, why));
        }
        // From here on the RAM is another one than any state was saved with.
        if let Some(file) = self.ram().memory_file() {
            file.enter().map_err(|e| {
                let path = file.path().display();
                let why = format!("raising the generation of its memory file {path}: {e}");
                failed(Code::HostIo, why)
            })?;
        }
        self.wind_clocks(control)?;
        control.halted = None;
        shared.status.set(RunState::Running);
        shared.gate.open();
        // An outage that came before this had nothing to stop.
        if let Some(why) = self.ram().trouble() {
            self.stop_on_io_error(&why);
        }
        self.console().thaw();
        Ok(())
    }
}
