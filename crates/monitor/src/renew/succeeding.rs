//! The machine of a process that takes over, as the engine sees it.

use super::arriving::Succession;
use super::leaving::SavedLateEvents;
use super::populate::populate;
use crate::arrival::Arrivals;
use memory::GuestRam;
use motion::handover::RunPermit;
use motion::{
    DestinationMachine, Machine, MachineBuilder, MachineError, Rehearsal, Report, Status,
};
use state::{Bundle, Code, Refusal};
use std::sync::Arc;
use std::time::Duration;
use vmm::Vm;

/// Builds the machine on the RAM that is there.
pub(super) struct Successors {
    pub arrivals: Arrivals,
    pub succession: Arc<Succession>,
}

impl MachineBuilder for Successors {
    fn check(&self, description: &Bundle) -> Vec<Refusal> {
        self.arrivals.check(description)
    }

    fn build(&self, description: Bundle) -> Result<Arc<dyn DestinationMachine>, Vec<Refusal>> {
        let machine = self.arrivals.build(description)?;
        let vm = self.arrivals.built().ok_or_else(|| {
            vec![Refusal::new(Code::Internal, "machine", "it was built and is not there", "")]
        })?;
        if let Some(boot) = self.succession.take_boot() {
            vm.reset_from(boot)
                .map_err(|e| vec![Refusal::new(Code::BadKernel, "kernel", e.to_string(), "")])?;
        }
        // Else the guest would wait for each of its pages once. Who gives up does not wait for that.
        let is_wanted = || self.succession.is_wanted();
        if let Err(error) = populate(vm.ram(), vm.config().vcpus, &is_wanted) {
            tracing::warn!(%error, "page tables are filled in as the guest touches its pages");
        }
        Ok(Arc::new(Succeeding { machine, vm, succession: self.succession.clone() }))
    }
}

/// The machine whose guest is to go on here.
struct Succeeding {
    machine: Arc<dyn DestinationMachine>,
    vm: Arc<Vm>,
    succession: Arc<Succession>,
}

impl Machine for Succeeding {
    fn ram(&self) -> &Arc<GuestRam> {
        self.machine.ram()
    }

    fn is_running(&self) -> bool {
        self.machine.is_running()
    }

    fn pause(&self) -> Result<(), MachineError> {
        self.machine.pause()
    }

    fn surrender(&self) -> Option<RunPermit> {
        self.machine.surrender()
    }

    fn grant(&self, permit: RunPermit) {
        self.machine.grant(permit);
    }

    fn run(&self, permit: RunPermit) -> Result<(), MachineError> {
        self.machine.run(permit)
    }
}

impl DestinationMachine for Succeeding {
    fn rehearse(&self) -> Result<Rehearsal, MachineError> {
        self.machine.rehearse()
    }

    fn restore(&self, mut state: Bundle) -> Result<(), MachineError> {
        let late = state
            .take_optional::<SavedLateEvents>("")
            .map_err(|e| MachineError::new(Code::BadState, "reading what happened last", e))?;
        if let Some(SavedLateEvents { lines }) = late {
            self.succession.is_told_late(lines);
        }
        self.machine.restore(state)
    }

    fn running_for(&self) -> Option<Duration> {
        self.vm.running_for()
    }

    fn slots_took(&self) -> Option<Duration> {
        self.machine.slots_took()
    }
}

/// What the arrival means here. People are told by the process that served them when it began.
pub(super) struct Arrived {
    pub succession: Arc<Succession>,
}

impl motion::Observer for Arrived {
    fn status(&self, _: Status) {}

    fn pass(&self, _: u32) {}

    fn stopped(&self) {}

    fn resumed(&self) {}

    fn handover(&self, _: &str, _: &'static str) {}

    // Who is served before that finds a handover that is not decided, and may not even end the machine.
    fn finished(&self, report: &Report) {
        match report.status.0 {
            Status::Completed => self.succession.enter(),
            _ => self.succession.give_up(),
        }
    }
}
