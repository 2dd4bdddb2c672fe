//! Where pages come from.

use memory::{PageRange, PageSet};

/// A page could not be had, or is not what was saved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct PageReadError {
    /// The first page that it is about.
    pub page: u64,
    /// What was being done to what, and what went wrong.
    pub why: String,
}

/// Something that has the pages of a machine's RAM: a file.
pub trait PageSource: Send + Sync {
    /// The pages that it has. All others are zero.
    fn present(&self) -> &PageSet;

    /// The pages that were in use last: they come early. A hint, of as many pages as RAM.
    fn recent(&self) -> &PageSet;

    /// What one thread reads with: it has buffers of its own.
    fn lane(&self) -> Box<dyn PageLane + '_>;
}

/// One thread's way to the pages.
pub trait PageLane {
    /// Reads these pages, and checks each: what is returned is what was saved. Pages that the source
    /// does not have are zero. May take as long as it likes; `came` is called whenever a part has come, so
    /// that who has much to read is not taken for one who gets no answer.
    ///
    /// # Errors
    /// [`PageReadError`]; it may be asked again.
    fn read(&mut self, range: PageRange, came: &mut dyn FnMut()) -> Result<&[u8], PageReadError>;
}
