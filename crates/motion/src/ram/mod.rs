//! How RAM travels: in precopy passes. A [`Pass`] says what has
//! to go, [`send`] takes pages out of RAM, [`receive`] puts them in.

mod pacer;
mod pass;
pub mod receive;
pub mod send;

pub use pacer::Pacer;
pub use pass::{CHUNK_PAGES, Pass, PassKind, PassTotals};
