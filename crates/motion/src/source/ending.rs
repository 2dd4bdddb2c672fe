//! How a motion ends at its source. Every failure comes here.

use super::phase::switch_log;
use super::{Phase, Source, SourceIo};
use crate::clock::nanos;
use crate::handover::{Input, RunPermit, Side, SourceHandover, SourcePhase};
use crate::report::ErrorReport;
use crate::rules::{Rule, keeps};
use crate::{MotionError, Status};
use memory::{PageRange, PageSet};
use state::Code;
use wire::{Failed, Message};

impl Source {
    /// A connection was lost, the peer failed, or a step did. What that means depends on who owns
    /// the guest.
    pub(super) fn lost(&mut self, io: &mut dyn SourceIo, error: MotionError) {
        match self.phase {
            Phase::Disarming | Phase::Ended => {}
            Phase::Settling | Phase::Undecided => {
                self.linked = false;
                io.hang_up();
            }
            Phase::AwaitingRunning => {
                tracing::warn!(%error, "lost the destination after COMMIT");
                self.linked = false;
                if io.fate().is_some() {
                    // It is decided at once, and then that is why.
                    self.blame(error);
                }
                // The handover never denies that a link was lost.
                let _ = self.drive(Input::LinkLost, io);
            }
            _ => {
                self.linked &=
                    !matches!(error.code, Code::LinkLost | Code::LinkStalled | Code::ConnectFailed);
                // Sending was not done in time: it is the promise that ends the motion.
                if error.code == Code::LinkStalled && self.timers.ready_is_late(io.now()) {
                    self.ready_is_late(io);
                } else {
                    self.fail(io, error);
                }
            }
        }
    }

    /// Somebody wants the motion to end.
    pub(super) fn cancel(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        match self.phase {
            Phase::AwaitingRunning | Phase::Undecided => self.drive(Input::Cancel, io),
            // It was noticed where the coordinator waited for the destination.
            Phase::Disarming | Phase::Settling | Phase::Ended if self.was_cancelled() => Ok(()),
            Phase::Disarming | Phase::Settling | Phase::Ended => {
                Err(MotionError::new(Code::InvalidState, "the motion has ended already"))
            }
            Phase::Completing => Err(MotionError::new(
                Code::TooLate,
                "the copy is being marked as complete: it cannot be cancelled any more",
            )),
            _ => {
                self.fail(io, MotionError::new(Code::Cancelled, "the motion was cancelled"));
                if self.decided == Some(Side::Peer) {
                    let why = "the destination has gone on with the guest";
                    return Err(MotionError::new(Code::TooLate, why));
                }
                Ok(())
            }
        }
    }

    /// The guest shut down or was reset: there is nothing left to move.
    pub(super) fn guest_gone(&mut self, io: &mut dyn SourceIo) {
        // What is kept of it is whole, whatever becomes of it.
        let is_kept = self.kept_state.is_some();
        let too_late = matches!(
            self.phase,
            Phase::AwaitingRunning
                | Phase::Undecided
                | Phase::Finishing
                | Phase::Completing
                | Phase::Disarming
                | Phase::Settling
                | Phase::Ended
        );
        if !too_late && !is_kept {
            self.guest_gone = true;
            let why = "the guest shut down or was reset during the motion";
            self.fail(io, MotionError::new(Code::GuestGone, why));
        }
    }

