//! The trait of a source of dirty pages.

use crate::{PageRange, PageSet};

/// Why dirty logging failed.
#[derive(Debug, thiserror::Error)]
#[error("dirty logging: {action} failed: {source}")]
pub struct DirtyLogError {
    /// What was being done.
    pub action: &'static str,
    /// What the kernel said.
    #[source]
    pub source: std::io::Error,
}

/// Something that knows which pages were written: KVM's dirty bitmap with manual protect, its dirty
/// ring, asynchronous write protection.
///
/// The order that never loses a bit: [`DirtyLog::rearm`] a range (writes to it are logged again),
/// *then* read its pages. Between [`DirtyLog::collect`] and `rearm` a further write to a page that
/// was reported is not reported again, which is right, because it is yet to be read.
pub trait DirtyLog: Send + Sync {
    /// Begins logging. Every page counts as written until it was rearmed once: nothing has been
    /// read yet.
    ///
    /// # Errors
    /// [`DirtyLogError`]; logging is off then.
    fn start(&self) -> Result<(), DirtyLogError>;

    /// Adds to `into` all pages written since they were last rearmed, by the guest or by the VMM
    /// itself.
    ///
    /// # Errors
    /// [`DirtyLogError`]; `into` may hold some of them.
    fn collect(&self, into: &mut PageSet) -> Result<(), DirtyLogError>;

    /// Has writes to the pages of `set` within `range` reported again from now on.
    ///
    /// # Errors
    /// [`DirtyLogError`]; the pages count as still written.
    fn rearm(&self, set: &PageSet, range: PageRange) -> Result<(), DirtyLogError>;

    /// Ends logging. Costs the guest no more than the pages that are still protected.
    ///
    /// # Errors
    /// [`DirtyLogError`]; logging may still be on.
    fn stop(&self) -> Result<(), DirtyLogError>;
}
