//! Clearing pages of 1 GiB before anybody waits for one.

use crate::{Backing, GuestRam, PageRange};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

impl GuestRam {
    /// Has the kernel provide and clear all of RAM, if it is in pages of 1 GiB: who touches one first, be it one
    /// byte, waits for all of it, and so does everybody else who touches it meanwhile. A thread of low priority
    /// on a busy host may need long for that. Smaller pages come in no time, and are left alone.
    ///
    /// So many `threads` share the work; before each page they ask whether to `go_on`. Pages that are left out
    /// are cleared when they are touched.
    pub fn clear_ahead(&self, threads: usize, go_on: &(dyn Fn() -> bool + Sync)) {
        if self.backing() != Backing::Huge1G {
            return;
        }
        let unit = self.backing().unit();
        let next = AtomicU64::new(0);
        let work = || {
            while go_on() {
                let start = next.fetch_add(unit, Ordering::Relaxed);
                if start >= self.pages() {
                    return;
                }
                self.prepare(PageRange::new(start, unit));
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                // Where there is no thread to be had, the others do its share.
                let _ = thread::Builder::new().name("clear".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_pages_stay_untouched() {
        let ram = GuestRam::new(16 << 20, Backing::Small).unwrap();
        ram.clear_ahead(2, &|| true);
        assert_eq!(ram.touched(PageRange::new(0, ram.pages())).unwrap(), []);
    }
}
