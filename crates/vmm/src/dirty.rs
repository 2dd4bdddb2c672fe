//! KVM's dirty bitmap as a source of dirty pages.
//!
//! With manual protect a bitmap is only read, and cleared separately, page by page as they are
//! about to be sent (Linux `Documentation/virt/kvm/api.rst`, `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`):
//! the guest is not slowed by write protection of pages that nobody has come to yet. It starts with
//! every bit set, which is just what [`DirtyLog::start`] promises.

use crate::slots::Slots;
use crate::sys;
use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use memory::{DirtyLog, DirtyLogError, PageRange, PageSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Pages to a word of a bitmap, and what the kernel wants a range to start and end at.
const WORD: u64 = 64;

/// Has the dirty bitmaps of `vm` work as described above. Before its memory slots are made.
pub(crate) fn enable(vm: &VmFd) -> io::Result<()> {
    let mut cap = kvm_enable_cap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ..Default::default() };
    cap.args[0] = u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
    vm.enable_cap(&cap).map_err(sys::io_error)
}

/// The dirty bitmaps of all slots, and what the VMM itself wrote.
#[derive(Debug)]
pub(crate) struct DirtyBitmap {
    slots: Arc<Slots>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    on: bool,
    /// Pages that the VMM wrote, and that were not rearmed since.
    own: PageSet,
    /// The kernel's answer for one slot, kept so that the last collection need not allocate.
    answer: Vec<u64>,
}

impl DirtyBitmap {
    pub fn new(slots: Arc<Slots>) -> Self {
        let own = PageSet::new(slots.ram().pages());
        Self { slots, state: Mutex::new(State { on: false, own, answer: Vec::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_logging(&self, on: bool) -> io::Result<()> {
        self.slots.regions().try_for_each(|(slot, region)| self.slots.set(slot, region, on))
    }

    /// Counts all pages as written: the VMM has changed RAM in a way that nothing tracks.
    pub fn all_written(&self) {
        let mut state = self.state();
        let all = PageRange::new(0, state.own.pages());
        state.own.insert(all);
    }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> DirtyLogError {
    move |source| DirtyLogError { action, source }
}

impl DirtyLog for DirtyBitmap {
    fn start(&self) -> Result<(), DirtyLogError> {
        let mut state = self.state();
        if state.on {
            // Off and on again: only a new bitmap has every page count as written.
            self.set_logging(false).map_err(failed("switching it off"))?;
            state.on = false;
        }
        if let Err(e) = self.set_logging(true) {
            // What was switched on is switched off again; the first error is the one to tell.
            let _ = self.set_logging(false);
            return Err(failed("switching it on")(e));
        }
        state.on = true;
        Ok(())
    }

    fn collect(&self, into: &mut PageSet) -> Result<(), DirtyLogError> {
        let state = &mut *self.state();
        if !state.on {
            return Err(failed("reading it")(io::Error::other("it is off")));
        }
        for (slot, region) in self.slots.regions() {
            let pages = region.pages();
            let words = usize::try_from(pages.count.div_ceil(WORD)).expect("RAM is mapped");
            state.answer.resize(words.max(state.answer.len()), 0);
            let answer = &mut state.answer[..words];
            sys::get_dirty_log(self.slots.vm(), slot, pages.count, answer)
                .map_err(failed("reading it"))?;
            into.insert_bitmap(pages.start, answer);
        }
        self.slots.ram().take_written(&mut state.own);
        into.union_with(&state.own);
        Ok(())
    }

    fn rearm(&self, set: &PageSet, range: PageRange) -> Result<(), DirtyLogError> {
        for (slot, region) in self.slots.regions() {
            let pages = region.pages();
            let Some(part) = pages.intersection(range) else { continue };
            // The kernel clears whole words. Regions start at whole words of the set, so the words
            // are the set's own, but for the bits outside of the range.
            let first = (part.start - pages.start) / WORD * WORD;
            let end = (part.end() - pages.start).next_multiple_of(WORD).min(pages.count);
            let mut words = words_of(set, PageRange::new(pages.start + first, end - first));
            mask(&mut words, pages.start + first, part);
            if words.iter().all(|word| *word == 0) {
                continue;
            }
            let count = u32::try_from(end - first).map_err(|_| {
                failed("clearing it")(io::Error::other("too many pages for one call"))
            })?;
            sys::clear_dirty_log(self.slots.vm(), slot, first, count, &words)
                .map_err(failed("clearing it"))?;
        }
        let mut state = self.state();
        for run in set.runs_in(range) {
            state.own.remove(run);
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), DirtyLogError> {
        let mut state = self.state();
        if state.on {
            self.set_logging(false).map_err(failed("switching it off"))?;
            state.on = false;
        }
        Ok(())
    }
}

/// The words of `set` for `range`, which starts at a whole word.
fn words_of(set: &PageSet, range: PageRange) -> Vec<u64> {
    let count = usize::try_from(range.count.div_ceil(WORD)).unwrap_or(0);
    let mut words: Vec<_> = set.words(range.start / WORD).take(count).collect();
    words.resize(count, 0);
    words
}

/// Clears the bits of `words`, of which the first is page `start`, that lie outside of `part`.
fn mask(words: &mut [u64], start: u64, part: PageRange) {
    for (word, at) in words.iter_mut().zip((start..).step_by(64)) {
        let low = part.start.saturating_sub(at).min(WORD);
        let high = part.end().saturating_sub(at).min(WORD);
        let ones = |count: u64| if count == WORD { u64::MAX } else { (1 << count) - 1 };
        *word &= ones(high) & !ones(low);
    }
}

const _: () = assert!((memory::PCI_HOLE / memory::PAGE_SIZE).is_multiple_of(WORD));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exactly_the_pages_of_the_set_within_the_range_are_cleared(
            pages in proptest::collection::btree_set(0u64..512, 0..200),
            start in 0u64..512, count in 1u64..512,
        ) {
            let mut set = PageSet::new(512);
            pages.iter().for_each(|p| set.insert(PageRange::new(*p, 1)));
            let part = PageRange::new(start, count.min(512 - start).max(1));
            let first = part.start / WORD * WORD;
            let end = part.end().next_multiple_of(WORD).min(512);
            let mut words = words_of(&set, PageRange::new(first, end - first));
            mask(&mut words, first, part);
            for page in first..end {
                let at = page - first;
                let bit = words[usize::try_from(at / 64).unwrap()] >> (at % 64) & 1 == 1;
                let wanted = pages.contains(&page) && (part.start..part.end()).contains(&page);
                prop_assert_eq!(bit, wanted, "page {}", page);
            }
        }
    }
}
