//! Precopy at the source: pass after pass, until it is time to stop the guest.

use super::{Phase, Source, SourceIo};
use crate::clock::nanos;
use crate::ram::{Pass, PassKind};
use crate::report::PassReport;
use crate::rules::{Rule, keeps};
use crate::switch::{AfterPass, Decision};
use crate::{MachineError, MotionError, Purpose, RamWay, Status};
use memory::PageSet;
use state::Code;
use std::sync::Arc;
use std::time::Duration;

/// Between two passes that do not bring the blackout down: the guest is not slowed for nothing.
const REST: Duration = Duration::from_millis(100);

impl Source {
    /// Begins with RAM. A guest that is stopped, or promised not to run, needs no dirty logging.
    pub(super) fn start_passes(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        let now = io.now();
        self.timers.heard(now);
        self.timers.progress(now);
        self.report.setup_ns = nanos(now.since(self.begun));
        if self.options.purpose == Purpose::CopyAtStart {
            return self.stop_to_keep(io);
        }
        if self.options.ram == RamWay::Shared {
            return self.share(io);
        }
        if self.options.frozen || !self.was_running {
            self.report.frozen = true;
            self.progress.frozen = true;
            "the guest is stopped for the whole motion".clone_into(&mut self.report.switch);
            self.stop_guest(io, Duration::ZERO)?;
            self.tell_stopped();
            if self.options.pause_before_switchover {
                self.hold();
                return Ok(());
            }
        } else {
            #[cfg(feature = "mutate")]
            crate::mutate::keep_state(&*self.machine);
            if keeps(Rule::WritesAreLogged) {
                return self.arm(io);
            }
        }
        self.first_pass(io);
        Ok(())
    }

    /// Has writes logged. The destination hears from this side meanwhile, however long that takes.
    fn arm(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        self.phase = Phase::Arming;
        let machine = self.machine.clone();
        if let Some(result) = io.log(&machine, true) {
            return self.armed(result, io);
        }
        self.arming = true;
        "KVM begins to log the guest's writes: it waits for a page of RAM that is yet to come, if a \
         processor of the guest does"
            .clone_into(&mut self.progress.note);
        Ok(())
    }

    /// The log was switched on or off, after it had been told to.
    pub(super) fn logged(&mut self, result: Result<(), MotionError>, io: &mut dyn SourceIo) {
        let was_arming = std::mem::take(&mut self.arming);
        match self.phase {
            Phase::Arming => self.try_to(io, |source, io| source.armed(result, io)),
            Phase::Disarming if was_arming => {
                // Nobody wants it any more.
                self.logging = result.is_ok();
                self.disarm(io);
            }
            Phase::Disarming => self.disarmed(result, io),
            _ => {}
        }
    }

    fn armed(
        &mut self,
        result: Result<(), MotionError>,
        io: &mut dyn SourceIo,
    ) -> Result<(), MotionError> {
        result?;
        self.logging = true;
        self.progress.note.clear();
        self.timers.progress(io.now());
        self.first_pass(io);
        Ok(())
    }

    fn first_pass(&mut self, io: &mut dyn SourceIo) {
        self.set_status(Status::Active);
        let all = PageSet::full(self.machine.ram().pages());
        #[cfg(feature = "mutate")]
        let all = crate::mutate::unsent(all);
        self.send_pass(Pass::new(1, PassKind::First, all, self.logging), io);
    }

    /// The guest is stopped, and somebody wanted a say before the motion goes on.
    pub(super) fn hold(&mut self) {
        self.phase = Phase::PreSwitchover;
        "the guest is stopped and waits for the word to go on (`migrate-continue`)"
            .clone_into(&mut self.progress.note);
        self.tell_stopped();
        self.set_status(Status::PreSwitchover);
    }

    /// Goes on after [`Self::hold`].
    pub(super) fn proceed(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        self.times.waited = io.now().since(self.times.paused);
        self.progress.note.clear();
        self.timers.progress(io.now());
        if self.options.purpose == Purpose::CopyAtStart {
            return self.keep_moment(io);
        }
        if self.report.frozen {
            self.first_pass(io);
            return Ok(());
        }
        self.last_pages(io)
    }

    /// Sends the pages that were written since they were sent.
    pub(super) fn next_pass(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        #[cfg_attr(not(feature = "mutate"), expect(unused_mut, reason = "a test forgets a page"))]
        let mut set = self.dirty()?;
        #[cfg(feature = "mutate")]
        crate::mutate::forget_dirty(self.machine.ram(), &mut set);
        let number = self.next_number();
        let kind = if keeps(Rule::NewZeroesAreSent) { PassKind::Later } else { PassKind::First };
        self.send_pass(Pass::new(number, kind, set, self.logging), io);
        Ok(())
    }

