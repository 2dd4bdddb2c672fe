//! A processor: its instructions, its services from ring 0, its pages

pub use crate::shared::tsc::tsc;

use core::arch::asm;

/// Slots for processors; a slot's number is the local APIC id
pub const MAX: usize = 64;

/// Size of a page, bytes
pub const PAGE: usize = 4096;

const SLOT_SIZE: usize = 8 * PAGE;

unsafe extern "C" {
    static percpu: u8;
}

/// The processor on which the code runs
#[derive(Clone, Copy)]
pub struct Cpu {
    /// The local APIC id, below [`MAX`]
    pub id: usize,
    /// Its place among the processors that are there
    pub rank: usize,
}

impl Cpu {
    /// Address of one of the three pages that are this processor's own, 0 to 2
    pub fn page(self, index: usize) -> usize {
        assert!(index < 3);
        &raw const percpu as usize + self.id * SLOT_SIZE + (index + 1) * PAGE
    }
}

/// The processor whose stack an address lies in
pub fn id_by_stack(address: usize) -> usize {
    (address - &raw const percpu as usize) / SLOT_SIZE
}

/// Writes an I/O port
pub fn outb(port: u16, value: u8) {
    // SAFETY: the devices that the guests write to do not access memory
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, nomem)) }
}

/// Reads an I/O port
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: as for `outb`
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, nomem)) }
    value
}

/// The processor refused: there is no such register, or not this value for it
#[derive(Debug)]
pub struct Refused;

/// Reads a model-specific register
pub fn rdmsr(msr: u32) -> Result<u64, Refused> {
    // SAFETY: reading has no effect on memory
    unsafe { service(0, msr.into(), 0) }
}

/// Writes a model-specific register
///
/// # Safety
/// The value must not let the processor write memory that is in use, nor
/// change how the guest runs.
pub unsafe fn wrmsr(msr: u32, value: u64) -> Result<(), Refused> {
    // SAFETY: by the caller
    unsafe { service(1, msr.into(), value) }.map(drop)
}

/// Reads debug register 0 to 3
pub fn debug_register(index: usize) -> u64 {
    assert!(index < 4);
    // SAFETY: reading has no effect on memory
    unsafe { service(2, index as u64, 0) }.unwrap_or(0)
}

/// Writes debug register 0 to 3; no breakpoint is ever switched on in DR7
pub fn set_debug_register(index: usize, value: u64) {
    assert!(index < 4);
    // SAFETY: without a breakpoint in DR7 the register has no effect
    let _ = unsafe { service(3, index as u64, value) };
}

/// EAX, EBX, ECX, EDX of a CPUID leaf and subleaf
///
/// From ring 0, because there the hypervisor's answer is certain.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let mut words = [0; 4];
    let selector = u64::from(subleaf) << 32 | u64::from(leaf);
    // SAFETY: the service writes the four words
    let _ = unsafe { service(4, selector, &raw mut words as u64) };
    words
}

/// Enables the state components with these bits in XCR0
pub fn enable_vectors(mask: u64) -> Result<(), Refused> {
    // SAFETY: more registers than before can be used; nothing else changes
    unsafe { service(7, 0, mask) }.map(drop)
}

/// Stops this processor for good
pub fn halt() -> ! {
    loop {
        // SAFETY: the service does not come back
        let _ = unsafe { service(5, 0, 0) };
    }
}

/// Ends the virtual machine by a triple fault
pub fn triple_fault() -> ! {
    loop {
        // SAFETY: the service does not come back
        let _ = unsafe { service(6, 0, 0) };
    }
}

/// # Safety
/// As the service requires.
unsafe fn service(number: u64, selector: u64, value: u64) -> Result<u64, Refused> {
    let (result, refused): (u64, u64);
    // SAFETY: the gate saves what it pushes on the ring 0 stack
    unsafe {
        asm!(
            ".byte 0x0f, 0xb9, 0xc9", // ud1 ecx, ecx
            inlateout("rax") number => result,
            inlateout("rcx") selector => _,
            inlateout("rdx") value => refused,
            out("r8") _,
            out("r9") _,
            options(nostack),
        );
    }
    if refused == 0 { Ok(result) } else { Err(Refused) }
}
