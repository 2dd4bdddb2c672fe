//! Time: the TSC, with its frequency from KVM's clock; and KVM's clock itself
//!
//! Gaps are measured by the TSC alone, because some hypervisors stop their
//! paravirtual clock while the guest is away, and so would hide the blackout.

use crate::cpu::{self, Cpu};
use core::sync::atomic::{Ordering, fence};

/// MSR_KVM_SYSTEM_TIME_NEW (kernel: Documentation/virt/kvm/x86/msr.rst)
const MSR_KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;
const KVM_CPUID: u32 = 0x4000_0000;
const KVM_FEATURE_CLOCKSOURCE2: u32 = 1 << 3;

/// What KVM writes for each processor: struct pvclock_vcpu_time_info
#[repr(C)]
struct PvClock {
    version: u32,
    pad: u32,
    tsc_timestamp: u64,
    system_time: u64,
    tsc_to_system_mul: u32,
    tsc_shift: i8,
    flags: u8,
    pad2: [u8; 2],
}

/// A tick of the TSC as 2^(32 - shift) / mul nanoseconds
#[derive(Clone, Copy)]
struct Scale {
    mul: u32,
    shift: i8,
}

impl Scale {
    fn nanoseconds(self, ticks: u64) -> u64 {
        let shifted = if self.shift < 0 {
            u128::from(ticks) >> self.shift.unsigned_abs()
        } else {
            u128::from(ticks) << self.shift
        };
        ((shifted * u128::from(self.mul)) >> 32) as u64
    }

    fn from_khz(khz: u64) -> Self {
        // 10^6 / kHz nanoseconds a tick, as mul / 2^32 * 2^shift with mul below 2^32
        let mut shift = 0;
        let mut mul = (1_000_000u128 << 32) / u128::from(khz);
        while mul >> 32 != 0 {
            mul >>= 1;
            shift += 1;
        }
        Self { mul: mul as u32, shift }
    }

    fn khz(self) -> u64 {
        let base = (1_000_000u128 << 32) / u128::from(self.mul.max(1));
        (if self.shift < 0 { base << self.shift.unsigned_abs() } else { base >> self.shift }) as u64
    }
}

/// The guest's clock
#[derive(Clone, Copy)]
pub struct Time {
    scale: Scale,
    start: u64,
    has_kvm_clock: bool,
}

impl Time {
    /// Starts the clock, on the first processor
    pub fn start(cpu: Cpu, tsc_khz: Option<u64>) -> Self {
        let has_kvm_clock = has_kvm_clock();
        let mut time = Self { scale: Scale::from_khz(1_000_000), start: cpu::tsc(), has_kvm_clock };
        time.enable_kvm_clock(cpu);
        time.scale = match tsc_khz {
            Some(khz) => Scale::from_khz(khz),
            None if has_kvm_clock => kvm_clock(cpu).2,
            None => Scale::from_khz(khz_by_cpuid().unwrap_or(1_000_000)),
        };
        time
    }

    /// Lets KVM write this processor's clock page; each processor does it for itself
    pub fn enable_kvm_clock(&self, cpu: Cpu) {
        if self.has_kvm_clock {
            // SAFETY: the page is this processor's own and used for nothing else
            let _ = unsafe { cpu::wrmsr(MSR_KVM_SYSTEM_TIME, cpu.page(0) as u64 | 1) };
        }
    }

    /// Nanoseconds since the start at a reading of the TSC
    pub fn at(&self, tsc: u64) -> u64 {
        self.nanoseconds(tsc.saturating_sub(self.start))
    }

    /// What the TSC reads so many nanoseconds after the start
    pub fn tsc_at(&self, nanoseconds: u64) -> u64 {
        self.start + self.ticks(nanoseconds)
    }

    /// Nanoseconds since the start
    pub fn now(&self) -> u64 {
        self.at(cpu::tsc())
    }

    /// Ticks of the TSC in nanoseconds
    pub fn nanoseconds(&self, ticks: u64) -> u64 {
        self.scale.nanoseconds(ticks)
    }

    /// Nanoseconds in ticks of the TSC; a time beyond the end of time is cut, so
    /// that it can be added to a reading
    pub fn ticks(&self, nanoseconds: u64) -> u64 {
        let ticks = u128::from(nanoseconds) * u128::from(self.khz()) / 1_000_000;
        ticks.min(1 << 62) as u64
    }

    /// Frequency of the TSC in kHz
    pub fn khz(&self) -> u64 {
        self.scale.khz()
    }

    /// A reading of the TSC, and KVM's clock at it in nanoseconds, or 0 without one
    pub fn kvm(&self, cpu: Cpu) -> (u64, u64) {
        if self.has_kvm_clock {
            let (tsc, clock, _) = kvm_clock(cpu);
            (tsc, clock)
        } else {
            (cpu::tsc(), 0)
        }
    }

    /// Whether the VMM said since the last call that this processor was paused
    pub fn take_pause(&self, cpu: Cpu) -> bool {
        /// PVCLOCK_GUEST_STOPPED, which the guest clears
        const STOPPED: u8 = 1 << 1;
        let page = cpu.page(0) as *mut PvClock;
        // SAFETY: the page is this processor's own; KVM leaves the flag set until it is cleared
        unsafe {
            let flags = &raw mut (*page).flags;
            let value = flags.read_volatile();
            let stopped = self.has_kvm_clock && value & STOPPED != 0;
            if stopped {
                flags.write_volatile(value & !STOPPED);
            }
            stopped
        }
    }
}

/// A reading of the TSC, KVM's clock at it, and the scale of the TSC that it gives
fn kvm_clock(cpu: Cpu) -> (u64, u64, Scale) {
    let page = cpu.page(0) as *const PvClock;
    loop {
        // SAFETY: the page is there; KVM writes it at any time, so it is read as
        // volatile, and again if the version says that it changed
        let (before, clock, after) = unsafe {
            let before = (&raw const (*page).version).read_volatile();
            fence(Ordering::Acquire);
            let clock = page.read_volatile();
            fence(Ordering::Acquire);
            (before, clock, (&raw const (*page).version).read_volatile())
        };
        let scale = Scale { mul: clock.tsc_to_system_mul, shift: clock.tsc_shift };
        let now = cpu::tsc();
        let ticks = now.saturating_sub(clock.tsc_timestamp);
        if before & 1 == 0 && before == after {
            return (now, clock.system_time + scale.nanoseconds(ticks), scale);
        }
    }
}

fn has_kvm_clock() -> bool {
    let [_, b, c, d] = cpu::cpuid(KVM_CPUID, 0);
    // "KVMKVMKVM"
    (b, c, d) == (0x4b4d_564b, 0x564b_4d56, 0x4d)
        && cpu::cpuid(KVM_CPUID + 1, 0)[0] & KVM_FEATURE_CLOCKSOURCE2 != 0
}

/// From leaf 0x15, or the processor's base frequency, which is that of the TSC
fn khz_by_cpuid() -> Option<u64> {
    let last = cpu::cpuid(0, 0)[0];
    if last >= 0x15 {
        let [denominator, numerator, crystal, _] = cpu::cpuid(0x15, 0).map(u64::from);
        if denominator != 0 && numerator != 0 && crystal != 0 {
            return Some(crystal * numerator / denominator / 1000);
        }
    }
    let mhz = if last >= 0x16 { cpu::cpuid(0x16, 0)[0] & 0xffff } else { 0 };
    (mhz != 0).then(|| u64::from(mhz) * 1000)
}
