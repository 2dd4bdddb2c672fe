//! RAM that stays where it is: the destination has the same memory file, and nothing of it is sent.

use super::{Source, SourceIo};
use crate::{MotionError, Status};

impl Source {
    /// Stops the guest as soon as the destination has what does not depend on that.
    pub(super) fn share(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        self.set_status(Status::Active);
        self.machine.send_ahead()?;
        let why = "the destination has the same RAM: there is nothing to send but state".to_owned();
        self.switchover(self.cost.total(), why, io)
    }

    /// Sends the state of a guest whose RAM the destination has.
    pub(super) fn only_state(&mut self, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        self.promise(io);
        self.timers.progress(io.now());
        self.send_state(io)
    }
}
