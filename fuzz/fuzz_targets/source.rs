#![no_main]
//! See [`whimbrel_fuzz::source`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| whimbrel_fuzz::source::run(data));
