//! Saving, restoring and resetting a machine.

use crate::board::Board;
use crate::clock::{ClockError, GuestClock, SavedClock};
use crate::config::BootSource;
use crate::error::VmError;
use crate::status::{Registers, RunState};
use crate::touched::SavedTouched;
use crate::vcpu::{SavedVcpu, StateError, Vcpu};
use crate::vm::{Control, Vm};
use devices::console::SavedConsole;
use memory::{DirtyLog, PageRange};
use motion::{DestinationMachine, Machine as _, MachineError, Rehearsal, SourceMachine};
use state::{Bundle, Code, LoadError, Payload, Refusal};
use std::io;
use std::ops::Range;
use std::panic::resume_unwind;
use std::time::{Duration, Instant};

/// Which of several vCPUs a payload is of.
pub(crate) fn cpu_name(index: usize) -> String {
    format!("cpu{index}")
}

/// How often saving and restoring is rehearsed.
const REHEARSALS: usize = 3;

/// Fewer vCPUs than this are not worth a thread.
const LEAST_SHARE: usize = 4;

/// The clocks of a guest that came, as they were when it stopped.
#[derive(Debug)]
pub(crate) struct HaltedClocks {
    clock: SavedClock,
    /// Of each vCPU what concerns its TSC, and nothing else.
    vcpus: Vec<SavedVcpu>,
}

fn bad_state(what: impl Into<String>) -> impl FnOnce(LoadError) -> MachineError {
    move |e| MachineError::new(Code::BadState, what, e)
}

/// How long a guest is given its processors before it is stopped: some times what it takes to switch to the
/// thread of a vCPU.
const BREATH: Duration = Duration::from_micros(50);

impl SourceMachine for Vm {
    fn describe(&self) -> Result<Bundle, MachineError> {
        self.describe_within(u64::MAX)
    }

    fn describe_within(&self, most: u64) -> Result<Bundle, MachineError> {
        Ok(self.description(&self.control(), most))
    }

    fn refusals(&self) -> Vec<Refusal> {
        self.ended().map_or_else(Vec::new, |why| {
            vec![Refusal::new(Code::NotMovable, "guest", why, "reset it, or end the machine")]
        })
    }

    fn yield_to_guest(&self) {
        std::thread::sleep(BREATH);
    }

    fn dirty_log(&self) -> &dyn DirtyLog {
        self.bitmap()
    }

    fn save(&self) -> Result<Bundle, MachineError> {
        let control = self.control();
        let failed = |code, why: String| MachineError::new(code, "saving the machine", why);
        if self.is_running() {
            return Err(failed(Code::InvalidState, "it is running".to_owned()));
        }
        if !self.shared().gate.is_quiet() {
            let why = "a vCPU waits inside KVM for a page of RAM";
            return Err(failed(Code::InvalidState, why.to_owned()));
        }
        if let Some(why) = self.ended() {
            return Err(failed(Code::GuestGone, why));
        }
        self.wind_clocks(&control)?;
        self.save_all()
    }
}

impl DestinationMachine for Vm {
    fn rehearse(&self) -> Result<Rehearsal, MachineError> {
        let _control = self.control();
        // The least of a few: a host that is busy otherwise says nothing about the machine.
        let mut least = self.rehearse_once()?;
        for _ in 1..REHEARSALS {
            let Rehearsal { save, restore } = self.rehearse_once()?;
            least.save = least.save.min(save);
            least.restore = least.restore.min(restore);
        }
        Ok(least)
    }

    fn restore(&self, mut state: Bundle) -> Result<(), MachineError> {
        let mut control = self.control();
        let now = self.state();
        if !matches!(now, RunState::Prelaunch | RunState::Inmigrate) || control.permit.is_some() {
            let why =
                format!("its state is {now}, and only one that was never run takes another's");
            return Err(MachineError::new(Code::InvalidState, "restoring the machine", why));
        }
        SavedTouched::take(&mut state, self.ram())
            .map_err(bad_state("loading what was touched"))?;
        let clocks = self.restore_all(state, control.clock)?;
        control.halted = (control.clock == GuestClock::Continue).then_some(clocks);
        Ok(())
    }

    fn running_for(&self) -> Option<Duration> {
        Some(self.shared().gate.all_entered()?.elapsed())
    }

    fn slots_took(&self) -> Option<Duration> {
        Some(self.slots().took())
    }
}

