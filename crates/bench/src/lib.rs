//! Figures from the guest's own clock, beside the least that the kernel needs for the same thing and
//! beside another VMM.
//!
//! A benchmark prints figures and asserts nothing about them. [`floor`] is the least that a blackout
//! can be. [`cases`] are what is measured of moves and of files: each runs real processes of a [`peer`], reads
//! what their guest says of its own clock, and leaves [`raw`] samples, of which a [`Row`] is the sum.
#![forbid(unsafe_code)]

pub mod campaign;
pub mod cases;
mod console;
mod error;
pub mod fio;
pub mod floor;
pub mod host;
mod inside;
pub mod peer;
mod place;
mod procfs;
pub mod raw;
mod row;
mod table;
mod talk;
mod tcp;
mod travel;
mod warm;

pub use error::BenchError;
pub use place::Place;
pub use row::{Row, Sum};
pub use table::{chart, table};
