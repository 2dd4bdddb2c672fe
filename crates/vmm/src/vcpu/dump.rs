//! A vCPU's registers, for those who look at a guest that failed.

use super::Vcpu;
use crate::status::Registers;

impl Vcpu {
    /// Its registers, as far as KVM gives them.
    pub fn dump(&self) -> Registers {
        let mut all = Vec::new();
        if let Ok(r) = self.fd.get_regs() {
            all.extend([
                ("rip", r.rip),
                ("rflags", r.rflags),
                ("rax", r.rax),
                ("rbx", r.rbx),
                ("rcx", r.rcx),
                ("rdx", r.rdx),
                ("rsi", r.rsi),
                ("rdi", r.rdi),
                ("rsp", r.rsp),
                ("rbp", r.rbp),
                ("r8", r.r8),
                ("r9", r.r9),
                ("r10", r.r10),
                ("r11", r.r11),
                ("r12", r.r12),
                ("r13", r.r13),
                ("r14", r.r14),
                ("r15", r.r15),
            ]);
        }
        if let Ok(s) = self.fd.get_sregs() {
            all.extend([
                ("cr0", s.cr0),
                ("cr2", s.cr2),
                ("cr3", s.cr3),
                ("cr4", s.cr4),
                ("efer", s.efer),
                ("apic_base", s.apic_base),
                ("gdt", s.gdt.base),
                ("idt", s.idt.base),
                ("cs", s.cs.selector.into()),
                ("cs_base", s.cs.base),
                ("ss", s.ss.selector.into()),
                ("ss_base", s.ss.base),
                ("ds", s.ds.selector.into()),
                ("ds_base", s.ds.base),
                ("es", s.es.selector.into()),
                ("es_base", s.es.base),
                ("tr", s.tr.selector.into()),
                ("tr_base", s.tr.base),
            ]);
        }
        Registers(all)
    }
}
