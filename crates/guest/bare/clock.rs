//! The clock guest: each processor reads the clock in a loop and reports the gaps

#![no_std]
#![no_main]

use rt::cpu::{self, Cpu};
use rt::machine::Machine;
use rt::shared::builtin::Builtin;
use rt::station::Station;

rt::guest!(Builtin::Clock, main);

fn main(machine: &'static Machine, cpu: Cpu) -> ! {
    // The first processor always watches: it minds the console
    if cpu.rank != 0 && cpu.rank as u64 >= machine.params.watch {
        cpu::halt();
    }
    let mut station = Station::new(machine, cpu);
    loop {
        station.turn();
    }
}
