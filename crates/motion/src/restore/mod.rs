//! A guest from a file: a motion whose source says nothing and waits for nobody.
//!
//! [`admit`] says what is against it before anything is built. A [`RestoreJob`] then builds the
//! machine, fills its RAM, loads its state, and asks the [handover](crate::handover::FileHandover)
//! whether it may run: a saved guest is claimed in its file first, for good.

mod admit;
mod error;
mod fill;
mod job;
mod on_demand;
mod options;
mod ownership;
mod phases;
mod view;

pub use admit::admit;
pub use job::{Phase, Prepared, RestoreJob};
pub use options::{Claimant, How, RestoreOptions, Terms};
