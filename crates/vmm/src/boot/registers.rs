//! The registers with which the first vCPU enters the kernel.

use super::error::memory_error;
use super::layout::{GDT, PAGE_TABLES};
use super::{BootError, Entry};
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS_FIXED: u64 = 1 << 1;

const CODE: u8 = 0xb; // execute, read, accessed
const DATA: u8 = 0x3; // read, write, accessed
const BUSY_TSS: u8 = 0xb;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
/// The GDT that the 64-bit boot protocol asks for: `__BOOT_CS` at 0x10 and `__BOOT_DS` at 0x18,
/// both flat, 4 GiB.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// The vCPU's registers at the entry, given those that KVM made it with: what the boot protocols
/// do not name (such as the APIC base) stays.
#[must_use]
pub fn initial_registers(entry: Entry, made: kvm_sregs) -> (kvm_regs, kvm_sregs) {
    let regs = kvm_regs { rflags: RFLAGS_FIXED, ..Default::default() };
    match entry {
        Entry::Pvh { entry, start_info } => {
            let regs = kvm_regs { rip: entry.into(), rbx: start_info.into(), ..regs };
            let sregs = flat(made, segment(CODE, false), CR0_PE | CR0_ET);
            (regs, sregs)
        }
        Entry::Linux64 { entry, boot_params } => {
            let regs = kvm_regs { rip: entry, rsi: boot_params, ..regs };
            let mut sregs = flat(made, segment(CODE, true), CR0_PE | CR0_ET | CR0_PG);
            sregs.cr3 = PAGE_TABLES;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
            let limit = u16::try_from(size_of_val(&DESCRIPTORS) - 1).expect("four descriptors");
            sregs.gdt = kvm_dtable { base: GDT, limit, ..Default::default() };
            (regs, sregs)
        }
    }
}

/// Protected mode with flat segments and nothing else switched on.
fn flat(made: kvm_sregs, cs: kvm_segment, cr0: u64) -> kvm_sregs {
    let data = segment(DATA, false);
    kvm_sregs {
        cs,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment { limit: 0x67, type_: BUSY_TSS, present: 1, ..Default::default() },
        cr0,
        cr3: 0,
        cr4: 0,
        efer: 0,
        ..made
    }
}

fn segment(type_: u8, long_mode: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: if type_ == CODE { CODE_SELECTOR } else { DATA_SELECTOR },
        type_,
        present: 1,
        s: 1,
        g: 1,
        l: long_mode.into(),
        db: (!long_mode).into(),
        ..Default::default()
    }
}

/// Writes the GDT of the 64-bit entry.
pub(super) fn write_gdt<M: GuestMemoryBackend>(memory: &M) -> Result<(), BootError> {
    memory.write_obj(DESCRIPTORS, GuestAddress(GDT)).map_err(memory_error("the GDT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pvh_kernel_is_entered_in_flat_32_bit_mode_without_paging() {
        let made = kvm_sregs { apic_base: 0xfee0_0900, cr4: 0xffff, ..Default::default() };
        let entry = Entry::Pvh { entry: 0x10_0010, start_info: 0x2000 };
        let (regs, sregs) = initial_registers(entry, made);
        assert_eq!((regs.rip, regs.rbx, regs.rflags), (0x10_0010, 0x2000, 2));
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
        assert_eq!((sregs.cs.db, sregs.cs.l, sregs.cs.limit), (1, 0, u32::MAX));
        assert_eq!((sregs.tr.limit, sregs.tr.base), (0x67, 0));
        assert_eq!(sregs.apic_base, 0xfee0_0900);
    }

    #[test]
    fn linux_is_entered_in_long_mode_with_the_selectors_that_it_asks_for() {
        let entry = Entry::Linux64 { entry: 0x100_0200, boot_params: 0x7000 };
        let (regs, sregs) = initial_registers(entry, kvm_sregs::default());
        assert_eq!((regs.rip, regs.rsi), (0x100_0200, 0x7000));
        assert_eq!((sregs.cs.selector, sregs.ds.selector, sregs.ss.selector), (0x10, 0x18, 0x18));
        assert_eq!((sregs.cs.l, sregs.cs.db), (1, 0));
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x8000_0011, 0x20, 0x500));
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (GDT, 31));
    }
}
