//! RAM that stays where it is: the destination has the same memory file, and nothing of it is sent.

use super::{Phase, Source, SourceIo};
use crate::handover::{Fate, Verdict};
use crate::rules::{Rule, keeps};
use crate::{Blackout, MotionError, Status};
use state::Code;

impl Source {
    /// Stops the guest as soon as the destination has what does not depend on that.
    pub(super) fn share(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        self.set_status(Status::Active);
        self.machine.send_ahead()?;
        let predicted = self.cost.total();
        self.progress.predicted_blackout_ns = crate::clock::nanos(predicted);
        let why = "RAM stays where it is: there is nothing to send but state".to_owned();
        self.switchover(predicted, why, io)
    }

    /// Sends the state of a guest whose RAM the destination has.
    pub(super) fn only_state(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        self.promise(io);
        self.timers.progress(io.now());
        self.send_state(io)
    }

    /// Whether the destination has gone on with the guest, so that it is not this side's to keep.
    /// If it has not, it never will.
    pub(super) fn has_lost_it(io: &dyn SourceIo) -> bool {
        io.fate().is_some_and(|fate| fate.settle() == Verdict::Committed)
    }

    /// The time that was promised is over. The destination has had the word to go on, and may still be
    /// forestalled unless it has.
    pub(super) fn entering_is_late(&mut self, io: &mut dyn SourceIo) {
        let Blackout::Limit(limit) = self.switch.blackout() else { return };
        let waits = self.phase == Phase::AwaitingRunning && io.fate().is_some_and(Fate::keep);
        if waits && keeps(Rule::EnteringIsTimed) {
            let why = format!(
                "the destination was ready and has not gone on with the guest in time: it had been \
                 stopped for {}, {} was promised",
                crate::switch::show(self.times.so_far(io.now())),
                crate::switch::show(limit),
            );
            self.fail(io, MotionError::new(Code::BudgetExceeded, why));
        }
    }
}
