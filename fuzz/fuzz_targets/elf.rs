#![no_main]
//! See [`whimbrel_fuzz::elf`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| whimbrel_fuzz::elf::run(data));
