//! A copy of the moment when the motion began: the guest stands still while its state is saved and its
//! memory is write-protected, and goes on while that is copied.

use super::{Phase, Source, SourceIo};
use crate::ram::{Pass, PassKind};
use crate::{Blackout, MotionError, Status};
use std::time::Duration;

/// Kept of a promised blackout for letting the guest go on.
const RESERVE: Duration = Duration::from_millis(1);

impl Source {
    /// Stops the guest at the moment that the copy is to be of.
    pub(super) fn stop_to_keep(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        "the copy is of the moment when it began".clone_into(&mut self.report.switch);
        self.stop_guest(io, Duration::ZERO)?;
        if self.options.pause_before_switchover {
            self.hold();
            return Ok(());
        }
        self.keep_moment(io)
    }

    /// Takes this moment, and lets the guest go on.
    pub(super) fn keep_moment(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        self.times.pages = io.now();
        let by = match self.switch.blackout() {
            Blackout::Limit(limit) => {
                let allowed = self.times.waited + limit.saturating_sub(RESERVE);
                Some(self.times.stop.after(allowed))
            }
            Blackout::Unlimited => None,
        };
        let state = self.machine.save()?.encode();
        self.times.saved = io.now();
        let pages = io.keep_ram(by.filter(|_| self.was_running))?;
        self.times.kept = Some(io.now());
        self.kept_state = Some(state);
        self.tell_stopped();
        self.go_on(io);
        self.set_status(Status::Active);
        self.send_pass(Pass::new(1, PassKind::First, pages, false), io);
        Ok(())
    }

    /// All of RAM is in the copy: the state that belongs to it follows.
    pub(super) fn send_kept(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        let report = self.account(io.now().since(self.pass_begun));
        self.report.passes.push(report);
        let left_out = self.pass.as_ref().map_or(0, |pass| pass.set().pages() - pass.set().count());
        self.report.ram.skipped_pages += left_out;
        let state = self.kept_state.take().unwrap_or_default();
        self.send_saved(state, io)?;
        debug_assert_eq!(self.phase, Phase::Finishing, "only copies are kept");
        Ok(())
    }
}
