//! The engine that moves a running machine from a source to a sink.
//!
//! It knows neither KVM nor sockets. What decides is without I/O: the [`handover`], the phases of
//! [`source`] and [`destination`], the passes in [`ram`], [`switch`]. Threads with blocking I/O
//! drive it in life (`drive`), a simulator in tests.
#![forbid(unsafe_code)]

mod again;
pub mod clock;
mod deferred;
pub mod destination;
mod error;
mod fault_events;
pub mod fill;
pub mod guard;
pub mod handover;
mod machine;
#[cfg(feature = "mutate")]
mod mutate;
mod observer;
mod options;
pub mod ram;
mod report;
pub mod restore;
mod rules;
pub mod source;
mod status;
pub mod switch;
mod until;

pub use error::MotionError;
pub use guard::CopyReport;
pub use machine::{
    DestinationMachine, Machine, MachineBuilder, MachineError, Rehearsal, SourceMachine,
};
#[cfg(feature = "mutate")]
pub use mutate::{Broken, break_rule};
pub use observer::Observer;
pub use options::{Blackout, DestinationOptions, Purpose, RamWay, SourceOptions, TimeoutAction};
pub use report::{
    BlackoutReport, ErrorReport, FileReport, PassReport, Progress, RamReport, Report,
    RestoreReport, Stage, StageName, StatusOrNone, Undecided,
};
pub use rules::Rule;
pub use status::Status;
