//! The verbs, one file each.

pub mod bench;
pub mod demo;
pub mod guest;
pub mod handover;
pub mod hold;
pub mod inspect;
pub mod kill;
pub mod list;
pub mod migrate;
pub mod pause;
pub mod qmp;
pub mod restore;
pub mod resume;
pub mod run;
pub mod save;
pub mod shutdown;
pub mod snapshot;
pub mod status;
pub mod update;
