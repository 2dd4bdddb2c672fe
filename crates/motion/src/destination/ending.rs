//! How a motion ends at its destination without a guest.

use super::{Destination, DestinationIo, Phase};
use crate::handover::{DestinationHandover, DestinationPhase, Input, Verdict, Word};
use crate::report::ErrorReport;
use crate::rules::{Rule, keeps};
use crate::{MotionError, RamWay, Status};
use state::Code;
use std::time::Duration;
use wire::{Failed, Message};

/// After a failure the source may still have a word to say about the handover.
const HEAR_OUT: Duration = Duration::from_secs(2);
/// A source that gives up says why over the control connection, and closes all of them: what it said
/// may come a little later than the end of another.
const LAST_WORD: Duration = Duration::from_millis(500);

impl Destination {
    /// A data connection was lost, or what came over it was wrong.
    pub(super) fn data_lost(&mut self, error: MotionError, io: &mut dyn DestinationIo) {
        if error.code == Code::LinkLost && self.linked {
            self.data_ended.get_or_insert((io.now().after(LAST_WORD), error));
        } else {
            self.lost(error, io);
        }
    }

    /// A connection was lost, or a step failed. What that means depends on what was promised.
    pub(super) fn lost(&mut self, error: MotionError, io: &mut dyn DestinationIo) {
        match self.phase {
            Phase::Waiting | Phase::Ended => {}
            Phase::Greeted => self.turn_away(error, io),
            Phase::Receiving => self.fail(error, io),
            Phase::Ready => {
                tracing::warn!(%error, "lost the source after READY");
                self.linked = false;
                io.hang_up();
                // From here on the guest is stopped for want of this side, where RAM is shared.
                self.committed = io.now();
                // The handover never denies that a link was lost.
                let _ = self.drive(Input::LinkLost, io);
                self.settle_alone(io);
            }
            Phase::Holding => {
                self.linked = false;
                io.hang_up();
            }
            Phase::Owner => {
                self.linked = false;
                io.hang_up();
                self.settle_alone(io);
            }
            Phase::Failed => {
                self.linked = false;
                self.leave(io);
            }
        }
    }

    /// A source that shares RAM and is gone will not ask: it has the word.
    fn settle_alone(&mut self, io: &mut dyn DestinationIo) {
        let shared = self.phase == Phase::Owner && io.fate().is_some();
        if let Some(handover) = self.handover.as_ref().filter(|_| shared) {
            let heard = handover.particulars().token().says(Word::Answer(Verdict::Committed));
            // It is what an owner waits to hear.
            let _ = self.drive(Input::Received(heard), io);
        }
    }

    /// Somebody wants it to end.
    pub(super) fn cancel(&mut self, io: &mut dyn DestinationIo) -> Result<(), MotionError> {
        match self.phase {
            Phase::Waiting | Phase::Greeted | Phase::Failed => {
                self.phase = Phase::Ended;
                io.hang_up();
                Ok(())
            }
            Phase::Ended => Ok(()),
            Phase::Receiving => {
                self.options.keep_waiting = false;
                self.fail(MotionError::new(Code::Cancelled, "cancelled at the destination"), io);
                Ok(())
            }
            Phase::Ready | Phase::Holding | Phase::Owner => self.drive(Input::Cancel, io),
        }
    }

    /// Nothing was built and nothing promised: the source is told why not, and the next may come, unless
    /// there is none.
    fn turn_away(&mut self, error: MotionError, io: &mut dyn DestinationIo) {
        if self.linked {
            let message = if error.refusals.is_empty() {
                Message::Failed(Failed { code: error.code, why: error.why.clone() })
            } else {
                Message::Refused(error.refusals.clone())
            };
            // If it has gone there is nobody to tell.
            let _ = io.send(&message);
        }
        tracing::info!(%error, "a source went away, or was turned away");
        if self.options.ram != RamWay::Shared {
            return self.reset(io);
        }
        // One process replaces one other.
        self.linked &= !matches!(error.code, Code::LinkLost | Code::LinkStalled);
        self.close(error, io);
        if !self.linked {
            self.leave(io);
        }
    }

    /// The motion failed before READY. The guest is the source's.
    fn fail(&mut self, error: MotionError, io: &mut dyn DestinationIo) {
        let link = matches!(error.code, Code::LinkLost | Code::LinkStalled);
        if link {
            self.linked = false;
        } else if self.linked {
            let failed = Failed { code: error.code, why: error.why.clone() };
            // If it cannot be told it sees the connection end.
            let _ = io.send(&Message::Failed(failed));
        }
        self.close(error, io);
        // Nothing was promised: the handover has nothing to deny.
        let _ = self.drive(Input::Failed, io);
        if !self.linked {
            self.leave(io);
        }
    }

    /// Closes the report of a motion that brought no guest.
    pub(super) fn close(&mut self, error: MotionError, io: &mut dyn DestinationIo) {
        tracing::info!(%error, "the motion brought no guest");
        self.phase = Phase::Failed;
        self.progress.undecided = None;
        self.report.error = Some(ErrorReport { code: error.code, why: error.why });
        self.report.refusals = error.refusals;
        self.report.total_ns = crate::clock::nanos(io.now().since(self.begun));
        self.machine = None;
        self.data_ended = None;
        self.hear_out(io);
        self.set_status(Status::Failed);
        self.observer.finished(&self.report);
    }

    /// Whether the source has yet to hear that the guest is its own: that is on record.
    fn must_answer(&self) -> bool {
        let phase = self.handover.as_ref().map(DestinationHandover::phase);
        let refused = phase == Some(DestinationPhase::Refused { recorded: true });
        // A source that shares RAM has the word, and asks nobody.
        refused && self.options.ram != RamWay::Shared && keeps(Rule::RefusalsAreAnswered)
    }

    /// Stays for as long as the source may have something to say or to ask. One that gave its guest away
    /// asks what became of it until it hears that it was refused, and nobody else can tell it.
    pub(super) fn hear_out(&mut self, io: &mut dyn DestinationIo) {
        if self.phase == Phase::Failed {
            // Who waits for the next guest answers in between.
            let stays = self.must_answer() && !self.options.keep_waiting;
            self.hear_out_until = (!stays).then(|| io.now().after(HEAR_OUT));
        }
    }

    /// The source was heard out, or has gone.
    pub(super) fn leave(&mut self, io: &mut dyn DestinationIo) {
        if self.phase != Phase::Failed {
            return;
        }
        if self.options.keep_waiting {
            if let Some(handover) = self.handover.as_ref().filter(|_| self.must_answer()) {
                self.records.keep(handover);
            }
            self.reset(io);
        } else if self.must_answer() {
            io.hang_up();
        } else {
            self.phase = Phase::Ended;
            io.hang_up();
        }
    }

    /// Back to waiting, as if nobody had come.
    fn reset(&mut self, io: &mut dyn DestinationIo) {
        io.hang_up();
        self.linked = false;
        self.session = None;
        self.machine = None;
        self.handover = None;
        self.progress.handover = None;
        self.decided = None;
        self.settled = false;
        self.hear_out_until = None;
        self.data_ended = None;
        self.phase = Phase::Waiting;
    }
}
