//! The snapshot file: every page of a guest at a fixed place, with a checksum, and no snapshot that
//! is not complete. `docs/snapshot-format.md` specifies every byte.
//!
//! * A [`Writer`] takes pages from several threads, each with a [`Lane`] of its own, as often as they
//!   change, then the machine's state; [`Writer::commit`] makes the file valid at once and for good,
//!   or not at all.
//! * A [`Reader`] checks all that it believes, and every page that it hands out. [`Peek`] says what a
//!   file is, even when it is incomplete, or of a later version.
//! * A [`Claim`] in the file of a `save` says that its guest was continued, so that it is not
//!   continued twice.
#![forbid(unsafe_code)]

mod apart;
mod blocks;
mod buffer;
mod bytes;
mod checksum;
mod claim;
mod diff;
mod error;
#[cfg(test)]
mod fuse;
mod header;
mod lane;
mod origin;
mod peek;
mod place;
mod places;
mod reader;
mod record;
mod reserve;
mod section;
mod storage;
mod tables;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use apart::Apart;
pub use buffer::Buffer;
pub use error::{ClaimError, Damage, ReadError, WriteError};
pub use header::{Header, HeaderPage, Kind, VERSION};
pub use lane::{Lane, LaneTotals};
#[cfg(any(test, feature = "simulate"))]
pub use memory::fuse::{Act, Course, Disk, watched_by};
pub use origin::Origin;
pub use peek::{Mark, Peek};
pub use places::most_description;
pub use reader::Reader;
pub use record::{Claim, Commit};
pub use section::{Section, SectionKind};
pub use verify::Fault;
pub use writer::{Target, WriteOptions, Writer, Written};
