//! A vCPU's registers for the log.

use super::Vcpu;
use std::fmt::Write as _;

impl Vcpu {
    /// Its registers as text, as far as KVM gives them.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        if let Ok(r) = self.fd.get_regs() {
            let names = [
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
            ];
            for (name, value) in names {
                let _ = write!(text, "{name}={value:#x} ");
            }
        }
        if let Ok(s) = self.fd.get_sregs() {
            for (name, value) in [
                ("cr0", s.cr0),
                ("cr2", s.cr2),
                ("cr3", s.cr3),
                ("cr4", s.cr4),
                ("efer", s.efer),
                ("apic_base", s.apic_base),
                ("gdt", s.gdt.base),
                ("idt", s.idt.base),
            ] {
                let _ = write!(text, "{name}={value:#x} ");
            }
            for (name, segment) in
                [("cs", s.cs), ("ss", s.ss), ("ds", s.ds), ("es", s.es), ("tr", s.tr)]
            {
                let _ = write!(text, "{name}={:#x}:{:#x} ", segment.selector, segment.base);
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}
