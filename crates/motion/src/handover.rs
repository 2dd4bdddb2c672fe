//! The one moment that must never go wrong: at most one process may run the guest, and the guest
//! is never nowhere.
//!
//! A handover begins when the source has stopped its guest and turned in its [`RunPermit`], and
//! ends when both sides know who has it. [`SourceHandover`] and [`DestinationHandover`] decide it,
//! and a [`Witness`] speaks for a process that is dead. None of them does I/O or knows the time: an
//! [`Input`] goes in, [`Output`]s come out, and the engine carries those out *in order*:
//!
//! * [`Output::Record`] must have been written before anything that follows it in the list. If it
//!   could not be written, the rest of the list is dropped and [`Input::RecordFailed`] goes in.
//!   [`drive`](SourceHandover::drive) does just that on a [`Journal`].
//! * [`Output::Send`] goes over the link while it is up, else over a new connection from the source
//!   to the destination; where there is no way, it is dropped. The protocol is built for messages
//!   that get lost, come twice, or come late.
//! * [`Output::Grant`] is the only way to a permit. A guest runs with one, or not at all.
//!
//! Where both sides are processes that share the guest's RAM, a [`Fate`] has the last word.
//!
//! A file is no peer: it says nothing and asks nothing. [`FileHandover`] decides when a guest goes on
//! from one.
//!
//! In one sentence each: until COMMIT the *source* decides, alone; with COMMIT it gives the decision
//! away, for good; from READY on the *destination* decides, by whichever comes first: COMMIT, and it
//! runs the guest, or a question, and it refuses it for ever. Only that refusal gives the source its
//! permit back. The whole argument, the table of who says what when, and the format of the records
//! are in `docs/handover.md`; `tests/handover_model.rs` checks the argument on every reachable state.

mod decide;
mod error;
mod fate;
mod file;
mod journal;
mod message;
mod permit;
mod record;
mod roles;
mod step;
mod token;
pub mod words;

/// The decisions alone, without permits, tokens and records: what is model-checked.
///
/// Nothing in here can make a [`RunPermit`], whatever its [`Rules`](decision::Rules).
pub mod decision {
    pub use super::decide::{
        AllRules, Continuation, Destination, DestinationPhase, Effect, Event, FileRule, FileRules,
        Rule, Rules, SharedRule, SharedRules, Source, SourcePhase, Testimony, Witness,
    };
}

pub use decide::{
    ContinuationPhase, DestinationPhase, Entitlement, FileInput, FileOutput, SourcePhase,
};
pub use error::{Denial, DriveError, HandoverError};
pub use fate::{Fate, Outcome};
pub use file::FileHandover;
pub use journal::{DirJournal, Journal, JournalError, MemoryJournal};
pub use message::{Message, Verdict, Word};
pub use permit::RunPermit;
pub use record::{Decision, Key, MAX_RECORD_LEN, Particulars, Record, RecordError, Role};
pub use roles::{DestinationHandover, GONE, SourceHandover, Standing, Witness};
pub use step::{Input, Notice, Output, Side, Timer};
pub use token::{Token, TokenError};
