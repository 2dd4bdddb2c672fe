//! RAM that stays where it is: the destination has the same memory file, and nothing of it is sent.

use super::{Phase, Source, SourceIo};
use crate::handover::{Fate, Input, Side, SourcePhase, Timer, Verdict, Word};
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
        let why = "the destination has the same RAM: there is nothing to send but state".to_owned();
        self.switchover(predicted, why, io)
    }

    /// Sends the state of a guest whose RAM the destination has.
    pub(super) fn only_state(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        self.promise(io);
        self.timers.progress(io.now());
        self.send_state(io)
    }

    /// Where the destination shares the guest's RAM it may have gone on by now, and silence leaves
    /// nothing undecided: what would have this side keep the guest, or ask for it, is answered by the
    /// word that both see.
    pub(super) fn fated(&self, input: Input, io: &dyn SourceIo) -> Input {
        let Some((fate, handover)) = io.fate().zip(self.handover.as_ref()) else { return input };
        let phase = handover.phase();
        let is_open = matches!(phase, SourcePhase::Offered | SourcePhase::Committing);
        let settles = match input {
            Input::LinkLost | Input::Failed => is_open,
            Input::Expired(timer) => is_open && matches!(timer, Timer::Ready | Timer::Reply),
            // After COMMIT it is too late for that.
            Input::Cancel => phase == SourcePhase::Offered,
            Input::Resolve { owner, fenced } => is_open && fenced && owner == Side::Here,
            Input::Received(message) => message.word == Word::Answer(Verdict::Refused),
            Input::Complete | Input::Cont | Input::RecordFailed => false,
        };
        if settles && keeps(Rule::WordNeedsNoAnswer) {
            let token = handover.particulars().token();
            return Input::Received(token.says(Word::Answer(fate.settle())));
        }
        input
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
