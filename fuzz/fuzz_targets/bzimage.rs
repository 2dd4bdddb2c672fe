#![no_main]
//! See [`whimbrel_fuzz::bzimage`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| whimbrel_fuzz::bzimage::run(data));
