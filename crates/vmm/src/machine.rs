//! The machine as the engine sees it.

use crate::status::RunState;
use crate::vm::Vm;
use memory::GuestRam;
use motion::handover::RunPermit;
use motion::{Machine, MachineError};
use state::Code;
use std::sync::Arc;

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
        if self.is_running() { None } else { control.permit.take() }
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
    /// Stops all vCPUs.
    pub(crate) fn stop_vcpus(&self) -> Result<(), MachineError> {
        let shared = self.shared();
        shared.gate.stop().map_err(|e| MachineError::new(Code::Kvm, "stopping the vCPUs", e))?;
        if shared.status.state() == RunState::Running {
            shared.status.set(RunState::Paused);
        }
        Ok(())
    }

    /// Runs all vCPUs, if the guest can go on.
    pub(crate) fn run_vcpus(&self, control: &mut crate::vm::Control) -> Result<(), MachineError> {
        let shared = self.shared();
        let failed = |code, why: String| MachineError::new(code, "running the guest", why);
        if control.permit.is_none() {
            return Err(failed(Code::NotOwner, "this side may not run it".to_owned()));
        }
        // Whoever closed the gate from within did not wait for the others.
        shared.gate.stop().map_err(|e| failed(Code::Kvm, e.to_string()))?;
        if shared.status.reset_wanted() {
            self.reset_all(control)?;
        }
        let state = shared.status.state();
        if state.is_end() {
            let why = format!("it is in state {state}; reset it first");
            return Err(failed(Code::InvalidState, why));
        }
        self.wind_clocks(control)?;
        control.halted = None;
        shared.status.set(RunState::Running);
        shared.gate.open();
        self.console().thaw();
        Ok(())
    }
}