impl Vm {
    /// Why there is no guest that could go on, if that is so.
    fn ended(&self) -> Option<String> {
        let status = &self.shared().status;
        match status.state() {
            RunState::Shutdown => Some("it has shut down".to_owned()),
            RunState::InternalError => {
                let why = status.failure().unwrap_or_default();
                Some(format!("its processor stopped on an error ({why})"))
            }
            _ if status.reset_wanted() => Some("it is being reset".to_owned()),
            _ => None,
        }
    }

    fn rehearse_once(&self) -> Result<Rehearsal, MachineError> {
        let start = Instant::now();
        let bundle = self.save_all()?;
        let save = start.elapsed();
        // What travels is encoded and decoded, and that is part of it.
        let bundle = Bundle::decode(&bundle.encode()).map_err(bad_state("rehearsing"))?;
        let start = Instant::now();
        self.restore_all(bundle, GuestClock::Realtime)?;
        Ok(Rehearsal { save, restore: start.elapsed() })
    }

    /// Everything but RAM.
    fn save_all(&self) -> Result<Bundle, MachineError> {
        let mut bundle = Bundle::new();
        // What is typed from now on is for whoever runs the guest next; what came before has raised
        // its interrupt, which the vCPUs' state is about to show.
        bundle.put("", &self.console().freeze());
        let clock = self.clock().save(self.vm_fd());
        let clock = clock.map_err(|e| MachineError::new(Code::Kvm, "saving the clock", e))?;
        #[cfg(not(feature = "mutate"))]
        bundle.put("", &clock);
        #[cfg(feature = "mutate")]
        crate::mutate::put_clock(clock, &mut bundle);
        let vcpus = self.each_vcpu(|index, vcpu| {
            let saved = vcpu.save().map_err(|e| vcpu_error("saving", index, &e))?;
            Ok(Payload::pack(cpu_name(index), &saved))
        })?;
        vcpus.into_iter().for_each(|payload| bundle.put_payload(payload));
        self.shared().board.save(&mut bundle);
        Ok(bundle)
    }

    /// Takes on what [`Self::save_all`] saved, and says which clocks came. Nothing is changed before
    /// every payload was decoded. Clocks that do not run before the guest does are set all the same,
    /// so that a KVM that cannot have them is known now, but their timers are not armed.
    fn restore_all(
        &self,
        mut bundle: Bundle,
        policy: GuestClock,
    ) -> Result<HaltedClocks, MachineError> {
        let load = |e| bad_state("loading the machine's state")(e);
        let console: SavedConsole = bundle.take("").map_err(load)?;
        #[cfg(not(feature = "mutate"))]
        let clock: SavedClock = bundle.take("").map_err(load)?;
        #[cfg(feature = "mutate")]
        let clock = crate::mutate::take_clock(&mut bundle).map_err(load)?;
        let count = self.shared().vcpus.len();
        let vcpus: Vec<SavedVcpu> = (0..count)
            .map(|index| bundle.take(&cpu_name(index)))
            .collect::<Result<_, _>>()
            .map_err(load)?;
        let devices = Board::take(&mut bundle).map_err(load)?;
        bundle.finish().map_err(load)?;

        let passage = self.clock().restore(self.vm_fd(), &clock, policy).map_err(clock_error)?;
        let as_told = self.each_vcpu(|index, vcpu| {
            let saved = &vcpus[index];
            let restored = vcpu.restore(saved).and_then(|()| vcpu.restore_tsc(saved, &passage));
            let armed = restored.and_then(|as_told| match policy {
                GuestClock::Realtime => vcpu.arm_timer(saved).map(|()| as_told),
                GuestClock::Continue => Ok(as_told),
            });
            armed.map_err(|e| vcpu_error("restoring", index, &e))
        })?;
        if as_told.contains(&false) {
            tracing::warn!("KVM did not set the TSC to what it was told: the guest sees it jump");
        }
        let held = |vector| vcpus.iter().any(|vcpu| vcpu.holds_interrupt(vector));
        self.shared().board.restore(devices, held).map_err(load)?;
        self.console()
            .restore(console)
            .map_err(|e| MachineError::new(Code::BadState, "restoring the console", e))?;
        Ok(HaltedClocks { clock, vcpus: vcpus.iter().map(SavedVcpu::clocks).collect() })
    }

