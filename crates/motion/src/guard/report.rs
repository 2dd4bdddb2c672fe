//! What there is to say of RAM that was copied before it was overwritten.

use crate::fill::ThreadWaits;
use crate::ram::on_demand::LatencyReport;
use serde::Serialize;

/// How RAM was copied while the guest wrote on. All times are in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// Pages that were write-protected: the blocks of 2 MiB in which anything was touched.
    pub protected_pages: u64,
    /// Finding and protecting them, while the guest stood still.
    pub protect_ns: u64,
    /// By so many threads.
    pub protect_threads: usize,
    /// Pages that are copied as one for a writer that waits.
    pub chunk_pages: u64,
    /// Pages that were copied because somebody waited to write one of them.
    pub fault_pages: u64,
    /// Pages that were copied in their order.
    pub streamed_pages: u64,
    /// How long writers waited: from the word that one does until it went on.
    pub latency: LatencyReport,
    /// Who waited, for how long: by the vCPUs' threads, and others of the VMM.
    pub waits: Vec<ThreadWaits>,
    /// The most bytes that were copied and not written to the file yet.
    pub buffered_bytes: u64,
    /// They can be no more than this; then writers wait for the file.
    pub buffer_limit_bytes: u64,
    /// How often they did.
    pub buffer_waits: u64,
}
