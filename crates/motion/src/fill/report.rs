//! What there is to say of RAM that is, or was, being filled.

use crate::ram::on_demand::{FaultTotals, FetchTotals, LatencyReport};
use serde::Serialize;

/// Pages cannot be had. The guest must be stopped until they can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outage {
    /// Where the page lies in the RAM file, in bytes.
    pub offset: u64,
    /// Its guest-physical address.
    pub address: u64,
    /// What went wrong.
    pub why: String,
}

/// How RAM came, as of now. All times are in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FillReport {
    /// Pages that the source has.
    pub pages: u64,
    /// Those that have come, by the reason for which they were fetched.
    pub fetched: FetchTotals,
    /// Pages that are fetched as one.
    pub chunk_pages: u64,
    /// What was waited for.
    pub faults: FaultTotals,
    /// From the word that somebody waits until the page was there.
    pub latency: LatencyReport,
    /// Who waited, for how long: by the vCPUs' threads, and others of the VMM.
    pub waits: Vec<ThreadWaits>,
    /// How often pages could not be had.
    pub outages: u32,
    /// From the start until all had come; `None` if they have not.
    pub all_in_ns: Option<u64>,
}

/// What one thread has waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ThreadWaits {
    /// Its id.
    pub thread: u32,
    /// How often.
    pub count: u64,
    /// For how long, together.
    pub ns: u64,
}

/// Told of what happens to RAM that is being filled, on threads of the page service. Must not block.
pub trait FillObserver: Send + Sync {
    /// Pages cannot be had. Said once, until [retried](super::PageService::retry).
    fn outage(&self, outage: &Outage);
    /// All has come. The source is needed no longer.
    fn finished(&self, report: &FillReport);
}
