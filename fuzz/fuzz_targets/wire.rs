#![no_main]
//! See [`whimbrel_fuzz::wire`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| whimbrel_fuzz::wire::run(data));
