//! What carries the protocol between two engines: TCP, Unix sockets, descriptors that were given.
//!
//! * An [`Address`] says where the other end is, as people and QMP write it.
//! * A [`Stream`] is one connection. Its I/O blocks, but never for longer than its stall limit
//!   without progress, and never once its [`Closer`] was used.
//! * A [`Listener`] accepts streams.
//! * A [`Waker`] and [`wait_readable`] let one thread wait for several of them and for word from
//!   another thread.
#![forbid(unsafe_code)]

mod address;
mod connect;
mod descriptors;
mod error;
mod listener;
mod stream;
mod wake;

pub use address::{Address, AddressError};
pub use connect::connect;
pub use descriptors::Descriptors;
pub use error::LinkError;
pub use listener::{Listener, SocketFile};
pub use stream::{Closer, Stream};
pub use wake::{Ready, Waker, wait_readable};
