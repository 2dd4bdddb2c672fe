#![no_main]
//! See [`whimbrel_fuzz::snapshot`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| whimbrel_fuzz::snapshot::run(data));
