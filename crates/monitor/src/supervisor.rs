//! Whoever supervises this process, where somebody said so in `NOTIFY_SOCKET` (sd_notify(3)).

use sd_notify::NotifyState;

/// The machine runs, or waits for its guest.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// This process has the machine now, and not the one that was supervised before.
pub(crate) fn main_process() {
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

fn tell(state: &[NotifyState<'_>]) {
    // Nobody is there to be told: that concerns neither the guest nor whoever holds on to it.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the supervisor was not told");
    }
}
