//! The handover at the destination, questions about it, and what time brings.

use super::{Destination, DestinationIo, Phase, Question};
use crate::handover::words::to_wire;
use crate::handover::{
    self, Denial, DestinationHandover, HandoverError, Input, Journal, MemoryJournal, Notice,
    Output, Side, Timer, Token,
};
use crate::report::Undecided;
use crate::rules::{Rule, keeps};
use crate::{MotionError, Status};
use state::Code;
use std::sync::Arc;
use std::time::Duration;
use wire::Message;

/// How long a source may take to describe its machine: others wait behind it.
const DESCRIBING: Duration = Duration::from_secs(60);

impl Destination {
    /// Somebody asked about a token, over a connection made for that.
    pub(super) fn asked(
        &mut self,
        question: Question,
        message: handover::Message,
        io: &mut dyn DestinationIo,
    ) {
        if !keeps(Rule::QuestionsAreAnswered) {
            return;
        }
        let ours = self.handover.as_ref().is_some_and(|h| h.particulars().token() == message.token);
        if ours {
            if message.word == handover::Word::Commit {
                self.committed = io.now();
            }
            self.asked = Some(question);
            if let Err(error) = self.drive(Input::Received(message), io) {
                tracing::warn!(%error, "a question about the handover was not answered");
            }
            self.asked = None;
            self.hear_out(io);
        } else if let Some(mut journal) = self.journal.take() {
            if let Some(answer) = self.records.answer(message, &mut *journal) {
                io.answer(question, &to_wire(answer));
            }
            self.journal = Some(journal);
        }
    }

    /// An operator decides: for this side, or for a dead process whose record this one has taken over.
    pub(super) fn resolve(
        &mut self,
        token: Token,
        input: Input,
        io: &mut dyn DestinationIo,
    ) -> Result<(), MotionError> {
        if self.handover.as_ref().is_some_and(|h| h.particulars().token() == token) {
            return self.drive(input, io);
        }
        let none = || MotionError::from(HandoverError { token, why: Denial::NoSuchToken });
        let mut journal = self.journal.take().ok_or_else(none)?;
        let result = self.records.resolve(token, input, &mut *journal);
        self.journal = Some(journal);
        result.unwrap_or_else(|| Err(none()))
    }

    /// Runs one step of the handover and does what it says, in its order.
    pub(super) fn drive(
        &mut self,
        input: Input,
        io: &mut dyn DestinationIo,
    ) -> Result<(), MotionError> {
        // One after the other: neither may be lost where the other is missing.
        let none = || MotionError::new(Code::InvalidState, "no handover is under way");
        let mut handover = self.handover.take().ok_or_else(none)?;
        let input = io.fate().map_or(input, |fate| handover.fated(input, fate));
        let Some(mut journal) = self.journal.take() else {
            self.handover = Some(handover);
            return Err(none());
        };
        let mut nowhere = MemoryJournal::default();
        // Nobody comes after a guest whose RAM dies with both, to whom a record would say anything.
        let record: &mut dyn Journal =
            if io.fate().is_some() { &mut nowhere } else { &mut *journal };
        let result = handover.drive(input, record, &mut |output| self.carry_out(output, io));
        let in_doubt = handover.may_end().is_err().then(|| self.undecided(io));
        let known = keeps(Rule::DoubtIsKnown);
        self.progress.in_doubt = if known { in_doubt } else { self.progress.undecided.clone() };
        self.show(&handover);
        self.handover = Some(handover);
        self.journal = Some(journal);
        self.conclude(io);
        result.map_err(MotionError::from)
    }

    /// Shows how the handover stands, and tells whoever watches.
    fn show(&mut self, handover: &DestinationHandover) {
        let phase = handover.phase().name();
        if self.progress.handover.as_ref().is_none_or(|before| before.phase != phase) {
            self.progress.handover = Some(Arc::new(handover.standing()));
            self.observer.handover(&self.report.token, phase);
        }
    }

    fn carry_out(&mut self, output: Output, io: &mut dyn DestinationIo) {
        match output {
            Output::Send(message) => self.say(message, io),
            Output::Grant(permit) => self.own(permit, io),
            Output::Discard => self.machine = None,
            Output::SetTimer(Timer::Hold) => {
                self.hold_until = self.options.hold.map(|hold| io.now().after(hold));
            }
            Output::ClearTimer(Timer::Hold) => self.hold_until = None,
            // The other timers are a source's.
            Output::SetTimer(_) | Output::ClearTimer(_) => {}
            Output::Notice(notice) => self.notice(notice, io),
            // The source knows, and will not ask again.
            Output::Forget => self.settled = true,
            // Done by the handover itself, on its journal.
            Output::Record(_) => {}
        }
    }

