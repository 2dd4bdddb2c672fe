//! The source of a motion.
//!
//! [`Source`] decides, without waiting for anything: an [`Event`] goes in, and what is to be done
//! goes out through [`SourceIo`]. [`SourceJob`] drives it with threads and sockets.

mod before_write;
mod copy;
mod core;
mod ending;
mod file;
mod job;
mod network;
mod outlook;
mod passes;
mod phase;
mod shared;
mod switchover;
mod testimony;
mod timers;
mod times;
mod workers;

use std::time::Duration;

/// For so long the other end may still hear who has the guest, where there is no other way to tell it.
const SETTLING: Duration = Duration::from_secs(60);

pub use self::core::Source;
pub use file::{BeforeWriteLane, Errand, FileDesk, FileLane, FilePlace, Outcome, Todo};
pub use job::SourceJob;
pub use network::{PeerAddress, Sibling};
pub use phase::{Command, Event, Phase, SourceIo};
pub use testimony::Testimony;
