//! The machine as the guests see it, and how they start and end

use crate::acpi::Acpi;
use crate::cpu::{self, Cpu};
use crate::pvh::Boot;
use crate::ram::Regions;
use crate::shared::builtin::Builtin;
use crate::shared::params::Params;
use crate::shared::report::{self, Bye, End, Hello};
use crate::time::Time;
use crate::{console, exception, paging, smp};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

/// What all processors share
pub struct Machine {
    /// The parameters
    pub params: Params,
    /// The clock
    pub time: Time,
    /// RAM that the guest may use, all of it mapped
    pub ram: Regions,
    /// Number of processors
    pub cpus: u64,
    /// Bit mask of their slots
    present: u64,
    acpi: Acpi,
}

/// What each processor runs in the end
pub type Main = fn(&'static Machine, Cpu) -> !;

struct Shared(UnsafeCell<MaybeUninit<Machine>>);

// SAFETY: written once before READY is set, only read after
unsafe impl Sync for Shared {}

static MACHINE: Shared = Shared(UnsafeCell::new(MaybeUninit::uninit()));
static READY: AtomicBool = AtomicBool::new(false);

/// Where each processor arrives in ring 3; the first has the start info, others 0
pub fn enter(slot: usize, start_info: usize, guest: Builtin, main: Main) -> ! {
    if start_info != 0 {
        // SAFETY: this is the first processor, the others do not run yet
        unsafe { start(slot, start_info, guest) };
    } else {
        smp::PRESENT.fetch_or(1 << slot, Ordering::Release);
        while !READY.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
    }
    // SAFETY: READY was set after it was written
    let machine = unsafe { (*MACHINE.0.get()).assume_init_ref() };
    if machine.present & 1 << slot == 0 {
        cpu::halt(); // came when the others had stopped waiting
    }
    let rank = (machine.present & ((1 << slot) - 1)).count_ones() as usize;
    let cpu = Cpu { id: slot, rank };
    machine.time.enable_kvm_clock(cpu);
    main(machine, cpu)
}

/// # Safety
/// On the first processor, once.
unsafe fn start(slot: usize, start_info: usize, guest: Builtin) {
    unsafe extern "C" {
        static image_end: u8;
    }
    // SAFETY: by the caller; the loader's data is read before memory is used
    unsafe {
        exception::start();
        console::start();
        let boot = Boot::read(start_info);
        let acpi = Acpi::read(boot.rsdp);
        let params = Params::parse(guest, boot.command_line, |error| {
            console::print(format_args!("NOTE ignored: {error}"));
        });
        let time = Time::start(Cpu { id: slot, rank: 0 }, params.tsc_khz);
        let mut ram = boot.ram.within(&raw const image_end as u64..paging::REACH);
        paging::map(&mut ram);
        smp::PRESENT.store(1 << slot, Ordering::Release);
        let expected = params.cpus.or(Some(acpi.processors).filter(|&count| count != 0));
        smp::start(&time, expected);
        let present = smp::PRESENT.load(Ordering::Acquire);
        let cpus = present.count_ones().into();
        let hello = Hello {
            guest,
            version: report::VERSION,
            cpus,
            ram: boot.ram.size(),
            tsc_khz: time.khz(),
            t: time.now(),
        };
        (*MACHINE.0.get()).write(Machine { params, time, ram, cpus, present, acpi });
        console::print(hello);
    }
    READY.store(true, Ordering::Release);
}

impl Machine {
    /// Ends the machine, if it can be ended in this way
    pub fn end(&self, end: End) {
        /// SLP_TYP 5 as the DSDT of such machines has it for S5, and SLP_EN
        const SLEEP_S5: u8 = 5 << 2 | 1 << 5;
        let possible = match end {
            End::PowerOff => self.acpi.sleep.is_some(),
            End::Reset => self.acpi.reset.is_some(),
            End::TripleFault => true,
        };
        if !possible {
            console::print(format_args!("NOTE no register for {end}"));
            return;
        }
        console::print(Bye { end, t: self.time.now() });
        match (end, self.acpi.sleep, self.acpi.reset) {
            (End::PowerOff, Some(sleep), _) => sleep.write(SLEEP_S5),
            (End::Reset, _, Some((reset, value))) => reset.write(value),
            _ => cpu::triple_fault(),
        }
    }
}
