//! What cannot go on: exceptions and failed assertions

use crate::console;
use crate::cpu;
use crate::shared::report::{Hex, Panic};
use core::panic::PanicInfo;

const EXCEPTIONS: usize = 32;
/// The invalid opcode exception, which the services use
const SERVICE: usize = 6;
const RING0_CODE: u64 = 0x08;
/// Present, interrupt gate
const GATE: u64 = 0x8e << 40;

unsafe extern "C" {
    static exception_table: [u64; EXCEPTIONS];
    static service: u8;
    static mut idt: [[u64; 2]; EXCEPTIONS];
}

/// Fills the interrupt descriptor table
///
/// # Safety
/// On the first processor, before anything else.
pub unsafe fn start() {
    let gate = |handler: u64| {
        [handler & 0xffff | RING0_CODE << 16 | GATE | (handler >> 16 & 0xffff) << 48, handler >> 32]
    };
    // SAFETY: nobody else writes the table, and nothing raises an exception yet
    unsafe {
        let table = &raw mut idt;
        let table = &mut *table;
        for (entry, handler) in table.iter_mut().zip(exception_table) {
            *entry = gate(handler);
        }
        table[SERVICE] = gate(&raw const service as u64);
    }
}

/// Where `boot.s` goes, in ring 3, after an exception there
#[unsafe(no_mangle)]
extern "C" fn exception_report(vector: u64, error: u64, rip: u64, cr2: u64, stack: u64) -> ! {
    stop(vector, error, rip, cr2, stack)
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    let (line, file) = info.location().map_or((0, ""), |at| (at.line(), at.file()));
    console::print(format_args!("NOTE assertion failed in {file}:{line}"));
    stop(255, 0, line.into(), 0, &raw const line as u64)
}

/// Reports, and halts the processor; the stack tells which one it is
fn stop(vector: u64, error: u64, rip: u64, cr2: u64, stack: u64) -> ! {
    let line = Panic {
        cpu: cpu::id_by_stack(stack as usize) as u64,
        vector,
        error: Hex(error),
        rip: Hex(rip),
        addr: Hex(cr2),
    };
    console::print(line);
    cpu::halt()
}