    /// The one error path before COMMIT: the guest goes on here, the destination is told, logging
    /// ends, the report is kept.
    ///
    /// Dirty bits need no merging back into a log that ends: the next motion begins with all of RAM
    /// unsent, and whatever the log forgot by then is sent again.
    pub(super) fn fail(&mut self, io: &mut dyn SourceIo, error: MotionError) {
        tracing::info!(%error, phase = ?self.phase, "the motion ends here");
        if let Some(pass) = &self.pass {
            pass.stop();
        }
        if self.handover.is_some() && Self::has_lost_it(io) {
            // It stood still for long, and what failed here has become of no account.
            let _ = self.drive(Input::Failed, io);
            return;
        }
        let cancelled = error.code == Code::Cancelled;
        self.set_status(if cancelled { Status::Cancelling } else { Status::Failing });
        self.report.refusals.clone_from(&error.refusals);
        self.report.error = Some(ErrorReport { code: error.code, why: error.why.clone() });
        if self.handover.is_some() {
            let input = if cancelled { Input::Cancel } else { Input::Failed };
            if let Err(error) = self.drive(input, io) {
                tracing::warn!(%error, "ending the handover");
            }
            return;
        }
        if let Some(permit) = self.permit.take() {
            self.take_back(permit, io);
        }
        if self.linked {
            let failed = Failed { code: error.code, why: error.why };
            // If it cannot be told it sees the connection end.
            let _ = io.send(&Message::Failed(failed));
        }
        // The guest goes on: nothing is promised any more.
        self.timers.ready_by = None;
        self.disarm(io);
    }

    /// The guest is of no more concern: the log of its writes ends, if there is one, and then the motion.
    pub(super) fn disarm(&mut self, io: &mut dyn SourceIo) {
        self.phase = Phase::Disarming;
        self.timers.rest_until = None;
        self.progress.released = true;
        if keeps(Rule::WorkersEnd) {
            io.stop_workers();
        }
        let switched = match self.ends_log(false) {
            true if keeps(Rule::LoggingEnds) => io.log(&self.machine.clone(), false),
            _ if self.arming => None,
            _ => Some(Ok(())),
        };
        match switched {
            Some(result) => self.disarmed(result, io),
            None => {
                self.linked = false;
                io.hang_up();
            }
        }
    }

    pub(super) fn disarmed(&mut self, result: Result<(), MotionError>, io: &mut dyn SourceIo) {
        warn_of_log(result);
        self.close_account(io);
        self.end(io);
    }

    /// Notes what the log leaves behind. Whether there is one to be switched off.
    fn ends_log(&mut self, completed: bool) -> bool {
        if !std::mem::take(&mut self.logging) {
            return false;
        }
        if !completed {
            self.report.still_protected_pages = self.still_protected();
        }
        #[cfg(feature = "mutate")]
        crate::mutate::note_left(&*self.machine, !completed);
        true
    }

    /// This is why the guest stays here, if it does.
    pub(super) fn blame(&mut self, error: MotionError) {
        self.report.error = Some(ErrorReport { code: error.code, why: error.why });
    }

    /// The permit is back.
    pub(super) fn take_back(&mut self, permit: RunPermit, io: &mut dyn SourceIo) {
        let run = self.was_running && !self.guest_gone && keeps(Rule::GuestResumes);
        let result = if run {
            self.machine.run(permit)
        } else {
            self.machine.grant(permit);
            Ok(())
        };
        if self.times.begun {
            self.report.given_up_pause_ns = Some(nanos(self.times.so_far(io.now())));
            self.tell_stopped();
        }
        match result {
            Ok(()) if run => self.observer.resumed(),
            Ok(()) => {}
            Err(error) => {
                tracing::error!(%error, "the guest is ours and could not be resumed");
                self.report.error = Some(ErrorReport { code: error.code, why: error.to_string() });
            }
        }
    }

    /// The handover was decided for this side.
    pub(super) fn kept(&mut self, io: &mut dyn SourceIo) {
        if self.report.error.is_none() {
            self.report.error = Some(ErrorReport {
                code: Code::PeerFailed,
                why: "the destination refused the guest; it is this side's".to_owned(),
            });
        }
        self.phase = Phase::Settling;
        self.progress.undecided = None;
        self.close_account(io);
        if self.is_settled() {
            self.end(io);
        } else {
            self.timers.settle(io.now(), io.tells_for());
        }
    }

