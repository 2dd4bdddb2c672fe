//! Model-specific registers: read whatever can be read, and say which one could not be written.

use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use std::io;

/// An MSR and what is in it.
pub(crate) type Msr = (u32, u64);

pub(crate) const IA32_TSC: u32 = 0x10;
pub(crate) const IA32_FEAT_CTL: u32 = 0x3a;
pub(crate) const IA32_TSC_DEADLINE: u32 = 0x6e0;
pub(crate) const IA32_MISC_ENABLE: u32 = 0x1a0;
pub(crate) const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;

/// `MSR_KVM_SYSTEM_TIME` and its successor `MSR_KVM_SYSTEM_TIME_NEW`: where kvmclock is in the
/// guest's RAM.
pub(crate) const KVM_SYSTEM_TIME: [u32; 2] = [0x12, 0x4b56_4d01];
/// Bit of those: the guest uses it.
pub(crate) const KVM_SYSTEM_TIME_ENABLED: u64 = 1;

/// `MSR_KVM_WALL_CLOCK` and `MSR_KVM_SYSTEM_TIME` at their first addresses.
const OLD_KVM_CLOCK: std::ops::RangeInclusive<u32> = 0x11..=0x12;
/// MSRs that exist in no processor: KVM's own, and those of Hyper-V that it imitates.
const SYNTHETIC: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4fff_ffff;

/// Whether writing it may write to the guest's RAM, which is not ours before the guest is: wall
/// clock, system time, steal time, asynchronous page faults, end of interrupt (Linux
/// `Documentation/virt/kvm/x86/msr.rst`). All synthetic ones are held to be of that kind.
pub(crate) fn touches_ram(index: u32) -> bool {
    OLD_KVM_CLOCK.contains(&index) || SYNTHETIC.contains(&index)
}

/// Whether a vCPU's first value says what its processor is like: not one that counts time, and not
/// one that is the hypervisor's.
pub(crate) fn is_constant(index: u32) -> bool {
    !matches!(index, IA32_TSC | IA32_TSC_DEADLINE) && !touches_ram(index)
}

/// KVM would not have an MSR set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("KVM refuses to set MSR {index:#x} to {value:#x}")]
pub(crate) struct Refused {
    pub index: u32,
    pub value: u64,
}

/// Why MSRs could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("KVM_SET_MSRS: {0}")]
    Failed(#[from] io::Error),
}

/// Those of `indices` that can be read, with their values.
pub(crate) fn read(vcpu: &VcpuFd, indices: &[u32]) -> io::Result<Vec<Msr>> {
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let asked: Vec<_> = rest
            .iter()
            .take(KVM_MAX_MSR_ENTRIES)
            .map(|index| kvm_msr_entry { index: *index, ..Default::default() })
            .collect();
        let mut table = Msrs::from_entries(&asked).expect("no more than it holds");
        let read = vcpu.get_msrs(&mut table).map_err(crate::sys::io_error)?;
        values.extend(table.as_slice()[..read].iter().map(|e| (e.index, e.data)));
        // It stops at the first that cannot be read.
        rest = &rest[(read + usize::from(read < asked.len())).min(rest.len())..];
    }
    Ok(values)
}

/// Writes them in order, up to the first that KVM refuses.
pub(crate) fn write(vcpu: &VcpuFd, msrs: &[Msr]) -> Result<(), WriteError> {
    for chunk in msrs.chunks(KVM_MAX_MSR_ENTRIES) {
        let entries: Vec<_> = chunk
            .iter()
            .map(|(index, data)| kvm_msr_entry { index: *index, data: *data, ..Default::default() })
            .collect();
        let table = Msrs::from_entries(&entries).expect("no more than it holds");
        let written = vcpu.set_msrs(&table).map_err(crate::sys::io_error)?;
        if let Some(&(index, value)) = chunk.get(written) {
            return Err(Refused { index, value }.into());
        }
    }
    Ok(())
}
