//! Saving and restoring a vCPU.
//!
//! The order matters, and nowhere is it all written down. Saving: asking for the MP state
//! processes a pending INIT or SIPI, which changes registers, so it comes first; the pending events
//! come last, since the other calls may still change them. Restoring: what decides what a vCPU
//! *can* hold comes before what it holds (special registers before the local APIC, whose mode is in
//! the APIC base; the feature control MSR and EFER before the nested state; the local APIC before
//! the MSRs, of which the TSC deadline arms its timer), and setting the registers forgets pending
//! exceptions, so the events come after them.

use super::msr::{self, Msr};
use super::{SavedVcpu, Vcpu};
use crate::abi::Abi;
use crate::clock::wall_clock;
use crate::sys::{self, io_error};
use kvm_bindings::{
    KVM_MAX_XCRS, KVM_VCPUEVENT_VALID_PAYLOAD, KVM_VCPUEVENT_VALID_TRIPLE_FAULT, Xsave,
    kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_sregs2, kvm_vcpu_events,
    kvm_xcr, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::KvmNestedStateBuffer;
use std::borrow::Cow;
use std::collections::HashSet;
use std::io;

/// Why a vCPU could not be saved or restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// KVM failed or refused.
    #[error("{action}: {source}")]
    Kvm {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    /// An MSR could not be set.
    #[error(transparent)]
    Msr(#[from] msr::WriteError),
    /// The state is not one that a vCPU can have here.
    #[error("its {part} {reason}")]
    Malformed { part: &'static str, reason: String },
}

fn kvm(action: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> StateError {
    move |e| StateError::Kvm { action, source: io_error(e) }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> StateError {
    move |source| StateError::Kvm { action, source }
}

fn part<T: Abi>(part: &'static str, bytes: &[u8]) -> Result<T, StateError> {
    T::from_bytes(bytes).ok_or_else(|| StateError::Malformed {
        part,
        reason: format!("are {} bytes and should be {}", bytes.len(), size_of::<T>()),
    })
}

impl Vcpu {
    /// Its state. It is stopped, and its last port or memory access has been completed.
    pub fn save(&self) -> Result<SavedVcpu, StateError> {
        let fd = &self.fd;
        let mp_state = fd.get_mp_state().map_err(kvm("KVM_GET_MP_STATE"))?.mp_state;
        let regs = fd.get_regs().map_err(kvm("KVM_GET_REGS"))?.to_bytes();
        let sregs = self.get_sregs()?.to_bytes();
        let xsave = self.get_xsave()?;
        let xcrs = fd.get_xcrs().map_err(kvm("KVM_GET_XCRS"))?;
        let count = usize::try_from(xcrs.nr_xcrs).unwrap_or(usize::MAX).min(xcrs.xcrs.len());
        let debug_regs = fd.get_debug_regs().map_err(kvm("KVM_GET_DEBUGREGS"))?.to_bytes();
        let lapic = fd.get_lapic().map_err(kvm("KVM_GET_LAPIC"))?.to_bytes();
        let tsc_read_at = wall_clock();
        let mut msrs = msr::read(fd, &self.msrs).map_err(failed("KVM_GET_MSRS"))?;
        // What waits for the guest to be ours is as good as set.
        for (index, value) in &mut msrs {
            if let Some((_, deferred)) = self.deferred.iter().find(|(i, _)| i == index) {
                *value = *deferred;
            }
        }
        let tsc = match msrs.iter().position(|(index, _)| *index == msr::IA32_TSC) {
            Some(at) => msrs.remove(at).1,
            None => self.tsc().map_err(failed("reading the TSC"))?,
        };
        let nested = self.get_nested()?;
        let events = fd.get_vcpu_events().map_err(kvm("KVM_GET_VCPU_EVENTS"))?.to_bytes();
        Ok(SavedVcpu {
            mp_state,
            regs,
            sregs,
            xsave,
            xcrs: xcrs.xcrs[..count].iter().map(|x| (x.xcr, x.value)).collect(),
            debug_regs,
            lapic,
            events,
            msrs,
            tsc,
            tsc_read_at,
            tsc_offset: self.tsc_offset(),
            nested: nested.map(Into::into),
        })
    }

    /// Takes on `saved`, except for its TSC and the deadline that counts in it:
    /// [`Self::restore_tsc`], [`Self::arm_timer`]. Writes nothing to RAM.
    pub fn restore(&mut self, saved: &SavedVcpu) -> Result<(), StateError> {
        let SavedVcpu {
            mp_state,
            regs,
            sregs,
            xsave,
            xcrs,
            debug_regs,
            lapic,
            events,
            msrs,
            tsc: _,
            tsc_read_at: _,
            tsc_offset: _,
            nested,
        } = saved;
        let regs: kvm_regs = part("registers", regs)?;
        let sregs: kvm_sregs2 = part("special registers", sregs)?;
        let debug_regs: kvm_debugregs = part("debug registers", debug_regs)?;
        let lapic: kvm_lapic_state = part("local APIC registers", lapic)?;
        let events = known_flags(part("events", events)?, self.abilities.event_flags);
        xcrs_of(xcrs)?;
        let (least, most) = (size_of::<kvm_xsave>(), self.abilities.xsave_size);
        // A shorter one lacks features that the guest has not; they stay as they are when new.
        if xsave.len() < least || xsave.len() > most || !xsave.len().is_multiple_of(4) {
            return Err(StateError::Malformed {
                part: "XSAVE area",
                reason: format!("is {} bytes and should be {least} to {most}", xsave.len()),
            });
        }
        let (first, then) = self.msrs_to_set(msrs)?;
        let was_pristine = std::mem::take(&mut self.pristine);
        let made = Some(&self.made).filter(|_| was_pristine);

        msr::write(&self.fd, &first)?;
        self.set_sregs(&sregs)?;
        if made.is_none_or(|made| made.nested != *nested) {
            self.set_nested(nested.as_ref().map(|n| n.as_slice()))?;
        }
        self.fd.set_regs(&regs).map_err(kvm("KVM_SET_REGS"))?;
        self.set_xsave(xsave)?;
        if made.is_none_or(|made| made.xcrs != *xcrs) {
            self.fd.set_xcrs(&xcrs_of(xcrs)?).map_err(kvm("KVM_SET_XCRS"))?;
        }
        if made.is_none_or(|made| made.lapic != saved.lapic) {
            self.fd.set_lapic(&lapic).map_err(kvm("KVM_SET_LAPIC"))?;
        }
        msr::write(&self.fd, &then)?;
        if made.is_none_or(|made| made.mp_state != *mp_state) {
            let mp_state = kvm_mp_state { mp_state: *mp_state };
            self.fd.set_mp_state(mp_state).map_err(kvm("KVM_SET_MP_STATE"))?;
        }
        if made.is_none_or(|made| made.debug_regs != saved.debug_regs) {
            self.fd.set_debug_regs(&debug_regs).map_err(kvm("KVM_SET_DEBUGREGS"))?;
        }
        // Nothing was pending, and setting the registers forgets nothing else.
        if made.is_none_or(|made| made.events != saved.events) {
            self.fd.set_vcpu_events(&events).map_err(kvm("KVM_SET_VCPU_EVENTS"))?;
        }
        // What a rehearsal restores is what was there.
        self.pristine = made.is_some_and(|made| {
            made.mp_state == *mp_state
                && made.nested == *nested
                && made.xcrs == *xcrs
                && made.debug_regs == saved.debug_regs
                && made.lapic == saved.lapic
                && made.events == saved.events
                && first.is_empty()
                && then.is_empty()
        });
        self.was_stopped = msrs.iter().any(|(index, value)| {
            msr::KVM_SYSTEM_TIME.contains(index) && value & msr::KVM_SYSTEM_TIME_ENABLED != 0
        });
        Ok(())
    }

    /// Takes on the state in which it was made.
    pub fn restore_made(&mut self) -> Result<(), StateError> {
        let made = self.made.clone();
        self.restore(&made)
    }

    /// Which of the saved MSRs to set: first, and then. Those that have their value already are left
    /// alone, which also spares those that cannot be written; those that may touch RAM are put aside
    /// for the first run.
    fn msrs_to_set(&mut self, saved: &[Msr]) -> Result<(Vec<Msr>, Vec<Msr>), StateError> {
        let now = if self.pristine {
            Cow::Borrowed(&self.made.msrs)
        } else {
            let indices: Vec<u32> = saved.iter().map(|(index, _)| *index).collect();
            Cow::Owned(msr::read(&self.fd, &indices).map_err(failed("KVM_GET_MSRS"))?)
        };
        let mut seen = HashSet::with_capacity(saved.len());
        let (mut first, mut then, mut deferred) = (Vec::new(), Vec::new(), Vec::new());
        for &(index, value) in saved {
            if !seen.insert(index) {
                return Err(StateError::Malformed {
                    part: "MSRs",
                    reason: format!("name MSR {index:#x} twice"),
                });
            }
            match index {
                msr::IA32_TSC | msr::IA32_TSC_DEADLINE => {}
                _ if now.contains(&(index, value)) => {}
                msr::IA32_FEAT_CTL => first.push((index, value)),
                _ if msr::touches_ram(index) => deferred.push((index, value)),
                _ => then.push((index, value)),
            }
        }
        self.deferred = deferred;
        Ok((first, then))
    }

    fn get_sregs(&self) -> Result<kvm_sregs2, StateError> {
        if self.abilities.sregs2 {
            return sys::get_sregs2(&self.fd).map_err(failed("KVM_GET_SREGS2"));
        }
        // The pending interrupt that is in this one only is among the events too.
        let kvm_sregs {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr,
            ldt,
            gdt,
            idt,
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap: _,
        } = self.fd.get_sregs().map_err(kvm("KVM_GET_SREGS"))?;
        Ok(kvm_sregs2 {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr,
            ldt,
            gdt,
            idt,
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            flags: 0,
            pdptrs: [0; 4],
        })
    }

    fn set_sregs(&self, sregs: &kvm_sregs2) -> Result<(), StateError> {
        if self.abilities.sregs2 {
            return sys::set_sregs2(&self.fd, sregs).map_err(failed("KVM_SET_SREGS2"));
        }
        let kvm_sregs2 {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr,
            ldt,
            gdt,
            idt,
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            // KVM reads them from RAM instead, where a guest that uses them has them.
            flags: _,
            pdptrs: _,
        } = *sregs;
        let sregs = kvm_sregs {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr,
            ldt,
            gdt,
            idt,
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap: [0; 4],
        };
        self.fd.set_sregs(&sregs).map_err(kvm("KVM_SET_SREGS"))
    }

    /// An XSAVE area as long as KVM states.
    fn xsave(&self) -> Xsave {
        let extra = self.abilities.xsave_size - size_of::<kvm_xsave>();
        Xsave::new(extra.div_ceil(4)).expect("KVM states at most some 11 KiB")
    }

    fn get_xsave(&self) -> Result<Vec<u8>, StateError> {
        let mut xsave = self.xsave();
        if self.abilities.xsave_size > size_of::<kvm_xsave>() {
            // SAFETY: the area is as long as KVM states for this VM.
            unsafe { self.fd.get_xsave2(&mut xsave) }.map_err(kvm("KVM_GET_XSAVE2"))?;
        } else {
            let page = self.fd.get_xsave().map_err(kvm("KVM_GET_XSAVE"))?;
            // SAFETY: the length stays what it was; only the first page is assigned.
            unsafe { xsave.as_mut_fam_struct() }.xsave = page;
        }
        let (page, extra) = (&xsave.as_fam_struct_ref().xsave.region, xsave.as_slice());
        let mut bytes: Vec<u8> = Vec::with_capacity(self.abilities.xsave_size);
        bytes.extend(page.iter().chain(extra).flat_map(|word| word.to_le_bytes()));
        Ok(bytes)
    }

    fn set_xsave(&self, bytes: &[u8]) -> Result<(), StateError> {
        let mut xsave = self.xsave();
        let words = bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        // SAFETY: the length of the area stays what it was.
        let area = unsafe { xsave.as_mut_fam_struct() };
        let page = area.xsave.region.len();
        for (to, from) in area.xsave.region.iter_mut().zip(words.clone()) {
            *to = from;
        }
        for (to, from) in xsave.as_mut_slice().iter_mut().zip(words.skip(page)) {
            *to = from;
        }
        // SAFETY: the area is as long as KVM states for this VM.
        unsafe { self.fd.set_xsave2(&xsave) }.map_err(kvm("KVM_SET_XSAVE"))
    }

    fn get_nested(&self) -> Result<Option<Vec<u8>>, StateError> {
        if self.abilities.nested_size == 0 {
            return Ok(None);
        }
        let mut buffer = KvmNestedStateBuffer::empty();
        self.fd.nested_state(&mut buffer).map_err(kvm("KVM_GET_NESTED_STATE"))?;
        // The size is in the header: a header alone is state too (VMXON without a VMCS).
        let size = usize::try_from(buffer.size).unwrap_or(0).min(size_of_val(&buffer));
        // SAFETY: plain data, zeroed and then written by the kernel; the slice does not outlive the
        // buffer.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const buffer).cast::<u8>(), size) };
        Ok(Some(bytes.to_vec()))
    }

    fn set_nested(&self, bytes: Option<&[u8]>) -> Result<(), StateError> {
        let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        let malformed = |reason| StateError::Malformed { part: "nested state", reason };
        let most = self.abilities.nested_size.min(size_of::<KvmNestedStateBuffer>());
        if bytes.len() < NESTED_HEADER || bytes.len() > most {
            return Err(malformed(format!("is {} bytes, of at most {most} here", bytes.len())));
        }
        let mut buffer = KvmNestedStateBuffer::empty();
        // SAFETY: the bytes fit (checked above) and any bits are a valid value of this plain data.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                (&raw mut buffer).cast::<u8>(),
                bytes.len(),
            );
        }
        // The kernel reads as much as the header says.
        if usize::try_from(buffer.size) != Ok(bytes.len()) {
            return Err(malformed(format!("says {} bytes and is {}", buffer.size, bytes.len())));
        }
        self.fd.set_nested_state(&buffer).map_err(kvm("KVM_SET_NESTED_STATE"))
    }
}

/// Size of the header of `struct kvm_nested_state` in bytes.
const NESTED_HEADER: usize = 128;

/// The events without the flags that this KVM does not know and that say nothing here: that nothing
/// is pending needs no flag.
fn known_flags(events: kvm_vcpu_events, known: u32) -> kvm_vcpu_events {
    let mut silent = 0;
    if events.exception.pending == 0 && events.exception_has_payload == 0 {
        silent |= KVM_VCPUEVENT_VALID_PAYLOAD;
    }
    if events.triple_fault.pending == 0 {
        silent |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    }
    kvm_vcpu_events { flags: events.flags & !(silent & !known), ..events }
}

fn xcrs_of(values: &[(u32, u64)]) -> Result<kvm_xcrs, StateError> {
    let mut xcrs = kvm_xcrs::default();
    if values.len() > xcrs.xcrs.len() {
        return Err(StateError::Malformed {
            part: "extended control registers",
            reason: format!("are {}, of at most {KVM_MAX_XCRS}", values.len()),
        });
    }
    xcrs.nr_xcrs = u32::try_from(values.len()).expect("at most 16");
    for (to, &(xcr, value)) in xcrs.xcrs.iter_mut().zip(values) {
        *to = kvm_xcr { xcr, value, ..Default::default() };
    }
    Ok(xcrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_kvm_does_not_know_is_left_out_only_when_it_says_nothing() {
        let both = KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        let mut events = kvm_vcpu_events { flags: both | 1, ..Default::default() };
        assert_eq!(known_flags(events, both).flags, both | 1);
        assert_eq!(known_flags(events, 0).flags, 1);
        events.exception.pending = 1;
        assert_eq!(known_flags(events, 0).flags, KVM_VCPUEVENT_VALID_PAYLOAD | 1);
        events.triple_fault.pending = 1;
        assert_eq!(known_flags(events, 0).flags, both | 1);
    }
}
