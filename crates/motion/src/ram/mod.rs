//! How RAM travels: in precopy passes, on demand, or copied before it is overwritten. A [`Pass`] says
//! what has to go, [`send`] takes pages out of RAM, [`receive`] puts them in; [`on_demand`] says who
//! fetches what next, [`before_write`] who copies what.

pub mod before_write;
pub mod on_demand;
mod pacer;
mod pass;
pub mod receive;
pub mod send;
mod walk;

pub use pacer::Pacer;
pub use pass::{CHUNK_PAGES, Pass, PassKind, PassTotals};
pub use walk::PIECE_PAGES;
pub(crate) use walk::{Carrier, walk_chunk};

/// What went wrong between guest memory and a connection, as the error of the connection.
fn io_error(error: vm_memory::VolatileMemoryError) -> std::io::Error {
    match error {
        vm_memory::VolatileMemoryError::IOError(error) => error,
        other => std::io::Error::other(other),
    }
}
