//! Registers that ring 3 reaches only slowly: new content every now and then,
//! and it must still be there the next time

use rt::cpu::{self, Cpu};
use rt::shared::pattern;
use rt::shared::report::Kind;

/// A register, with the bits of it that can be chosen freely and those that are fixed
#[derive(Clone, Copy)]
struct Register {
    kind: Kind,
    number: u32,
    free: u64,
    fixed: u64,
}

const fn msr(number: u32, free: u64) -> Register {
    Register { kind: Kind::Msr, number, free, fixed: 0 }
}

/// Any address in the lower half, which all processors take
const ADDRESS: u64 = (1 << 47) - 1;

/// Number of registers
pub const COUNT: usize = 18;

/// What every processor has; those that it refuses are left out. Processors of
/// AMD keep 32 bits of the SYSENTER addresses.
const REGISTERS: [Register; COUNT] = [
    msr(0x174, 0xffff),            // IA32_SYSENTER_CS
    msr(0x175, 0xffff_ffff),       // IA32_SYSENTER_ESP
    msr(0x176, 0xffff_ffff),       // IA32_SYSENTER_EIP
    msr(0xc000_0081, u64::MAX),    // STAR
    msr(0xc000_0082, ADDRESS),     // LSTAR
    msr(0xc000_0083, ADDRESS),     // CSTAR
    msr(0xc000_0084, 0xffff_ffff), // SFMASK
    msr(0xc000_0100, ADDRESS),     // FS_BASE
    msr(0xc000_0101, ADDRESS),     // GS_BASE
    msr(0xc000_0102, ADDRESS),     // KERNEL_GS_BASE
    msr(0xc000_0103, 0xffff_ffff), // TSC_AUX
    debug(0),
    debug(1),
    debug(2),
    debug(3),
    // Task priority class (the rest of that register has no place in CR8, and some
    // VMMs restore it from there); LVT error entry, masked, its vector never below 16
    Register { kind: Kind::Apic, number: 0x80, free: 0xf0, fixed: 0 },
    Register { kind: Kind::Apic, number: 0x370, free: 0xef, fixed: 0x1_0010 },
    // The scratch register of the console's 16550
    Register { kind: Kind::Uart, number: 0x3ff, free: 0xff, fixed: 0 },
];

const fn debug(number: u32) -> Register {
    Register { kind: Kind::Debug, number, free: ADDRESS, fixed: 0 }
}

const APIC: usize = 0xfee0_0000;

impl Register {
    fn read(self) -> Option<u64> {
        match self.kind {
            Kind::Msr => cpu::rdmsr(self.number).ok(),
            Kind::Debug => Some(cpu::debug_register(self.number as usize)),
            Kind::Apic => {
                let register = (APIC + self.number as usize) as *const u32;
                // SAFETY: the local APIC's registers, mapped
                Some(unsafe { register.read_volatile() }.into())
            }
            _ => Some(cpu::inb(self.number as u16).into()),
        }
    }

    fn write(self, value: u64) {
        match self.kind {
            Kind::Msr => {
                // SAFETY: none of these matters to a guest that uses no system
                // calls, no FS and no GS. One that is refused is not there.
                let _ = unsafe { cpu::wrmsr(self.number, value) };
            }
            Kind::Debug => cpu::set_debug_register(self.number as usize, value),
            Kind::Apic => {
                let register = (APIC + self.number as usize) as *mut u32;
                // SAFETY: as above; the error entry is masked, and nothing interrupts
                unsafe { register.write_volatile(value as u32) };
            }
            _ => cpu::outb(self.number as u16, value as u8),
        }
    }

    fn value(self, cpu: Cpu, index: usize, generation: u64) -> u64 {
        let seed = pattern::word(generation, index + COUNT * cpu.id);
        seed & self.free | self.fixed
    }
}

/// The registers of one processor
pub struct Registers {
    cpu: Cpu,
    present: [bool; COUNT],
}

impl Registers {
    /// Finds out which registers there are, and gives them their first content;
    /// only the first processor minds the serial port
    pub fn new(cpu: Cpu, generation: u64) -> Self {
        let mut present = [false; COUNT];
        for (index, register) in REGISTERS.into_iter().enumerate() {
            if register.kind != Kind::Uart || cpu.rank == 0 {
                let value = register.value(cpu, index, generation);
                register.write(value);
                present[index] = register.read() == Some(value);
            }
        }
        Self { cpu, present }
    }

    /// Checks that a register holds what belongs to a generation, and gives it
    /// what belongs to the next
    pub fn renew(&self, index: usize, generation: u64) -> Option<Wrong> {
        if !self.present[index] {
            return None;
        }
        let register = REGISTERS[index];
        let expected = register.value(self.cpu, index, generation);
        let found = register.read().unwrap_or(0);
        register.write(register.value(self.cpu, index, generation + 1));
        let (kind, number) = (register.kind, register.number.into());
        (found != expected).then_some(Wrong { kind, number, expected, found })
    }
}

/// A register that does not hold what it should
pub struct Wrong {
    /// What sort of register
    pub kind: Kind,
    /// Its number among these
    pub number: u64,
    /// What it should hold
    pub expected: u64,
    /// What it holds
    pub found: u64,
}
