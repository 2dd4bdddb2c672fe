//! The QMP server: JSON lines over Unix sockets, typed commands, replies and events.
//!
//! Names and meanings follow QEMU's QAPI where they are the same; what is Whimbrel's own carries
//! the prefix `x-whimbrel-`. This crate knows nothing of machines: whoever owns one implements
//! [`Handler`], [binds](Server::bind) the sockets, and [starts](Server::start) the server.
//!
//! * [`Command`] is every command with its typed arguments, [`Reply`] every answer, [`Event`]
//!   every event, [`Error`] every refusal with its class and stable code.
//! * [`Client`] is the other end: a blocking client for command-line verbs and tests.
//!
//! A server can be [suspended](ServerHandle::suspend) and [adopted](Server::adopt) by another
//! process while clients are connected; [`saved`] is what travels.
//!
//! One thread serves all sockets and never waits for a command; one worker thread runs commands
//! in the order in which they came. `docs/qmp.md` is the operator's view of it.
#![forbid(unsafe_code)]

mod carry;
mod client;
pub mod command;
mod descriptors;
mod error;
mod event;
mod fdsets;
mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod json;
mod limits;
pub mod reply;
mod request;
pub mod saved;
mod server;

pub use carry::{AdoptError, SuspendError, Suspended};
pub use client::{Client, ClientError, ReceivedEvent};
pub use command::Command;
pub use error::{Class, Error};
pub use event::{Event, ShutdownCause, Timestamp};
pub use fdsets::{Access, SetFiles, set_of};
pub use limits::Limits;
pub use reply::Reply;
pub use saved::{Role, SavedServer};
pub use server::{BindError, ClientId, Context, EventSender, Handler, Server, ServerHandle};
