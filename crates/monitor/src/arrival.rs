//! Machines for guests that come, which become this process's own with the permit to run them.

use crate::monitor::Monitor;
use crate::observer::Observer;
use memory::{GuestRam, PAGE_SIZE};
use motion::fill::{FillReport, Outage};
use motion::handover::RunPermit;
use motion::{
    DestinationMachine, Machine, MachineBuilder, MachineError, Rehearsal, Report, Status,
};
use qmp::Event;
use state::{Bundle, Code, Refusal};
use std::sync::{Arc, Weak};
use std::time::Duration;
use vmm::{Builder, Vm};

/// Builds machines for guests that come.
pub(crate) struct Arrivals {
    builder: Builder,
    monitor: Weak<Monitor>,
}

impl Arrivals {
    pub fn new(builder: Builder, monitor: Weak<Monitor>) -> Self {
        Self { builder, monitor }
    }

    /// The guest whose machine was built last is here, whether or not it may run.
    pub fn settle(&self) {
        if let (Some(monitor), Some(vm)) = (self.monitor.upgrade(), self.builder.built())
            && monitor.state().guest.is_none()
        {
            monitor.settle(vm);
        }
    }

    /// The machine that was built last.
    pub fn built(&self) -> Option<Arc<Vm>> {
        self.builder.built()
    }

    /// Lets go of the machine of a guest that did not come.
    pub fn forget(&self) {
        self.builder.forget();
    }
}

impl MachineBuilder for Arrivals {
    fn check(&self, description: &Bundle) -> Vec<Refusal> {
        self.builder.check(description)
    }

    fn build(&self, description: Bundle) -> Result<Arc<dyn DestinationMachine>, Vec<Refusal>> {
        self.builder.build(description)?;
        let vm = self.builder.built().ok_or_else(|| {
            vec![Refusal::new(Code::Internal, "machine", "it was built and is not there", "")]
        })?;
        Ok(Arc::new(Arriving { vm, monitor: self.monitor.clone() }))
    }
}

/// A machine whose guest is on its way.
struct Arriving {
    vm: Arc<Vm>,
    monitor: Weak<Monitor>,
}

impl Arriving {
    /// The guest is this side's. Whoever learns of it from the source must find it here.
    fn settle(&self) {
        if let Some(monitor) = self.monitor.upgrade() {
            monitor.settle(self.vm.clone());
        }
    }
}

impl Machine for Arriving {
    fn ram(&self) -> &Arc<GuestRam> {
        self.vm.ram()
    }

    fn is_running(&self) -> bool {
        self.vm.is_running()
    }

    fn pause(&self) -> Result<(), MachineError> {
        self.vm.pause()
    }

    fn surrender(&self) -> Option<RunPermit> {
        self.vm.surrender()
    }

    fn grant(&self, permit: RunPermit) {
        self.vm.grant(permit);
        self.settle();
    }

    fn run(&self, permit: RunPermit) -> Result<(), MachineError> {
        let result = self.vm.run(permit);
        self.settle();
        result
    }
}

impl DestinationMachine for Arriving {
    fn rehearse(&self) -> Result<Rehearsal, MachineError> {
        self.vm.rehearse()
    }

    fn restore(&self, state: Bundle) -> Result<(), MachineError> {
        self.vm.restore(state)
    }

    fn running_for(&self) -> Option<Duration> {
        self.vm.running_for()
    }

    fn slots_took(&self) -> Option<Duration> {
        self.vm.slots_took()
    }
}

/// What the arrival of a guest means here, from wherever it comes.
pub(crate) struct Arrived {
    events: Observer,
    monitor: Weak<Monitor>,
    arrivals: Arc<Arrivals>,
}

impl Arrived {
    pub fn new(monitor: &Arc<Monitor>, arrivals: Arc<Arrivals>) -> Self {
        let events = Observer::new(monitor.events.clone(), |_| {});
        Self { events, monitor: Arc::downgrade(monitor), arrivals }
    }
}

impl motion::Observer for Arrived {
    fn status(&self, status: Status) {
        self.events.status(status);
    }

    fn pass(&self, number: u32) {
        self.events.pass(number);
    }

    fn stopped(&self) {
        self.events.stopped();
    }

    fn resumed(&self) {
        self.events.resumed();
    }

    fn handover(&self, token: &str, phase: &'static str) {
        self.events.handover(token, phase);
    }

    fn finished(&self, report: &Report) {
        if report.status.0 == Status::Completed {
            // One that is held, out of a file, has no permit yet, and is here all the same.
            self.arrivals.settle();
            return;
        }
        self.arrivals.forget();
        let Some(monitor) = self.monitor.upgrade() else { return };
        if let Err(error) = monitor.prepare_console() {
            tracing::warn!(%error, "giving the terminal back");
        }
    }

    fn outage(&self, outage: &Outage) {
        let Outage { offset, address, why } = outage.clone();
        let reason = format!("its RAM cannot be filled at address {address:#x}: {why}");
        if let Some(vm) = self.arrivals.built() {
            vm.stop_on_io_error(&reason);
        }
        if let Some(monitor) = self.monitor.upgrade() {
            monitor.events.send(&Event::MemoryOutage { offset, address, reason: why });
        }
    }

    fn filled(&self, report: &FillReport) {
        if let Some(monitor) = self.monitor.upgrade() {
            let bytes = report.pages.saturating_mul(PAGE_SIZE);
            monitor.events.send(&Event::MemoryComplete { bytes });
        }
    }
}
