//! One virtual processor.

pub(crate) mod cpuid;
mod dump;
pub(crate) mod exit;
pub(crate) mod msr;
mod saved;
mod state;
pub(crate) mod thread;
pub(crate) mod tsc;

pub use saved::SavedVcpu;
pub(crate) use state::StateError;

use crate::boot::{self, Entry};
use crate::gate;
use crate::run_page::RunPage;
use crate::sys::{self, io_error};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE, kvm_cpuid_entry2, kvm_mp_state, kvm_regs,
    kvm_sregs,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use msr::Msr;
use std::io;

/// What this host's KVM can save and restore of a vCPU beyond what every KVM can.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Abilities {
    /// `KVM_GET_SREGS2`, which knows the PDPTRs.
    pub sregs2: bool,
    /// Size of the XSAVE area in bytes.
    pub xsave_size: usize,
    /// Greatest size of the nested state in bytes; 0 where there is none.
    pub nested_size: usize,
    /// Flags of `struct kvm_vcpu_events` that not every KVM knows, as far as this one does.
    pub event_flags: u32,
    /// The guest can be told that it was stopped.
    pub kvmclock_ctrl: bool,
    /// The TSC's frequency can be set.
    pub tsc_control: bool,
}

impl Abilities {
    pub fn of(vm: &VmFd) -> Self {
        let size = |cap| usize::try_from(vm.check_extension_int(cap)).unwrap_or(0);
        let has = |cap: u32| vm.check_extension_raw(cap.into()) > 0;
        let flag = |cap, flag| if has(cap) { flag } else { 0 };
        Self {
            sregs2: has(kvm_bindings::KVM_CAP_SREGS2),
            event_flags: flag(
                kvm_bindings::KVM_CAP_EXCEPTION_PAYLOAD,
                kvm_bindings::KVM_VCPUEVENT_VALID_PAYLOAD,
            ) | flag(
                kvm_bindings::KVM_CAP_X86_TRIPLE_FAULT_EVENT,
                kvm_bindings::KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
            ),
            // Before KVM_CAP_XSAVE2 the area was always one page.
            xsave_size: size(Cap::Xsave2).max(size_of::<kvm_bindings::kvm_xsave>()),
            nested_size: size(Cap::NestedState),
            kvmclock_ctrl: vm.check_extension(Cap::KvmclockCtrl),
            tsc_control: vm.check_extension(Cap::TscControl),
        }
    }
}

/// A call on a vCPU that failed.
#[derive(Debug, thiserror::Error)]
#[error("vCPU {vcpu}: {action}: {source}")]
pub(crate) struct VcpuError {
    pub vcpu: u32,
    pub action: &'static str,
    #[source]
    pub source: io::Error,
}

/// A vCPU. While it runs, its thread has it; while it is stopped, whoever wants.
#[derive(Debug)]
pub(crate) struct Vcpu {
    index: u32,
    fd: VcpuFd,
    abilities: Abilities,
    /// What the guest sees, read back from KVM.
    cpuid: Vec<kvm_cpuid_entry2>,
    /// The MSRs that can be read.
    msrs: Vec<u32>,
    /// Its state when it was made.
    made: SavedVcpu,
    /// Whether KVM holds [`Self::made`], as far as neither the entry to a kernel nor time changes
    /// it: then only what differs from it need be set.
    pristine: bool,
    /// The frequency of its TSC in kHz.
    tsc_khz: u32,
    /// The frequency of the host's TSC in kHz.
    host_khz: u32,
    /// MSRs that may only be set once the guest is ours.
    deferred: Vec<Msr>,
    /// Whether the guest was stopped, and has not been told so.
    was_stopped: bool,
}

impl Vcpu {
    /// Makes vCPU `index`, with `cpuid`, and a TSC of `tsc_khz` unless KVM is to choose.
    pub fn new(
        vm: &VmFd,
        abilities: Abilities,
        index: u32,
        cpuid: &CpuId,
        tsc_khz: Option<u32>,
        msrs: &[u32],
    ) -> Result<Self, VcpuError> {
        let failed = |action| move |source| VcpuError { vcpu: index, action, source };
        let kvm = |action| move |e| failed(action)(io_error(e));
        let fd = vm.create_vcpu(index.into()).map_err(kvm("creating it"))?;
        fd.set_cpuid2(cpuid).map_err(kvm("setting its CPUID"))?;
        let seen = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(kvm("reading its CPUID"))?;
        let khz = || fd.get_tsc_khz().map_err(kvm("reading the frequency of its TSC"));
        let host_khz = khz()?;
        let mut actual = host_khz;
        if let Some(wanted) = tsc_khz.filter(|wanted| *wanted != actual)
            && abilities.tsc_control
        {
            fd.set_tsc_khz(wanted).map_err(kvm("setting the frequency of its TSC"))?;
            actual = khz()?;
        }
        after_firmware(&fd).map_err(failed("setting its first MSRs"))?;
        let readable = msr::read(&fd, msrs).map_err(failed("reading its MSRs"))?;
        let mut vcpu = Self {
            index,
            fd,
            abilities,
            cpuid: seen.as_slice().to_vec(),
            msrs: readable.iter().map(|(index, _)| *index).collect(),
            made: SavedVcpu::default(),
            pristine: false,
            tsc_khz: actual,
            host_khz,
            deferred: Vec::new(),
            was_stopped: false,
        };
        vcpu.made = vcpu.save().map_err(|e| failed("reading its state")(io::Error::other(e)))?;
        vcpu.pristine = true;
        Ok(vcpu)
    }

