//! RAM that is not all there yet.

use crate::PageRange;
use std::fmt::Debug;
use std::io;

/// What brings pages into RAM while the guest runs already: see
/// [`GuestRam::set_filling`](crate::GuestRam::set_filling), and [`GuestRam::over`](crate::GuestRam::over).
///
/// A page that has not come looks as if it had never been touched, and reads as zero through the
/// memory file. So whoever looks at RAM by way of the file asks here first.
pub trait Filling: Debug + Send + Sync {
    /// Has those pages of `range` that are to come brought in before others, and waits until they
    /// are there. Returns at once where nothing is missing.
    ///
    /// # Errors
    /// Pages cannot be had at present, and nobody knows when.
    fn bring(&self, range: PageRange) -> io::Result<()>;

    /// The same for somebody who may lose interest, and is let go soon after that. Whether the pages are there.
    ///
    /// # Errors
    /// As above.
    fn bring_while(&self, range: PageRange, wanted: &dyn Fn() -> bool) -> io::Result<bool> {
        let _ = wanted;
        self.bring(range).map(|()| true)
    }

    /// Why pages cannot be had at present, if that is so.
    fn trouble(&self) -> Option<String>;

    /// The guest never executes another instruction: whoever waits for a page is let go, with a page
    /// of zeroes. No page is brought in from now on.
    fn abandon(&self);
}
