//! What it takes to write-protect a guest's memory, and to save its state.

use super::{Inside, failed};
use crate::BenchError;
use crate::console::Follower;
use crate::peer::Spec;
use guest::Builtin;
use guest::report::{Line, Work};
use memory::userfault::WriteProtection;
use memory::{Backing, GuestRam, PageRange};
use motion::handover::RunPermit;
use motion::{Machine, MachineError, SourceMachine};
use std::path::Path;
use std::time::{Duration, Instant};
use uuid::Uuid;
use vmm::boot::Image;
use vmm::{BootSource, MachineConfig, Vm};

/// How long a guest may take to write its working set.
const LONGEST: Duration = Duration::from_secs(120);

/// A guest in this process that writes its memory, of which it tells from time to time.
pub struct Protected {
    vm: Vm,
    follower: Follower,
    permit: Option<RunPermit>,
    /// Has its console written for as long as it runs.
    _inside: Inside,
}

fn step(error: MachineError) -> BenchError {
    failed("protecting a guest's memory in this process")(error.to_string())
}

impl Protected {
    /// Starts the guest `workload` of this kind.
    pub fn start(folder: &Path, spec: &Spec) -> Result<Self, BenchError> {
        let inside = Inside::new(folder)?;
        let doing = failed("starting a guest in this process");
        let config = MachineConfig {
            name: "floor".to_owned(),
            uuid: Uuid::new_v4(),
            memory: spec.memory,
            backing: Backing::Small,
            vcpus: spec.vcpus,
        };
        let ram = GuestRam::new(spec.memory, Backing::Small)?;
        let console = inside.console().map_err(|e| doing(e.to_string()))?;
        let sink = std::sync::Arc::new(|_| {});
        let vm = Vm::new(&inside.hypervisor, config, ram, console, sink)
            .map_err(|e| doing(e.to_string()))?;
        let kernel = Image::from_bytes("workload", Builtin::Workload.image());
        let cmdline = spec.cmdline.clone();
        vm.boot(BootSource { kernel, initrd: None, cmdline }).map_err(|e| doing(e.to_string()))?;
        let follower = Follower::open(&inside.path).map_err(BenchError::io("its console"))?;
        let permit = Some(RunPermit::for_new_machine());
        Ok(Self { vm, follower, permit, _inside: inside })
    }

    fn work(&mut self) -> Result<Work, BenchError> {
        let work = |line: &Line| match line {
            Line::Work(work) => Some(*work),
            _ => None,
        };
        let said = self.follower.wait(LONGEST, work).map_err(BenchError::io("its console"))?;
        said.ok_or(BenchError::Silent { peer: "floor", when: "of its work" })
    }

    /// Lets the guest write its working set once, stops it, saves its state and protects what it has
    /// touched: how long the protection took, and the state.
    pub fn measure(&mut self) -> Result<(Duration, Duration), BenchError> {
        let doing = failed("protecting a guest's memory in this process");
        if let Some(permit) = self.permit.take() {
            self.vm.run(permit).map_err(step)?;
        }
        let begun = self.work()?;
        let deadline = Instant::now() + LONGEST;
        while self.work()?.pages < begun.pages + begun.ws / memory::PAGE_SIZE {
            if Instant::now() >= deadline {
                return Err(BenchError::Silent { peer: "floor", when: "of all its work" });
            }
        }
        let ram = self.vm.ram().clone();
        let protection = WriteProtection::open(ram.clone()).map_err(|e| doing(e.to_string()))?;
        let failed = || BenchError::io("write-protecting memory");
        protection.register().map_err(failed())?;
        self.vm.pause().map_err(step)?;
        let begun = Instant::now();
        let state = self.vm.save().map_err(step)?;
        let saved = begun.elapsed();
        let begun = Instant::now();
        let touched = ram.touched(PageRange::new(0, ram.pages())).map_err(failed())?;
        let done = touched.into_iter().try_for_each(|run| protection.protect(run));
        let protected = begun.elapsed();
        drop(state);
        protection.unregister().map_err(failed())?;
        done.map_err(failed())?;
        self.permit = self.vm.surrender();
        Ok((protected, saved))
    }

    /// Lets others have the processors. It has been stopped already.
    pub fn rest(&mut self) -> Result<(), BenchError> {
        self.vm.pause().map_err(step)
    }
}
