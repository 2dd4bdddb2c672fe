//! The blackout, at the source: stop the guest, send what is left, hand it over.

use super::{Phase, Source, SourceIo};
use crate::clock::nanos;
use crate::handover::{
    self, Input, Journal, MemoryJournal, Notice, Output, Side, SourceHandover, SourcePhase, Timer,
};
use crate::ram::{Pass, PassKind};
use crate::report::{BlackoutReport, Undecided};
use crate::rules::{Rule, keeps};
use crate::{Blackout, MotionError, RamWay, Status};
use state::Code;
use std::sync::Arc;
use std::time::Duration;
use wire::{Message, State};

/// Kept of a promised blackout for what comes after READY: COMMIT, and the first instruction.
const RESERVE: Duration = Duration::from_millis(2);

impl Source {
    /// Stops the guest and takes its permit, which the handover holds from now on.
    pub(super) fn stop_guest(
        &mut self,
        io: &mut dyn SourceIo,
        predicted: Duration,
    ) -> Result<(), MotionError> {
        if self.was_running {
            self.machine.yield_to_guest();
        }
        self.times.stop = io.now();
        self.times.begun = self.was_running;
        self.times.predicted = predicted;
        if keeps(Rule::GuestStopsFirst) {
            self.machine.pause()?;
        }
        let permit = self.machine.surrender().ok_or_else(|| {
            MotionError::new(Code::NotOwner, "stopping the guest: it is not ours to hand over")
        })?;
        self.times.paused = io.now();
        self.times.bytes_before = self.report.ram.bytes;
        self.times.data_before = self.report.ram.data_pages + self.report.ram.zero_pages;
        if self.options.purpose.is_copy() {
            self.permit = Some(permit);
        } else {
            let handover = SourceHandover::begin(self.particulars.clone(), permit);
            self.progress.handover = Some(Arc::new(handover.standing()));
            self.handover = Some(handover);
        }
        Ok(())
    }

    /// Says that the guest was stopped, once, and not of one that stood still already.
    pub(super) fn tell_stopped(&mut self) {
        if self.was_running && !std::mem::replace(&mut self.times.told, true) {
            self.observer.stopped();
        }
    }

    /// Stops the guest and sends what is left.
    pub(super) fn switchover(
        &mut self,
        predicted: Duration,
        why: String,
        io: &mut dyn SourceIo,
    ) -> Result<(), MotionError> {
        tracing::debug!(?predicted, %why, "stopping the guest");
        self.progress.note.clone_from(&why);
        self.progress.stuck = false;
        self.report.switch = why;
        io.stay_awake(self.was_running && !self.options.pause_before_switchover);
        self.stop_guest(io, predicted)?;
        if self.options.pause_before_switchover {
            self.hold();
            return Ok(());
        }
        self.last_pages(io)
    }

    /// Sends the pages that were written since the last pass. The guest is stopped: there will be
    /// no more.
    pub(super) fn last_pages(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        if self.options.ram == RamWay::Shared {
            return self.only_state(io);
        }
        self.promise(io);
        self.timers.progress(io.now());
        let mut set = self.dirty()?;
        #[cfg(feature = "mutate")]
        crate::mutate::forget_dirty(self.machine.ram(), &mut set);
        if !keeps(Rule::LastPagesAreSent) {
            set = memory::PageSet::new(set.pages());
        }
        let count = set.count();
        let pass = Arc::new(Pass::new(self.next_number(), PassKind::Later, set, false));
        self.pass = Some(pass.clone());
        self.pass_begun = io.now();
        self.progress.pass = pass.number();
        self.progress.pass_pages = count;
        self.progress.pass_done = 0;
        if count <= io.inline_pages() {
            io.send_pass(&pass)?;
            self.send_state(io)
        } else {
            self.phase = Phase::LastPass;
            io.start_pass(&pass);
            Ok(())
        }
    }

    /// From here on it is timed whether the promise is kept. Nothing was promised of a guest that stood
    /// still already.
    pub(super) fn promise(&mut self, io: &mut dyn SourceIo) {
        if let Blackout::Limit(limit) = self.switch.blackout()
            && self.was_running
        {
            let reserve = (self.cost.round_trip * 2 + RESERVE).min(limit / 2);
            let allowed = self.times.waited + limit - reserve;
            let ready_by = self.times.stop.after(allowed);
            if keeps(Rule::ReadyIsTimed) {
                self.timers.ready_by = Some(ready_by);
            }
            // While this side waits for a link that takes nothing, no timer runs out.
            if keeps(Rule::SendingIsTimed) {
                io.send_by(Some(ready_by));
            }
            self.timers.enter_by =
                io.fate().map(|_| self.times.stop.after(self.times.waited + limit));
        }
    }

