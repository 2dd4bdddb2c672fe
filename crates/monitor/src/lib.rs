//! What commands mean: machines by name, run states, motions, and the process that holds one.
//!
//! A [`Machine`] is one machine and its control socket in one process, made from a [`RunConfig`].
//! It joins the crates `vmm` (the machine), `motion` (how it moves) and `qmp` (how it is driven).
//! The [`RuntimeDir`] is where the machines of one user are found.
#![forbid(unsafe_code)]

mod address;
mod arrival;
mod blocktime;
mod config;
mod ending;
mod error;
mod handler;
mod handovers;
mod incoming;
mod machine;
mod monitor;
mod name;
mod observer;
mod outgoing;
mod query;
mod renew;
mod restoring;
mod runtime;
mod signals;
pub mod supervisor;
mod threads;
mod view;

pub use config::{BootSource, Incoming, MemoryPlace, QmpSocket, RunConfig};
pub use devices::console::Spec as Console;
pub use ending::Ending;
pub use error::Error;
pub use handovers::on_record;
pub use machine::Machine;
pub use motion::restore::{How, Terms};
pub use name::{MachineName, NameError};
pub use renew::{channel_of_stdin, channel_on};
pub use restoring::{Manner, Restore};
pub use runtime::{Claim, RUNTIME_DIR, RuntimeDir};
pub use signals::{Signals, Woken};
pub use view::{MachineView, MemoryView};
pub use vmm::GuestClock;
