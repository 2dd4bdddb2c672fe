//! The destination of a motion.
//!
//! [`Destination`] decides, without waiting for anything: an [`Event`] goes in, and what is to be
//! done goes out through [`DestinationIo`]. [`DestinationJob`] drives it with threads and sockets.

mod arrival;
mod core;
mod drive;
mod ending;
mod phase;
mod questions;
mod receivers;
mod records;
mod serve;
mod strangers;

pub use self::core::Destination;
pub use drive::DestinationJob;
pub use phase::{Admission, AsRam, Command, DestinationIo, Event, Phase, Question};