    /// Saves the state and sends it.
    pub(super) fn send_state(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        self.times.pages = io.now();
        if !self.report.frozen && self.pass.is_some() {
            let duration = io.now().since(self.pass_begun);
            let report = self.account(duration);
            self.report.passes.push(report);
        }
        let state = self.machine.save()?;
        #[cfg(feature = "mutate")]
        let state = crate::mutate::replay_msr(state);
        let state = state.encode();
        self.times.saved = io.now();
        self.check_copy_is_in_time(io)?;
        self.send_saved(state, io)
    }

    /// Sends a state that was saved.
    pub(super) fn send_saved(
        &mut self,
        state: Vec<u8>,
        io: &mut dyn SourceIo,
    ) -> Result<(), MotionError> {
        self.state_sent = true;
        io.send(&Message::State(State {
            state,
            run: self.was_running || !keeps(Rule::StoppedStaysStopped),
            data_pages: self.report.ram.data_pages,
            zero_pages: self.report.ram.zero_pages,
        }))?;
        self.timers.progress(io.now());
        self.phase = match self.options.purpose.is_copy() {
            true => Phase::Finishing,
            false => Phase::AwaitingReady,
        };
        // Told only now: nothing that is not needed happens before the state is on its way.
        self.tell_stopped();
        self.set_status(Status::Device);
        if self.options.purpose.is_copy() {
            self.copy_is_taken(io);
        }
        if !keeps(Rule::CommitWaitsForReady) {
            self.told(self.particulars.token().says(handover::Word::Ready), io);
        }
        Ok(())
    }

    /// The promise cannot be kept any more: the guest goes on here.
    pub(super) fn ready_is_late(&mut self, io: &mut dyn SourceIo) {
        let Blackout::Limit(limit) = self.switch.blackout() else { return };
        let why = format!(
            "the destination was not ready in time: the guest had been stopped for {}, {} was \
             promised and {} predicted",
            crate::switch::show(self.times.so_far(io.now())),
            crate::switch::show(limit),
            crate::switch::show(self.times.predicted),
        );
        self.fail(io, MotionError::new(Code::BudgetExceeded, why));
    }

    /// A message about the handover, by whichever way it came.
    pub(super) fn told(&mut self, message: handover::Message, io: &mut dyn SourceIo) {
        if self.handover.is_none() && self.options.purpose.is_copy() {
            return self.filed(message, io);
        }
        if self.handover.is_none() {
            let why = format!("the destination said {:?} before any handover", message.word);
            self.lost(io, MotionError::new(Code::ProtocolError, why));
            return;
        }
        if !self.state_sent && claims_guest(message.word) {
            // Nobody has a guest without its state: the only copy is here, whatever is claimed.
            let why = format!("the destination said {:?} before it had the state", message.word);
            self.lost(io, MotionError::new(Code::ProtocolError, why));
            return;
        }
        // It may have come in time to a process that stood still.
        if message.word == handover::Word::Ready && self.timers.ready_is_late(io.now()) {
            self.ready_is_late(io);
            return;
        }
        if let Err(error) = self.drive(Input::Received(message), io) {
            tracing::warn!(%error, "a message of the handover was not obeyed");
        }
    }

    /// Runs one step of the handover and does what it says, in its order.
    pub(super) fn drive(&mut self, input: Input, io: &mut dyn SourceIo) -> Result<(), MotionError> {
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
    fn show(&mut self, handover: &SourceHandover) {
        let phase = handover.phase().name();
        if self.progress.handover.as_ref().is_none_or(|before| before.phase != phase) {
            self.progress.handover = Some(Arc::new(handover.standing()));
            self.observer.handover(&self.report.token, phase);
        }
    }

    fn carry_out(&mut self, output: Output, io: &mut dyn SourceIo) {
        match output {
            Output::Send(message) => self.say(message, io),
            Output::Grant(permit) => self.take_back(permit, io),
            Output::SetTimer(timer) => self.timers.set(timer, io.now()),
            Output::ClearTimer(timer) => {
                self.timers.clear(timer);
                if timer == Timer::Ready {
                    io.send_by(None);
                }
            }
            Output::Notice(notice) => self.notice(notice, io),
            // Done by the handover itself, on its journal; and a source has no copy to discard.
            Output::Record(_) | Output::Forget | Output::Discard => {}
        }
    }

    fn say(&mut self, message: handover::Message, io: &mut dyn SourceIo) {
        // COMMIT is also said again: to a destination that asks, or when an operator gave the guest
        // away. Nothing begins anew by that.
        let commits = message.word == handover::Word::Commit && self.phase == Phase::AwaitingReady;
        if commits {
            self.phase = Phase::AwaitingRunning;
        }
        // What has to be said again goes another way: a link can be dead and nobody the wiser.
        let again = self.has_ended() && keeps(Rule::AbortGoesAnotherWay);
        if self.linked && !again {
            if commits {
                // Not after it: the destination may be running before this side goes on.
                self.times.committed = io.now();
            }
            match io.send(&handover::words::to_wire(message)) {
                // A destination that shares RAM need not have heard it: it asks the word.
                Ok(()) if message.word == handover::Word::Abort && io.fate().is_some() => {}
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(%error, "the control connection is gone");
                    self.linked = false;
                    if commits && io.fate().is_some() {
                        // As where it is lost after COMMIT.
                        self.blame(error);
                    }
                }
            }
        }
        io.ask(message);
    }

