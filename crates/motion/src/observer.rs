//! What a motion tells whoever started it.

use crate::fill::{FillReport, Outage};
use crate::{Report, Status};

/// Told of a motion's steps, on the motion's own thread. Must not block.
pub trait Observer: Send + Sync {
    /// The motion stands somewhere else.
    fn status(&self, status: Status);
    /// A pass begins.
    fn pass(&self, number: u32);
    /// The engine stopped the guest.
    fn stopped(&self);
    /// The engine let the guest run: at the source again, or at the destination.
    fn resumed(&self);
    /// The handover has reached another phase, in the words of
    /// [`SourcePhase::name`](crate::handover::SourcePhase::name) and
    /// [`DestinationPhase::name`](crate::handover::DestinationPhase::name).
    fn handover(&self, token: &str, phase: &'static str);
    /// The motion has ended.
    fn finished(&self, report: &Report);
    /// Pages that are yet to come cannot be had: the guest must be stopped until they can. Said on
    /// another thread, of a guest whose RAM comes while it runs.
    fn outage(&self, _outage: &Outage) {}
    /// All pages have come; what they came from is needed no longer.
    fn filled(&self, _report: &FillReport) {}
}
