#![no_main]
//! See [`whimbrel_fuzz::handshake`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| whimbrel_fuzz::handshake::run(data));
