//! RAM whose writers may have to wait.

use std::fmt::Debug;

/// What has writes to RAM wait until the pages are copied as they were; see
/// [`GuestRam::set_guarding`](crate::GuestRam::set_guarding).
pub trait Guarding: Debug + Send + Sync {
    /// The guest never executes another instruction: whoever waits is let go and writes. What was not
    /// copied by now never will be.
    fn abandon(&self);
}
