//! Figures from the guest's own clock, beside the least that the kernel needs for the same thing.
//!
//! A benchmark prints figures and asserts nothing about them. Each [`Row`] is one figure over
//! several runs, as a line of JSON or as a line of a table.
#![forbid(unsafe_code)]

mod console;
pub mod floor;
mod row;

pub use row::{Row, table};
