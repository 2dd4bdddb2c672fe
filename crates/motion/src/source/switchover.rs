//! The blackout, at the source: stop the guest, send what is left, hand it over.

use super::core::wire_message;
use super::{Phase, Source, SourceIo};
use crate::clock::{Moment, nanos};
use crate::handover::{self, Input, Notice, Output, Side, SourceHandover, SourcePhase, Timer};
use crate::ram::{Pass, PassKind};
use crate::report::{BlackoutReport, Stage, StageName, Undecided};
use crate::{Blackout, MotionError, Status};
use state::Code;
use std::sync::Arc;
use std::time::Duration;
use wire::{Message, State};

/// Up to so many last pages are sent by the coordinator itself, over the control connection: waking
/// the workers would take longer.
const INLINE_PAGES: u64 = 256;
/// Kept of a promised blackout for what comes after READY: COMMIT, and the first instruction.
const RESERVE: Duration = Duration::from_millis(2);

/// The moments of a blackout.
#[derive(Debug, Default)]
pub(super) struct Times {
    stop: Moment,
    paused: Moment,
    pages: Moment,
    saved: Moment,
    ready: Moment,
    committed: Moment,
    running: Moment,
    restore_ns: u64,
    start_ns: u64,
    predicted: Duration,
    bytes_before: u64,
    data_before: u64,
    /// Waiting in [`Phase::PreSwitchover`] is no part of what was promised.
    waited: Duration,
    pub(super) begun: bool,
    /// That the guest was stopped has been told.
    told: bool,
}

impl Times {
    /// Notes the times that a message of the handover brings.
    pub(super) fn heard(&mut self, message: &Message, now: Moment) {
        match message {
            Message::Ready(ready) => {
                self.ready = now;
                self.restore_ns = ready.restore;
            }
            Message::Running(running) => {
                self.running = now;
                self.start_ns = running.start;
            }
            _ => {}
        }
    }

    /// How long the guest has been stopped.
    pub(super) fn so_far(&self, now: Moment) -> Duration {
        now.since(self.stop)
    }
}

impl Source {
    /// Stops the guest and takes its permit, which the handover holds from now on.
    pub(super) fn stop_guest(
        &mut self,
        io: &mut dyn SourceIo,
        predicted: Duration,
    ) -> Result<(), MotionError> {
        self.times.stop = io.now();
        self.times.begun = self.was_running;
        self.times.predicted = predicted;
        self.machine.pause()?;
        let permit = self.machine.surrender().ok_or_else(|| {
            MotionError::new(Code::NotOwner, "stopping the guest: it is not ours to hand over")
        })?;
        self.times.paused = io.now();
        self.times.bytes_before = self.report.ram.bytes;
        self.times.data_before = self.report.ram.data_pages + self.report.ram.zero_pages;
        self.handover = Some(SourceHandover::begin(self.particulars.clone(), permit));
        Ok(())
    }