    /// Its file.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// What the guest sees of it.
    pub fn cpuid(&self) -> &[kvm_cpuid_entry2] {
        &self.cpuid
    }

    /// Makes it say `entries` of itself, as long as it has never run, and tells what KVM makes of
    /// them.
    ///
    /// # Errors
    /// KVM's, when it does not take them.
    pub fn try_cpuid(&self, entries: &[kvm_cpuid_entry2]) -> io::Result<Vec<kvm_cpuid_entry2>> {
        let table =
            cpuid::table(entries).ok_or_else(|| io::Error::other("more leaves than KVM takes"))?;
        self.fd.set_cpuid2(&table).map_err(io_error)?;
        let set = self.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(io_error)?;
        Ok(set.as_slice().to_vec())
    }

    /// Its state when it was made.
    pub fn made(&self) -> &SavedVcpu {
        &self.made
    }

    /// Size of its XSAVE area in bytes.
    pub fn xsave_size(&self) -> usize {
        self.abilities.xsave_size
    }

    /// Frequency of its TSC in kHz.
    pub fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    /// Frequency of the host's TSC in kHz.
    pub fn host_khz(&self) -> u32 {
        self.host_khz
    }

    /// The special registers that KVM made it with.
    pub fn sregs(&self) -> io::Result<kvm_sregs> {
        self.fd.get_sregs().map_err(io_error)
    }

    /// Sets it to the entry of a kernel.
    pub fn enter(&self, regs: &kvm_regs, sregs: &kvm_sregs) -> io::Result<()> {
        self.fd.set_sregs(sregs).map_err(io_error)?;
        self.fd.set_regs(regs).map_err(io_error)
    }

    /// Has KVM set up what it does at a vCPU's first run, without executing an instruction: the page
    /// says to exit at once. On the vCPU's own thread, since KVM notes which thread runs it.
    fn warm_up(&mut self, page: &RunPage) {
        page.set_immediate_exit(true);
        match self.fd.run() {
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
            other => tracing::warn!(vcpu = self.index, "a run that was to end at once: {other:?}"),
        }
        if let Err(error) = self.rehearse_entry(page) {
            tracing::warn!(vcpu = self.index, %error, "rehearsing the entry into the guest");
        }
    }

    /// Has KVM make what it makes at a vCPU's first entry into a guest, up to where its instructions would
    /// begin: with a signal on its way it comes back from there. That concerns a vCPU with paging, as guests
    /// have it: where KVM shadows page tables it makes something for each page of RAM then. Nothing of the guest's is
    /// read or written, and the vCPU is as it was afterwards.
    ///
    /// On the vCPU's own thread.
    fn rehearse_entry(&mut self, page: &RunPage) -> io::Result<()> {
        let made = (self.fd.get_regs().map_err(io_error)?, self.sregs()?);
        let state = self.fd.get_mp_state().map_err(io_error)?;
        let (regs, sregs) =
            boot::initial_registers(Entry::Linux64 { entry: 0, boot_params: 0 }, made.1);
        self.enter(&regs, &sregs)?;
        let runnable = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
        self.fd.set_mp_state(runnable).map_err(io_error)?;
        page.set_immediate_exit(false);
        let came_back = gate::with_kick_pending(|blocked| {
            sys::set_signal_mask(&self.fd, Some(blocked))?;
            let came_back = match self.fd.run() {
                Err(e) if e.errno() == libc::EINTR => Ok(()),
                Err(e) => Err(io_error(e)),
                Ok(exit) => Err(io::Error::other(format!("it came back with {exit:?}"))),
            };
            sys::set_signal_mask(&self.fd, None).and(came_back)
        });
        page.set_immediate_exit(true);
        self.fd.set_mp_state(state).map_err(io_error)?;
        self.enter(&made.0, &made.1)?;
        came_back?
    }

    /// What has to happen between the permission to run and the guest's first instruction: MSRs
    /// that may write to its RAM, and word to the guest that it was stopped.
    fn prepare_to_run(&mut self) -> Result<(), msr::WriteError> {
        self.pristine = false;
        let deferred = std::mem::take(&mut self.deferred);
        if let Err(e) = msr::write(&self.fd, &deferred) {
            self.deferred = deferred;
            return Err(e);
        }
        if std::mem::take(&mut self.was_stopped) && self.abilities.kvmclock_ctrl {
            // EINVAL: the guest does not use kvmclock, and so has no watchdog that asks it.
            if let Err(e) = self.fd.kvmclock_ctrl()
                && e.errno() != libc::EINVAL
            {
                tracing::warn!(vcpu = self.index, "KVM_KVMCLOCK_CTRL: {}", io_error(e));
            }
        }
        Ok(())
    }

    /// The offset of the guest's TSC from the host's, where KVM says it.
    fn tsc_offset(&self) -> Option<u64> {
        sys::tsc_offset(&self.fd)
    }
}

/// Leaves a vCPU's MSRs as firmware does: RAM is write-back unless said otherwise (bit 11 enables
/// the MTRRs, type 6 is write-back), and string instructions are fast.
fn after_firmware(fd: &VcpuFd) -> io::Result<()> {
    const MTRR: Msr = (msr::IA32_MTRR_DEF_TYPE, 1 << 11 | 6);
    const FAST_STRINGS: u64 = 1 << 0;
    let enabled = msr::read(fd, &[msr::IA32_MISC_ENABLE])?.first().map_or(0, |(_, value)| *value);
    msr::write(fd, &[MTRR, (msr::IA32_MISC_ENABLE, enabled | FAST_STRINGS)])
        .map_err(io::Error::other)
}
