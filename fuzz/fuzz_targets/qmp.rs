#![no_main]
//! See [`whimbrel_fuzz::qmp`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| whimbrel_fuzz::qmp::run(data));
