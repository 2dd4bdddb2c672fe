//! The phases of a destination, and what goes in and out of it.

use crate::MotionError;
use crate::clock::Moment;
use crate::handover::{self, Fate, Side, Token};
use memory::GuestRam;
use state::Refusal;
use std::sync::Arc;
use std::time::Duration;
use wire::{Message, PagesHeader, PassEnd};

/// Where a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has come.
    Waiting,
    /// A source has come and is to describe its machine.
    Greeted,
    /// The machine is built; pages come, and in the end the state.
    Receiving,
    /// The state is loaded and READY was said.
    Ready,
    /// READY was said, and then the source was lost.
    Holding,
    /// The guest is owned here; questions about it are answered.
    Owner,
    /// The motion failed before READY; the source is heard out.
    Failed,
    /// Nothing is left to do.
    Ended,
}

/// Names a connection on which a question was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question(pub u64);

/// What becomes of a connection whose source has said hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is the control connection.
    Control,
    /// It brings pages.
    Data,
    /// It asks about a token.
    Question,
    /// It is told why not, and closed.
    Refused(Vec<Refusal>),
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// Bytes came over the control connection. Whoever sends a long message is not silent.
    Heard,
    /// A message came over the control connection.
    Message(Message),
    /// Pages came over the control connection, with their contents.
    Pages(PagesHeader, Vec<u8>),
    /// A pass has ended on this data connection, and what came agrees with what was sent.
    PassEnd(u16, PassEnd),
    /// The control connection was lost, or what came over it was wrong.
    Lost(MotionError),
    /// A data connection was lost, or what came over it was wrong.
    DataLost(MotionError),
    /// Somebody asked about a token, or told of one.
    Asked(Question, handover::Message),
    /// Time has passed.
    Tick,
}

/// What somebody wants of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Give up waiting, or the motion.
    Cancel,
    /// Decide a handover: this side's, or that of a dead process which this one speaks for.
    Resolve {
        /// Which. It may not be the one under way any more by the time this is read.
        token: Token,
        /// Who is to own the guest.
        owner: Side,
        /// The other side can no longer run it.
        fenced: bool,
    },
    /// Put up with a silent source for so long, from now on.
    SetStall(Duration),
}

/// What a destination has done for it. Nothing here waits for the peer.
pub trait DestinationIo {
    /// The time.
    fn now(&self) -> Moment;
    /// Sends over the control connection.
    ///
    /// # Errors
    /// When the connection is lost.
    fn send(&mut self, message: &Message) -> Result<(), MotionError>;
    /// Answers a question, where it came from.
    fn answer(&mut self, question: Question, message: &Message);
    /// Lets data connections put pages into this RAM; [`Event::PassEnd`] follows.
    fn receive_into(&mut self, ram: Arc<dyn AsRam>);
    /// Bytes of pages that data connections have put into RAM in this motion.
    fn received(&self) -> u64;
    /// Ends the connections of the motion, but not those on which questions are asked.
    fn hang_up(&mut self);
    /// Keeps another stall limit.
    fn set_stall(&mut self, limit: Duration) {
        let _ = limit;
    }
    /// What decides who goes on with the guest, where the source is a process that shares its RAM.
    fn fate(&self) -> Option<&Fate> {
        None
    }
}

/// Something that keeps RAM alive while pages are put into it.
pub trait AsRam: Send + Sync {
    /// The RAM.
    fn as_ram(&self) -> &GuestRam;
}
