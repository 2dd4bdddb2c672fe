#![no_main]
//! See [`whimbrel_fuzz::kept`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| whimbrel_fuzz::kept::run(data));
