//! What the lab's guest says on its console, and what is to be concluded from it.
//!
//! The guest prints numbered lines with a checksum ([`line`]). The console outputs of all the
//! processes that held the guest, one after the other, are read as one text ([`transcript`]), in
//! which nothing may be missing, doubled or damaged, and in which the guest's clocks and those of
//! the host must agree ([`clocks`]), and its time stamp counter with them ([`tsc`]). The guest's kernel log must be free of complaints
//! ([`complaints`]).
#![forbid(unsafe_code)]

pub mod clocks;
pub mod complaints;
pub mod line;
pub mod transcript;
pub mod tsc;
