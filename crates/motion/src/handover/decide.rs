//! The decisions of a handover, without permits, tokens and records.
//!
//! These three are all that decides who owns a guest. They are plain values that can be copied,
//! compared and hashed, so that a model checker can drive the very code that the engine runs.

mod continuation;
mod destination;
mod rules;
mod shared;
mod source;
mod witness;

use super::{Decision, Input, Output, Word};

#[cfg(feature = "mutate")]
pub(super) use crate::mutate::InForce;
/// The rules that the engine goes by: all of them, unless a test has it break one.
#[cfg(not(feature = "mutate"))]
pub(super) use rules::AllRules as InForce;

pub use continuation::{
    Continuation, ContinuationPhase, Entitlement, FileInput, FileOutput, FileRule, FileRules,
};
pub use destination::{Destination, DestinationPhase};
pub use rules::{AllRules, Rule, Rules};
pub use shared::{SharedRule, SharedRules, at_destination, at_source};
pub use source::{Source, SourcePhase};
pub use witness::{Testimony, Witness};

/// What goes into a decision.
pub type Event = Input<Word>;

/// What comes out of a decision. A grant is no permit yet.
pub type Effect = Output<Word, Decision, ()>;
