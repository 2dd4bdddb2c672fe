//! What the guests run on: start-up, processors, time, console
//!
//! Everything here runs in ring 3, where `boot.s` leaves it, on an identity
//! mapping of all memory.

#![no_std]

mod acpi;
pub mod console;
pub mod cpu;
mod exception;
mod libc;
pub mod machine;
mod paging;
mod pvh;
pub mod ram;
#[path = "../../src/shared/mod.rs"]
pub mod shared;
mod smp;
pub mod station;
pub mod time;
pub mod watch;

core::arch::global_asm!(include_str!("boot.s"));

/// Makes a program of a guest: its name and what each of its processors runs
#[macro_export]
macro_rules! guest {
    ($guest:expr, $main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn enter(slot: usize, start_info: usize) -> ! {
            $crate::machine::enter(slot, start_info, $guest, $main)
        }
    };
}
