//! The phases of a source, and what goes in and out of it.

use crate::clock::Moment;
use crate::handover::{self, Fate};
use crate::ram::Pass;
use crate::report::FileReport;
use crate::{Blackout, CopyReport, MachineError, MotionError, SourceMachine};
use memory::PageSet;
use state::Code;
use state::Refusal;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use wire::Message;

/// Where a source is. In this order, but for failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Making the control connection and greeting.
    Connecting,
    /// The destination looks at the machine's description and builds one like it.
    Checking,
    /// Making the data connections.
    Joining,
    /// The log of writes to RAM is switched on, which can take as long as a page takes that a vCPU waits for.
    Arming,
    /// The workers send a pass.
    Passing,
    /// All of a pass is sent; the destination has not got all of it yet.
    Draining,
    /// The guest writes too fast for the promise: a pause before the next pass.
    Resting,
    /// The guest is stopped, and somebody wanted a say before it goes on.
    PreSwitchover,
    /// The guest is stopped; the workers send the last pages.
    LastPass,
    /// The state is sent; the destination loads it.
    AwaitingReady,
    /// COMMIT is sent.
    AwaitingRunning,
    /// COMMIT is sent and nothing came back: it asks, or waits for an operator.
    Undecided,
    /// A copy is taken, and its guest goes on here; what was written becomes durable.
    Finishing,
    /// The copy is being marked as complete.
    Completing,
    /// The motion has failed, and the log of writes is still to be switched off.
    Disarming,
    /// The motion has ended, and the destination is still to be told that the guest stays here.
    Settling,
    /// Nothing is left to do.
    Ended,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The control connection is made and the destination has answered the greeting.
    Welcomed {
        /// The destination's wall clock less ours, in nanoseconds, as far as can be told.
        clock_ahead: i64,
        /// What greeting and answer took.
        round_trip: Duration,
    },
    /// The destination refused a connection.
    Refused(Vec<Refusal>),
    /// A connection could not be made, or was lost.
    Lost(MotionError),
    /// All data connections are made.
    Joined,
    /// The log of writes to RAM was switched on or off, or could not be.
    Logged(Result<(), MotionError>),
    /// A message came over the control connection.
    Message(Message),
    /// Every page of the pass is on its way.
    PassSent,
    /// An answer about the handover came over a connection made for the question.
    Told(handover::Message),
    /// A question about the handover could not be put to the destination.
    NotAsked,
    /// The other end, a file, was not completed after COMMIT, and never will be.
    Denied(MotionError),
    /// What there is to say of a file.
    Filed(FileReport),
    /// All of RAM was copied as it was at the beginning; how.
    Copied(Box<CopyReport>),
    /// Time has passed.
    Tick,
}

/// What somebody wants of a motion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// End it; the guest stays here.
    Cancel,
    /// Go on after [`Phase::PreSwitchover`].
    Proceed,
    /// Promise something else.
    SetBlackout(Blackout),
    /// Send no more than this many bytes per second.
    SetBandwidth(Option<NonZeroU64>),
    /// Predict with this rate of the last pages, in bytes per second; `None` is what was measured.
    SetSwitchoverBandwidth(Option<NonZeroU64>),
    /// Put up with a silent or stuck peer for so long, from now on.
    SetStall(Duration),
    /// The guest shut down or was reset.
    GuestGone,
    /// Decide an undecided handover.
    Resolve {
        /// Who is to own the guest.
        owner: handover::Side,
        /// The other side can no longer run it.
        fenced: bool,
    },
    /// Ask the destination what became of the handover, now.
    Ask,
}

/// What a source has done for it. Nothing here waits for the peer.
pub trait SourceIo {
    /// The time.
    fn now(&self) -> Moment;
    /// Makes the control connection; [`Event::Welcomed`], `Refused` or `Lost` follows.
    fn dial(&mut self);
    /// Makes the data connections; [`Event::Joined`], `Refused` or `Lost` follows.
    fn join(&mut self, count: u16);
    /// Switches the log of writes to this machine's RAM on or off. `None` where it is being done, since it may
    /// take long: then [`Event::Logged`] follows.
    fn log(
        &mut self,
        machine: &Arc<dyn SourceMachine>,
        on: bool,
    ) -> Option<Result<(), MotionError>> {
        Some(switch_log(&**machine, on))
    }
    /// Sends over the control connection.
    ///
    /// # Errors
    /// When the connection is lost.
    fn send(&mut self, message: &Message) -> Result<(), MotionError>;
    /// No sending over the control connection may wait beyond this moment; `None` leaves only the
    /// stall limit.
    fn send_by(&mut self, moment: Option<Moment>);
    /// All that is against it for this end's sake.
    fn refusals(&self) -> Vec<Refusal> {
        Vec::new()
    }
    /// What whoever begins a motion to this end should know, though nothing is against it.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
    /// The longest description that the other end takes, in bytes.
    fn most_description(&self) -> u64 {
        u64::MAX
    }
    /// Up to so many last pages are sent by [`Self::send_pass`]: waking the workers would take longer.
    fn inline_pages(&self) -> u64 {
        256
    }
    /// Sends a whole pass, and its end, over the control connection.
    ///
    /// # Errors
    /// When the connection is lost or RAM cannot be read.
    fn send_pass(&mut self, pass: &Pass) -> Result<(), MotionError>;
    /// Keeps RAM as it is now, while the guest stands still, until it is sent: from here on whoever
    /// writes it waits until what was there is copied. Which pages have to be sent; all others were never
    /// touched.
    ///
    /// # Errors
    /// The other end cannot do that, or did not by then.
    fn keep_ram(&mut self, by: Option<Moment>) -> Result<PageSet, MotionError> {
        let _ = by;
        let why = "only a file takes a copy of the moment when it began";
        Err(MotionError::new(Code::Unsupported, why))
    }
    /// Has the workers send a pass, and its end on every data connection; [`Event::PassSent`] or
    /// `Lost` follows.
    fn start_pass(&mut self, pass: &Arc<Pass>);
    /// For how long a destination that has not heard who has the guest is told again. `None` is for as long
    /// as it takes.
    fn tells_for(&self) -> Option<Duration> {
        None
    }
    /// Puts this to the destination over a new connection; [`Event::Told`] or `NotAsked` follows.
    fn ask(&mut self, message: handover::Message);
    /// Keeps another bandwidth limit.
    fn set_bandwidth(&mut self, limit: Option<NonZeroU64>);
    /// Keeps another stall limit.
    fn set_stall(&mut self, limit: Duration) {
        let _ = limit;
    }
    /// Has processors stay awake that would sleep, or lets them again: the guest stands still, and a chain of
    /// threads of which each wakes the next decides for how long. Told again and again.
    fn stay_awake(&mut self, awake: bool) {
        let _ = awake;
    }
    /// Ends the data connections and the workers, at once.
    fn stop_workers(&mut self);
    /// Ends all connections.
    fn hang_up(&mut self);
    /// What decides who goes on with the guest, where the destination is a process that shares its RAM.
    fn fate(&self) -> Option<&Fate> {
        None
    }
}

/// Switches the log of writes to RAM on or off. KVM waits with that for every vCPU that is inside it, and such a vCPU
/// may wait for a page that is yet to come.
pub(super) fn switch_log(machine: &dyn SourceMachine, on: bool) -> Result<(), MotionError> {
    let log = machine.dirty_log();
    let (switched, what) = match on {
        true => (log.start(), "logging writes to guest RAM"),
        false => (log.stop(), "ending the log of writes to guest RAM"),
    };
    switched.map_err(|e| MachineError::new(Code::Kvm, what, e).into())
}