    /// Sets the clocks of a guest that came, and has not run, to where they stopped.
    pub(crate) fn wind_clocks(&self, control: &Control) -> Result<(), MachineError> {
        let Some(HaltedClocks { clock, vcpus }) = &control.halted else { return Ok(()) };
        let passage =
            self.clock().restore(self.vm_fd(), clock, GuestClock::Continue).map_err(clock_error)?;
        self.each_vcpu(|index, vcpu| {
            let saved = &vcpus[index];
            // Whether it was set is known since the state was restored.
            let wound = vcpu.restore_tsc(saved, &passage).and_then(|_| vcpu.arm_timer(saved));
            wound.map_err(|e| vcpu_error("setting the clocks of", index, &e))
        })?;
        Ok(())
    }

    /// Does the same with each vCPU. Many are shared out among threads: it is the blackout, and each
    /// takes most of a tenth of a millisecond.
    fn each_vcpu<T: Send>(
        &self,
        act: impl Fn(usize, &mut Vcpu) -> Result<T, MachineError> + Sync,
    ) -> Result<Vec<T>, MachineError> {
        let count = self.shared().vcpus.len();
        let share = count.div_ceil(self.processors()).max(LEAST_SHARE);
        let some = |indices: Range<usize>| -> Result<Vec<T>, MachineError> {
            indices.map(|index| act(index, &mut self.vcpu(index))).collect()
        };
        if share >= count {
            return some(0..count);
        }
        std::thread::scope(|scope| {
            let start = |first| scope.spawn(move || some(first..count.min(first + share)));
            // The first share is this thread's.
            let others: Vec<_> = (share..count).step_by(share).map(start).collect();
            let mut all = some(0..share)?;
            for other in others {
                all.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
            }
            Ok(all)
        })
    }

    /// Switches the machine off and on: RAM is cleared, vCPUs and devices are as they were made,
    /// and the kernel is loaded anew. A guest that was running, or that has asked for this itself,
    /// runs again.
    ///
    /// # Errors
    /// [`MachineError`]: [`Code::NotOwner`] while a motion holds the permit (then the guest is reset
    /// when it is run again), [`Code::Unsupported`] for a machine that has no kernel here.
    pub fn reset(&self) -> Result<(), MachineError> {
        let mut control = self.control();
        if control.permit.is_none() {
            let why = "this side may not run it: a motion is under way";
            return Err(MachineError::new(Code::NotOwner, "resetting the guest", why));
        }
        let runs = self.is_running();
        self.stop_vcpus()?;
        control.halted = None;
        self.reset_all(&control)?;
        if runs { self.run_vcpus(&mut control) } else { Ok(()) }
    }

    /// Resets a stopped machine. One that could not be reset is in no state to run.
    pub(crate) fn reset_all(&self, control: &Control) -> Result<(), MachineError> {
        let what = "resetting the guest";
        let Some(source) = &control.boot else {
            self.shared().status.shut_down();
            let why = "it came from elsewhere without its kernel; it is shut down instead";
            return Err(MachineError::new(Code::Unsupported, what, why));
        };
        self.reset_to(source).map_err(|e| {
            self.shared().status.fail(0, &e.to_string(), Registers::default());
            MachineError::new(e.code(), what, e)
        })
    }

    fn reset_to(&self, source: &BootSource) -> Result<(), VmError> {
        let ram = self.ram();
        // Clearing goes past what tracks the VMM's own writes.
        self.bitmap().all_written();
        ram.zero(PageRange::new(0, ram.pages())).map_err(VmError::kvm("clearing RAM"))?;
        for index in 0..self.shared().vcpus.len() {
            let restored = self.vcpu(index).restore_made();
            restored.map_err(|e| VmError::kvm(format!("vCPU {index}"))(io::Error::other(e)))?;
        }
        self.shared().board.reset();
        self.load(source)?;
        self.shared().status.set_anew(RunState::Paused);
        Ok(())
    }
}

fn clock_error(e: ClockError) -> MachineError {
    let code = match e {
        ClockError::Kvm { .. } => Code::Kvm,
        ClockError::Backwards { .. } => Code::BadState,
    };
    MachineError::new(code, "restoring the clock", e)
}

fn vcpu_error(doing: &str, index: usize, e: &StateError) -> MachineError {
    let code = match e {
        StateError::Kvm { .. } | StateError::Msr(_) => Code::Kvm,
        StateError::Malformed { .. } => Code::BadState,
    };
    MachineError::new(code, format!("{doing} vCPU {index}"), e)
}
