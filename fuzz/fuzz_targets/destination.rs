#![no_main]
//! See [`whimbrel_fuzz::destination`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| whimbrel_fuzz::destination::run(data));