    pub(super) fn next_number(&self) -> u32 {
        self.pass.as_ref().map_or(1, |pass| pass.number() + 1)
    }

    /// The pages whose latest contents the destination does not have.
    pub(super) fn dirty(&self) -> Result<PageSet, MotionError> {
        let mut set = PageSet::new(self.machine.ram().pages());
        if self.logging {
            self.machine.dirty_log().collect(&mut set).map_err(|e| {
                MachineError::new(Code::Kvm, "asking for pages that were written", e)
            })?;
        }
        Ok(set)
    }

    pub(super) fn send_pass(&mut self, pass: Pass, io: &mut dyn SourceIo) {
        self.phase = Phase::Passing;
        self.pass_begun = io.now();
        self.pass_acknowledged = false;
        self.progress.pass = pass.number();
        self.progress.pass_pages = pass.set().count();
        self.progress.pass_done = 0;
        self.observer.pass(pass.number());
        let pass = Arc::new(pass);
        io.start_pass(&pass);
        self.pass = Some(pass);
        // What the way takes now is part of the prediction; a greeting is no measure of it.
        self.ping(self.pass_begun, io);
    }

    pub(super) fn pass_sent(&mut self, io: &mut dyn SourceIo) {
        self.timers.progress(io.now());
        match self.phase {
            Phase::Passing => {
                self.phase = Phase::Draining;
                // The destination may have been faster than the last worker's word.
                if self.pass_acknowledged || !keeps(Rule::PassesAreAwaited) {
                    self.try_to(io, Self::pass_done);
                }
            }
            Phase::LastPass => self.try_to(io, Self::send_state),
            _ => {}
        }
    }

    /// The destination has all of a pass in its RAM.
    pub(super) fn pass_acknowledged(&mut self, io: &mut dyn SourceIo) {
        self.timers.progress(io.now());
        self.pass_acknowledged = true;
        if self.phase == Phase::Draining {
            self.try_to(io, Self::pass_done);
        }
    }

    fn pass_done(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        if self.kept_state.is_some() {
            return self.send_kept(io);
        }
        let duration = io.now().since(self.pass_begun);
        let dirty = self.dirty()?.count();
        let mut report = self.account(duration);
        report.dirtied_pages = dirty;
        let after = AfterPass { bytes: report.bytes, duration, dirty };
        let decision = self.switch.after_pass(after, self.cost, self.options.max_bandwidth);
        let (Decision::Switch { predicted, .. } | Decision::Continue { predicted, .. }) = decision;
        report.predicted_blackout_ns = nanos(predicted);
        self.note_pass(&report, after);
        self.report.passes.push(report);

        if self.report.frozen {
            return self.send_state(io);
        }
        match decision {
            Decision::Switch { predicted, why } => self.switchover(predicted, why, io),
            Decision::Continue { predicted, why, .. } if self.switch_anyway => {
                self.switchover(predicted, format!("the time is up: {why}"), io)
            }
            Decision::Continue { why, stuck, .. } => {
                tracing::debug!(pass = self.progress.pass, dirty, %why, "another pass");
                self.report.switch.clone_from(&why);
                self.progress.note = why;
                self.progress.stuck = stuck;
                if stuck {
                    self.phase = Phase::Resting;
                    self.timers.rest_until = Some(io.now().after(REST));
                    Ok(())
                } else {
                    self.next_pass(io)
                }
            }
        }
    }

    /// Adds the pass that has ended to the account of the motion.
    pub(super) fn account(&mut self, duration: Duration) -> PassReport {
        let Some(pass) = &self.pass else { return PassReport::default() };
        let totals = pass.totals();
        let ram = &mut self.report.ram;
        ram.data_pages += totals.data;
        ram.zero_pages += totals.zero;
        ram.skipped_pages += totals.skipped;
        ram.bytes += totals.bytes;
        self.progress.bytes = ram.bytes;
        self.progress.pass_done = totals.seen.max(1);
        PassReport {
            pass: pass.number(),
            data_pages: totals.data,
            zero_pages: totals.zero,
            skipped_pages: totals.skipped,
            bytes: totals.bytes,
            duration_ns: nanos(duration),
            dirtied_pages: 0,
            predicted_blackout_ns: 0,
        }
    }

    fn note_pass(&mut self, report: &PassReport, after: AfterPass) {
        #[expect(clippy::cast_precision_loss, reason = "rates are shown, not counted with")]
        let per_second = |amount: u64| amount as f64 / after.duration.as_secs_f64().max(1e-6);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rates are positive and far below 2⁶⁴"
        )]
        let whole = |rate: f64| rate as u64;
        self.progress.dirty_rate = whole(per_second(after.dirty));
        self.progress.rate = whole(self.switch.rate(self.options.max_bandwidth));
        self.progress.predicted_blackout_ns = report.predicted_blackout_ns;
    }
}
