//! The same for the other way: a process becomes another program while a guardian has its guest.

pub mod cell;
mod stage;
pub mod table;
