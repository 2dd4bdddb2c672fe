//! The permission to run a guest.

/// The permission to run a guest. A machine runs only while it has one, so whether `cont` is allowed
/// follows from the permit, not from the run state.
///
/// There is one per guest. It can be neither copied nor made, except for a machine that was just
/// built, which has no other copy, and by the handover that has decided who owns the guest.
#[derive(Debug)]
#[must_use = "a guest whose permit is dropped can never run again"]
pub struct RunPermit {
    _made_here_only: (),
}

impl RunPermit {
    /// The permit of a machine that was *booted* here: nobody else can have one for it. Not for a
    /// machine that arrives by a motion: that one gets its permit from
    /// [`DestinationHandover`](super::DestinationHandover).
    pub fn for_new_machine() -> Self {
        Self { _made_here_only: () }
    }

    /// The permit that a decided handover gives out.
    pub(super) fn of_decided_handover((): ()) -> Self {
        Self { _made_here_only: () }
    }
}