    fn say(&mut self, message: handover::Message, io: &mut dyn DestinationIo) {
        let message = match to_wire(message) {
            Message::Ready(ready) => {
                Message::Ready(wire::Ready { restore: self.restore_ns, ..ready })
            }
            Message::Running(running) => {
                let held = crate::clock::nanos(io.now().since(self.committed));
                Message::Running(wire::Running { start: self.start_ns, held, ..running })
            }
            other => other,
        };
        match self.asked {
            Some(question) => io.answer(question, &message),
            // If it is lost, the source asks.
            None if self.linked => {
                if let Err(error) = io.send(&message) {
                    tracing::debug!(%error, "the control connection is gone");
                }
            }
            None => {}
        }
    }

    fn notice(&mut self, notice: Notice, io: &mut dyn DestinationIo) {
        match notice {
            Notice::Holding => {
                self.phase = Phase::Holding;
                self.progress.undecided = Some(self.undecided(io));
                "holding a complete guest whose source was lost; it waits for the source's word \
                 or for `handover resolve`"
                    .clone_into(&mut self.progress.note);
            }
            Notice::Decided(side) => self.decided = Some(side),
            Notice::Undecided | Notice::Lost => {}
        }
    }

    fn undecided(&self, io: &mut dyn DestinationIo) -> Undecided {
        Undecided {
            token: self.report.token.clone(),
            peer: self.report.peer.clone(),
            since_ns: crate::clock::nanos(io.now().since(self.begun)),
        }
    }

    /// Closes the motion if the handover is decided.
    fn conclude(&mut self, io: &mut dyn DestinationIo) {
        match self.decided {
            Some(Side::Here) if !self.status.is_terminal() => self.arrived(io),
            Some(Side::Peer)
                if matches!(self.phase, Phase::Receiving | Phase::Ready | Phase::Holding) =>
            {
                let why = "the source kept the guest";
                self.close(MotionError::new(Code::PeerFailed, why), io);
            }
            _ => {}
        }
        if self.settled && self.phase == Phase::Owner {
            self.phase = Phase::Ended;
            io.hang_up();
        }
    }

    /// The guest is here, for good.
    fn arrived(&mut self, io: &mut dyn DestinationIo) {
        self.progress.undecided = None;
        self.progress.note.clear();
        self.report.total_ns = crate::clock::nanos(io.now().since(self.begun));
        self.set_status(Status::Completed);
        self.observer.finished(&self.report);
    }

    /// When [`super::Event::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<crate::clock::Moment> {
        let stall = self.must_hear().then(|| self.heard.after(self.options.stall_limit));
        let described = self.must_describe().then(|| self.begun.after(DESCRIBING));
        let last_word = self.data_ended.as_ref().map(|(at, _)| *at);
        [stall, described, self.hold_until, self.hear_out_until, last_word]
            .into_iter()
            .flatten()
            .min()
    }

    fn must_hear(&self) -> bool {
        self.linked
            && matches!(self.phase, Phase::Greeted | Phase::Receiving | Phase::Ready)
            && keeps(Rule::SourceSilenceIsNoticed)
    }

    fn must_describe(&self) -> bool {
        self.linked && self.phase == Phase::Greeted
    }

    pub(super) fn look_at_timers(&mut self, io: &mut dyn DestinationIo) {
        let now = io.now();
        if self.must_describe() && now.since(self.begun) >= DESCRIBING {
            let why = "the source has not said in a minute what machine is to come";
            self.lost(MotionError::new(Code::LinkStalled, why), io);
        }
        self.progress.elapsed_ns = crate::clock::nanos(now.since(self.begun));
        if self.must_hear() && now.since(self.heard) >= self.options.stall_limit {
            let seconds = self.options.stall_limit.as_secs_f64();
            let why = format!("nothing came from the source for {seconds} s");
            self.lost(MotionError::new(Code::LinkStalled, why), io);
        }
        if let Some((_, error)) = self.data_ended.take_if(|(at, _)| *at <= now)
            && self.phase == Phase::Receiving
        {
            self.lost(error, io);
        }
        if self.hold_until.is_some_and(|at| at <= now) {
            self.hold_until = None;
            // A timer that runs out cannot be denied.
            let _ = self.drive(Input::Expired(Timer::Hold), io);
        }
        if self.hear_out_until.is_some_and(|at| at <= now) {
            self.hear_out_until = None;
            self.leave(io);
        }
    }
}
