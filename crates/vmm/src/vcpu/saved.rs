//! What a vCPU is while it travels.

use super::msr::{IA32_TSC_DEADLINE, Msr};
use minicbor::{Decode, Encode};

/// The state of one vCPU. Byte strings are structures of the kernel's ABI for x86_64 (Linux
/// `arch/x86/include/uapi/asm/kvm.h`), as they are in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedVcpu {
    /// `KVM_MP_STATE_…`: runnable, halted, waiting for INIT or SIPI.
    #[n(0)]
    pub mp_state: u32,
    /// `struct kvm_regs`.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub regs: Vec<u8>,
    /// `struct kvm_sregs2`; made from `struct kvm_sregs` where KVM has only that.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub sregs: Vec<u8>,
    /// The XSAVE area, as long as KVM states it to be (`KVM_CAP_XSAVE2`).
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub xsave: Vec<u8>,
    /// Extended control registers: number and value.
    #[n(4)]
    pub xcrs: Vec<(u32, u64)>,
    /// `struct kvm_debugregs`.
    #[n(5)]
    #[cbor(with = "minicbor::bytes")]
    pub debug_regs: Vec<u8>,
    /// `struct kvm_lapic_state`.
    #[n(6)]
    #[cbor(with = "minicbor::bytes")]
    pub lapic: Vec<u8>,
    /// `struct kvm_vcpu_events`.
    #[n(7)]
    #[cbor(with = "minicbor::bytes")]
    pub events: Vec<u8>,
    /// Model-specific registers except the TSC: number and value.
    #[n(8)]
    pub msrs: Vec<Msr>,
    /// The guest's TSC.
    #[n(9)]
    pub tsc: u64,
    /// The host's wall clock just before [`Self::tsc`] was read, in nanoseconds since 1970.
    #[n(10)]
    pub tsc_read_at: u64,
    /// What the host adds to its own TSC to make the guest's; absent where KVM does not say.
    #[n(11)]
    pub tsc_offset: Option<u64>,
    /// `struct kvm_nested_state`, where KVM has any.
    #[n(12)]
    #[cbor(with = "minicbor::bytes")]
    pub nested: Option<minicbor::bytes::ByteVec>,
}

impl state::Saved for SavedVcpu {
    const SCHEMA: &'static str = "whimbrel.vcpu";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// Offsets of the first of eight registers in a local APIC's page, 16 bytes apart: interrupts in
/// service, and interrupts requested (Intel SDM volume 3, "Local APIC Register Address Map").
const IN_SERVICE: usize = 0x100;
const REQUESTED: usize = 0x200;

impl SavedVcpu {
    /// What of it concerns its TSC, and nothing else.
    pub(crate) fn clocks(&self) -> Self {
        let is_deadline = |(index, _): &&Msr| *index == IA32_TSC_DEADLINE;
        Self {
            msrs: self.msrs.iter().filter(is_deadline).copied().collect(),
            tsc: self.tsc,
            tsc_read_at: self.tsc_read_at,
            tsc_offset: self.tsc_offset,
            ..Self::default()
        }
    }

    /// Whether its local APIC holds an interrupt of this vector, pending or in service.
    pub(crate) fn holds_interrupt(&self, vector: u8) -> bool {
        let (register, bit) = (usize::from(vector / 32), vector % 32);
        [IN_SERVICE, REQUESTED].iter().any(|base| {
            let at = base + register * 16 + usize::from(bit / 8);
            self.lapic.get(at).is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_held_while_it_is_requested_or_in_service() {
        let mut vcpu = SavedVcpu { lapic: vec![0; 1024], ..SavedVcpu::default() };
        assert!((0..=255).all(|vector| !vcpu.holds_interrupt(vector)));
        // Vector 0x41 is bit 1 of the third register.
        vcpu.lapic[0x220] = 0b10;
        assert!(vcpu.holds_interrupt(0x41));
        vcpu.lapic[0x220] = 0;
        vcpu.lapic[0x120] = 0b10;
        assert!(vcpu.holds_interrupt(0x41) && !vcpu.holds_interrupt(0x40));
        vcpu.lapic[0x273] = 0x80;
        assert!(vcpu.holds_interrupt(0xff));
    }
}
