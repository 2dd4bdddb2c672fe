//! A motion whose guest stays here: what goes is a copy of it.

use super::{Phase, Source, SourceIo};
use crate::handover::{Message as Said, Verdict, Word};
use crate::{Blackout, MotionError, Purpose};
use state::Code;
use wire::Message;

impl Source {
    /// Before a copy is as good as taken: whether its guest can still go on within the time that was
    /// promised. Where little is left to copy, no timer gets to run out.
    ///
    /// # Errors
    /// It has been stopped for too long.
    pub(super) fn check_copy_is_in_time(&self, io: &dyn SourceIo) -> Result<(), MotionError> {
        let Blackout::Limit(limit) = self.switch.blackout() else { return Ok(()) };
        if !self.options.purpose.is_copy() || !self.timers.ready_is_late(io.now()) {
            return Ok(());
        }
        let why = format!(
            "the copy was not taken in time: the guest had been stopped for {}, {} was promised",
            crate::switch::show(self.times.so_far(io.now())),
            crate::switch::show(limit),
        );
        Err(MotionError::new(Code::BudgetExceeded, why))
    }

    /// All of the copy has left RAM: a guest that is to go on may change it again. One that is to stay
    /// stopped is held until the copy is complete, since it goes on as before if that fails.
    pub(super) fn copy_is_taken(&mut self, io: &mut dyn SourceIo) {
        io.send_by(None);
        self.timers.ready_by = None;
        "the copy is taken; it is being made durable".clone_into(&mut self.progress.note);
        if self.options.purpose == Purpose::Copy {
            self.go_on(io);
        }
    }

    /// Lets a guest go on that ran before it was stopped for its copy, or gives it back as it was.
    pub(super) fn go_on(&mut self, io: &mut dyn SourceIo) {
        let Some(permit) = self.permit.take() else { return };
        self.progress.released = true;
        if !self.was_running {
            self.machine.grant(permit);
            return;
        }
        let from = io.now();
        let result = self.machine.run(permit);
        self.times.went_on(from, io.now());
        match result {
            Ok(()) => self.observer.resumed(),
            // The copy is none the worse for it.
            Err(error) => tracing::error!(%error, "the guest was copied and could not be resumed"),
        }
    }

    /// What the other end says of the copy.
    pub(super) fn filed(&mut self, said: Said, io: &mut dyn SourceIo) {
        match (said.word, self.phase) {
            (Word::Ready, Phase::Finishing) => {
                self.phase = Phase::Completing;
                self.try_to(io, |source, io| {
                    io.send(&Message::Commit(source.particulars.token().0))
                });
            }
            (Word::Running, Phase::Completing) => {
                self.copied = true;
                if let Some(permit) = self.permit.take() {
                    self.machine.grant(permit);
                }
                self.completed(io);
            }
            (Word::Answer(Verdict::Refused), _) => {}
            (word, phase) => {
                let why = format!("the other end of a copy said {word:?} in {phase:?}");
                self.lost(io, MotionError::new(Code::ProtocolError, why));
            }
        }
    }

    /// The other end could not keep what it was given, and has made sure of it.
    pub(super) fn denied(&mut self, error: MotionError, io: &mut dyn SourceIo) {
        if self.options.purpose.is_copy() {
            return self.lost(io, error);
        }
        self.report.error = Some(crate::ErrorReport { code: error.code, why: error.why });
        self.told(self.particulars.token().says(Word::Answer(Verdict::Refused)), io);
    }
}
