#![no_main]
//! See [`whimbrel_fuzz::record`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| whimbrel_fuzz::record::run(data));