    /// Says that the guest was stopped, once.
    pub(super) fn tell_stopped(&mut self) {
        if !std::mem::replace(&mut self.times.told, true) {
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
        self.report.switch = why;
        self.stop_guest(io, predicted)?;
        if self.options.pause_before_switchover {
            self.phase = Phase::PreSwitchover;
            self.tell_stopped();
            self.set_status(Status::PreSwitchover);
            return Ok(());
        }
        self.last_pages(io)
    }

    /// Sends the pages that were written since the last pass. The guest is stopped: there will be
    /// no more.
    pub(super) fn last_pages(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        if self.phase == Phase::PreSwitchover {
            self.times.waited = io.now().since(self.times.paused);
        }
        if let Blackout::Limit(limit) = self.switch.blackout() {
            let reserve = (self.cost.round_trip * 2 + RESERVE).min(limit / 2);
            let allowed = self.times.waited + limit - reserve;
            let ready_by = self.times.stop.after(allowed);
            self.timers.ready_by = Some(ready_by);
            // While this side waits for a link that takes nothing, no timer runs out.
            io.send_by(Some(ready_by));
        }
        self.timers.progress(io.now());
        #[cfg_attr(not(feature = "mutate"), expect(unused_mut, reason = "a test forgets a page"))]
        let mut set = self.dirty()?;
        #[cfg(feature = "mutate")]
        crate::mutate::forget_dirty(self.machine.ram(), &mut set);
        let count = set.count();
        let pass = Arc::new(Pass::new(self.next_number(), PassKind::Later, set, false));
        self.pass = Some(pass.clone());
        self.pass_begun = io.now();
        self.progress.pass = pass.number();
        self.progress.pass_pages = count;
        self.progress.pass_done = 0;
        if count <= INLINE_PAGES {
            io.send_pass(&pass)?;
            self.send_state(io)
        } else {
            self.phase = Phase::LastPass;
            io.start_pass(&pass);
            Ok(())
        }
    }

    /// Saves the state and sends it.
    pub(super) fn send_state(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        self.times.pages = io.now();
        if !self.report.frozen {
            let duration = io.now().since(self.pass_begun);
            let report = self.account(duration);
            self.report.passes.push(report);
        }
        let state = self.machine.save()?;
        #[cfg(feature = "mutate")]
        let state = crate::mutate::replay_msr(state);
        let state = state.encode();
        self.times.saved = io.now();
        io.send(&Message::State(State {
            state,
            run: self.was_running,
            data_pages: self.report.ram.data_pages,
            zero_pages: self.report.ram.zero_pages,
        }))?;
        self.phase = Phase::AwaitingReady;
        self.timers.progress(io.now());
        // Told only now: nothing that is not needed happens before the state is on its way.
        if self.was_running {
            self.tell_stopped();
        }
        self.set_status(Status::Device);
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
        if self.handover.is_none() {
            let why = format!("the destination said {:?} before any handover", message.word);
            self.lost(io, MotionError::new(Code::ProtocolError, why));
            return;
        }
        let early = message.word == handover::Word::Ready && self.phase != Phase::AwaitingReady;
        if early && !self.is_decided() {
            let why = "the destination said it was ready before it had the state";
            self.lost(io, MotionError::new(Code::ProtocolError, why));
            return;
        }
        if let Err(error) = self.drive(Input::Received(message), io) {
            tracing::warn!(%error, "a message of the handover was not obeyed");
        }
    }

    /// Runs one step of the handover and does what it says, in its order.
    pub(super) fn drive(&mut self, input: Input, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        let (Some(mut handover), Some(mut journal)) = (self.handover.take(), self.journal.take())
        else {
            return Err(MotionError::new(Code::InvalidState, "no handover is under way"));
        };
        let result = handover.drive(input, &mut *journal, &mut |output| self.carry_out(output, io));
        self.handover = Some(handover);
        self.journal = Some(journal);
        self.conclude(io);
        result.map_err(MotionError::from)
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
        // COMMIT is said again, in a motion that has ended, when an operator gave the guest away.
        if message.word == handover::Word::Commit && !self.is_decided() {
            self.phase = Phase::AwaitingRunning;
        }
        // What has to be said again goes another way: a link can be dead and nobody the wiser.
        if self.linked && !self.has_ended() {
            match io.send(&wire_message(message)) {
                Ok(()) => {
                    if message.word == handover::Word::Commit {
                        self.times.committed = io.now();
                    }
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "the control connection is gone");
                    self.linked = false;
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
                let token = self.report.token.clone();
                self.progress.undecided = Some(Undecided {
                    token: token.clone(),
                    peer: self.report.peer.clone(),
                    since_ns: nanos(io.now().since(self.begun)),
                });
                self.progress.note = format!(
                    "undecided: COMMIT was sent and nothing came back; asking {} what became of it",
                    self.report.peer
                );
                self.observer.undecided(&token);
            }
            Notice::Decided(side) => self.decided = Some(side),
            Notice::Holding | Notice::Lost => {}
        }
    }

    /// Whether it is decided who owns the guest.
    pub(super) fn is_decided(&self) -> bool {
        self.decided.is_some()
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
        let t = &self.times;
        if !t.begun || t.running == Moment::default() {
            return None;
        }
        let between = |from: Moment, to: Moment| nanos(to.since(from));
        let answer = between(t.committed, t.running).saturating_sub(t.start_ns);
        // COMMIT's way there belongs to the blackout, RUNNING's way back does not.
        let there = answer / 2;
        let transfer = between(t.saved, t.ready).saturating_sub(t.restore_ns);
        let ns = between(t.stop, t.committed) + there + t.start_ns;
        let stage = |name, ns| Stage { name, ns };
        Some(BlackoutReport {
            ns,
            uncertainty_ns: answer - there,
            predicted_ns: nanos(t.predicted),
            limit_ns: match self.switch.blackout() {
                Blackout::Limit(limit) if !self.report.frozen => Some(nanos(limit)),
                _ => None,
            },
            pages: self.report.ram.data_pages + self.report.ram.zero_pages - t.data_before,
            bytes: self.report.ram.bytes - t.bytes_before,
            stages: vec![
                stage(StageName::Pause, between(t.stop, t.paused)),
                stage(StageName::Waiting, nanos(t.waited)),
                stage(
                    StageName::LastPages,
                    between(t.paused, t.pages).saturating_sub(nanos(t.waited)),
                ),
                stage(StageName::Save, between(t.pages, t.saved)),
                stage(StageName::Transfer, transfer),
                stage(StageName::Restore, t.restore_ns),
                stage(StageName::Commit, between(t.ready, t.committed)),
                stage(StageName::Answer, there),
                stage(StageName::Start, t.start_ns),
            ],
        })
    }
}