    fn notice(&mut self, notice: Notice, io: &mut dyn SourceIo) {
        match notice {
            Notice::Undecided => {
                self.phase = Phase::Undecided;
                self.linked = false;
                io.hang_up();
                self.progress.undecided = Some(self.undecided(io));
                self.progress.note = format!(
                    "undecided: COMMIT was sent and nothing came back; asking {} what became of it",
                    self.report.peer
                );
            }
            Notice::Decided(side) => self.decided = Some(side),
            Notice::Holding | Notice::Lost => {}
        }
    }

    fn undecided(&self, io: &mut dyn SourceIo) -> Undecided {
        Undecided {
            token: self.report.token.clone(),
            peer: self.report.peer.clone(),
            since_ns: nanos(io.now().since(self.begun)),
        }
    }

    /// Whether the guest stands still for no longer than it must.
    pub(super) fn is_in_haste(&self) -> bool {
        let last = self.phase == Phase::LastPass && !self.report.frozen;
        self.was_running && (last || self.awaits_word())
    }

    /// Whether the guest stands still until the other end says its next word.
    pub(super) fn awaits_word(&self) -> bool {
        matches!(self.phase, Phase::AwaitingReady | Phase::AwaitingRunning)
    }

    /// Whether the destination knows that the guest stays here.
    pub(super) fn is_settled(&self) -> bool {
        self.handover
            .as_ref()
            .is_some_and(|h| matches!(h.phase(), SourcePhase::Kept { settled: true }))
    }

    /// Ends the motion if the handover is decided.
    fn conclude(&mut self, io: &mut dyn SourceIo) {
        match (self.decided, self.phase) {
            (_, Phase::Ended) | (None, _) => {}
            (Some(Side::Peer), Phase::Settling) => {
                let phase = self.handover.as_ref().map(SourceHandover::phase);
                if phase == Some(SourcePhase::Confirmed) {
                    self.end(io);
                }
            }
            (Some(Side::Peer), _) => self.completed(io),
            // An operator gave the guest to a destination that had refused it: it comes back.
            (Some(Side::Here), Phase::Settling) if self.status == Status::Completed => {
                self.kept(io);
            }
            (Some(Side::Here), Phase::Settling) => {
                if self.is_settled() {
                    self.end(io);
                }
            }
            (Some(Side::Here), _) => self.kept(io),
        }
    }

    /// What the blackout was, by this side's clock and the round trip.
    pub(super) fn blackout_report(&self) -> Option<BlackoutReport> {
        let times = &self.times;
        // It is in a file, and runs nowhere.
        if self.report.file.is_some() && !self.options.purpose.is_copy() {
            return None;
        }
        if !times.has_gone_on() {
            return None;
        }
        // A copy of the beginning sends nothing before the guest goes on.
        let (pages, bytes) = match times.kept {
            Some(_) => (0, 0),
            None => {
                let ram = &self.report.ram;
                let pages = ram.data_pages + ram.zero_pages - times.data_before;
                (pages, ram.bytes - times.bytes_before)
            }
        };
        Some(BlackoutReport {
            ns: times.blackout_ns(),
            uncertainty_ns: times.uncertainty_ns(),
            predicted_ns: nanos(times.predicted),
            limit_ns: match self.switch.blackout() {
                Blackout::Limit(limit) if !self.report.frozen => Some(nanos(limit)),
                _ => None,
            },
            pages,
            bytes,
            stages: times.stages(),
        })
    }
}

/// Whether only a destination that has the whole guest can say so.
fn claims_guest(word: handover::Word) -> bool {
    use handover::{Verdict, Word};
    match word {
        Word::Ready | Word::Running | Word::Answer(Verdict::Committed) => true,
        Word::Commit
        | Word::Abort
        | Word::Query
        | Word::Answer(Verdict::Refused | Verdict::Unknown) => false,
    }
}