    /// An operator decides.
    pub(super) fn resolve(
        &mut self,
        owner: Side,
        fenced: bool,
        io: &mut dyn SourceIo,
    ) -> Result<(), MotionError> {
        let before = self.report.error.clone();
        if owner == Side::Here && before.is_none() {
            let why = "an operator decided that the guest stays here; the destination had not \
                       answered COMMIT";
            let (code, why) = (Code::PeerFailed, why.to_owned());
            self.report.error = Some(ErrorReport { code, why });
        }
        let result = self.drive(Input::Resolve { owner, fenced }, io);
        if result.is_err() {
            self.report.error = before;
        }
        result
    }

    /// The guest runs at the destination.
    pub(super) fn completed(&mut self, io: &mut dyn SourceIo) {
        self.progress.undecided = None;
        self.report.error = None;
        self.report.blackout = self.blackout_report();
        self.close_account(io);
        let confirmed = |h: &SourceHandover| h.phase() == SourcePhase::Confirmed;
        if self.copied || self.handover.as_ref().is_some_and(confirmed) {
            self.end(io);
        } else {
            // An operator said so; the destination has yet to be told.
            self.phase = Phase::Settling;
            self.timers.settle(io.now(), io.tells_for());
        }
    }

    /// The destination could take the machine, and that was all that was asked.
    pub(super) fn checked(&mut self, io: &mut dyn SourceIo) {
        self.report.checked = true;
        self.close_account(io);
        self.end(io);
    }

    /// Stops the workers and the log, and closes the report.
    fn close_account(&mut self, io: &mut dyn SourceIo) {
        if keeps(Rule::WorkersEnd) {
            io.stop_workers();
        }
        let completed = self.decided == Some(Side::Peer) || self.copied;
        // It was stopped for a copy, and had gone on when that failed.
        if !completed && self.times.has_gone_on() && self.report.given_up_pause_ns.is_none() {
            self.report.given_up_pause_ns = Some(self.times.blackout_ns());
        }
        // A pass that was cut short counts too: what it sent was sent.
        let cut_short = self.pass.is_some() && self.progress.pass_done == 0;
        if cut_short && keeps(Rule::CutPassesCount) {
            let report = self.account(io.now().since(self.pass_begun));
            self.report.passes.push(report);
        }
        // Whoever has stopped the guest has all of its RAM: nothing is waited for.
        if self.ends_log(completed) && keeps(Rule::LoggingEnds) {
            warn_of_log(switch_log(&*self.machine, false));
        }
        self.report.total_ns = nanos(io.now().since(self.begun));
        self.set_status(match (completed, self.report.checked, self.was_cancelled()) {
            (true, ..) => Status::Completed,
            (_, true, _) => Status::None,
            (_, _, true) => Status::Cancelled,
            _ => Status::Failed,
        });
        self.observer.finished(&self.report);
    }

    fn was_cancelled(&self) -> bool {
        self.report.error.as_ref().is_some_and(|error| error.code == Code::Cancelled)
    }

    /// Touched pages that were rearmed and not written since: each costs the guest one more fault.
    fn still_protected(&self) -> u64 {
        let mut dirty = PageSet::new(self.machine.ram().pages());
        let all = PageRange::new(0, dirty.pages());
        match (self.machine.dirty_log().collect(&mut dirty), self.machine.ram().resident(all)) {
            (Ok(()), Ok(touched)) => {
                touched.into_iter().map(|run| run.count - dirty.count_in(run)).sum()
            }
            _ => 0,
        }
    }

    /// Nothing is left to do.
    pub(super) fn end(&mut self, io: &mut dyn SourceIo) {
        self.phase = Phase::Ended;
        self.linked = false;
        io.hang_up();
    }
}

fn warn_of_log(switched_off: Result<(), MotionError>) {
    if let Err(error) = switched_off {
        tracing::warn!(%error, "the guest runs on with logging switched on");
    }
}
