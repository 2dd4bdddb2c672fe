//! Replacing the process of a machine under its running guest.
//!
//! The machine goes to a [successor](successor): a process that is started for it, or that waits for
//! it. That is an ordinary motion whose RAM both processes have. Beside it stands a [`channel`] on
//! which the old process gives what only the kernel can pass on, its descriptors: first what the new
//! one needs to build the machine, and right before the guest is stopped everything that people hold
//! on to, with what was read of it and not yet understood, and what was not yet written.
//!
//! Who has the guest in the end is decided by the [fate](motion::handover::Fate) that both see.

mod arriving;
mod channel;
mod exec;
mod held;
mod leaving;
mod namespace;
mod outset;
mod populate;
mod serving;
mod succeeding;
mod successor;
mod update;

pub(crate) use arriving::Succession;
pub(crate) use exec::Image;
pub use successor::{channel_of_stdin, channel_on};
pub(crate) use update::Renewal;
