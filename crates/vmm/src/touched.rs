//! What was touched of RAM that goes into another process.

use memory::{GuestRam, PageRange};
use minicbor::{Decode, Encode};
use state::{Bundle, LoadError, Saved};
use std::io;

/// Which blocks of RAM were ever touched: for RAM that another process takes over, where the kernel
/// cannot tell that process. The others read as zero there as here.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedTouched {
    /// Size of a block, in pages of 4 KiB.
    #[n(0)]
    pub block: u64,
    /// The runs: the first block, and how many. In order, with others between them.
    #[n(1)]
    pub runs: Vec<(u64, u64)>,
}

impl Saved for SavedTouched {
    const SCHEMA: &'static str = "whimbrel.touched";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

impl SavedTouched {
    /// What was touched of `ram`, if a process that takes over its memory file has to be told. For
    /// when the guest stands still: it goes with what [`motion::SourceMachine::save`] saved. The kernel
    /// is asked only about what was not known to be touched before, so that asking once while the guest
    /// still runs takes most of it (some 0.4 ms per GiB) out of the blackout.
    ///
    /// # Errors
    /// What the kernel said when it was asked.
    pub fn of(ram: &GuestRam) -> io::Result<Option<Self>> {
        if !ram.only_it_knows_touched() {
            return Ok(None);
        }
        let block = ram.backing().unit();
        let runs = ram.resident(PageRange::new(0, ram.pages()))?;
        let runs = runs.iter().map(|run| (run.start / block, run.count / block)).collect();
        Ok(Some(Self { block, runs }))
    }

    /// Takes it out of what came for a machine on `ram`, which has to be told if it waits for that and
    /// must not be otherwise.
    pub(crate) fn take(state: &mut Bundle, ram: &GuestRam) -> Result<(), LoadError> {
        let came: Option<Self> = state.take_optional("")?;
        match (came, ram.awaits_touched()) {
            (None, false) => Ok(()),
            (Some(came), true) => {
                ram.learn_touched(came.check(ram)?);
                Ok(())
            }
            (None, true) => {
                Err(LoadError::Missing { schema: Self::SCHEMA.to_owned(), instance: String::new() })
            }
            (Some(_), false) => Err(malformed("nobody has to say what was touched of this RAM")),
        }
    }

    /// The runs of pages, which lie in `ram`.
    fn check(self, ram: &GuestRam) -> Result<Vec<PageRange>, LoadError> {
        let Self { block, runs } = self;
        if block != ram.backing().unit() {
            return Err(malformed(format!("its blocks have {block} pages")));
        }
        let blocks = ram.pages() / block;
        let mut next = 0;
        for (start, count) in &runs {
            // A block lies between two runs.
            let is_next = *start >= next && PageRange::new(*start, *count).is_within(blocks);
            if !is_next {
                return Err(malformed(format!("{count} blocks from {start} on are no run there")));
            }
            next = start + count + 1;
        }
        let pages = |(start, count): (u64, u64)| PageRange::new(start * block, count * block);
        Ok(runs.into_iter().map(pages).collect())
    }
}

fn malformed(reason: impl Into<String>) -> LoadError {
    LoadError::Malformed {
        schema: SavedTouched::SCHEMA.to_owned(),
        instance: String::new(),
        reason: reason.into(),
    }
}

#[cfg(test)]
#[path = "../tests/rig/huge_pages.rs"]
mod huge_pages;

#[cfg(test)]
mod tests {
    use super::huge_pages::ram_in_huge_pages;
    use super::*;
    use memory::{Backing, PageSet};
    use proptest::prelude::*;
    use state::Payload;

    const SIZE: u64 = 64 << 20;
    const BLOCKS: u64 = SIZE >> 21;

    fn huge() -> (GuestRam, GuestRam) {
        let ram = ram_in_huge_pages(SIZE);
        let file = ram.file().unwrap().try_clone_to_owned().unwrap();
        let other = GuestRam::from_file(file, SIZE, Backing::Huge2M, None).unwrap();
        (ram, other)
    }

    fn touched(ram: &GuestRam) -> Vec<PageRange> {
        ram.touched(PageRange::new(0, ram.pages())).unwrap()
    }

    fn bundle(of: Option<SavedTouched>) -> Bundle {
        let mut bundle = Bundle::new();
        of.iter().for_each(|touched| bundle.put("", touched));
        Bundle::decode(&bundle.encode()).unwrap()
    }

    #[test]
    fn what_the_kernel_cannot_tell_goes_along() {
        let (ram, other) = huge();
        for page in [0, 700, 512 * 9, 512 * BLOCKS - 1] {
            ram.slice(PageRange::new(page, 1)).unwrap().copy_from(&[7u8]);
        }
        let saved = SavedTouched::of(&ram).unwrap().unwrap();
        assert_eq!(saved.runs, [(0, 2), (9, 1), (BLOCKS - 1, 1)]);
        let mut state = bundle(Some(saved.clone()));
        SavedTouched::take(&mut state, &other).unwrap();
        state.finish().unwrap();
        assert_eq!(touched(&other), touched(&ram));
        // And further, though this process has accessed nothing of it.
        assert_eq!(SavedTouched::of(&other).unwrap(), Some(saved.clone()));
        assert!(SavedTouched::take(&mut bundle(Some(saved)), &other).is_err(), "it is known");
    }

    #[test]
    fn a_machine_whose_ram_waits_for_it_is_not_restored_without() {
        let (_ram, other) = huge();
        let error = SavedTouched::take(&mut bundle(None), &other).unwrap_err();
        assert!(matches!(error, LoadError::Missing { .. }), "{error}");
        assert!(other.awaits_touched());
    }

    #[test]
    fn where_the_kernel_can_tell_nothing_goes_along_and_nothing_is_taken() {
        let ram = GuestRam::new(SIZE, Backing::Small).unwrap();
        ram.slice(PageRange::new(3, 1)).unwrap().copy_from(&[7u8]);
        assert_eq!(SavedTouched::of(&ram).unwrap(), None);
        SavedTouched::take(&mut bundle(None), &ram).unwrap();
        let unasked = SavedTouched { block: 1, runs: vec![(9, 1)] };
        assert!(SavedTouched::take(&mut bundle(Some(unasked)), &ram).is_err());
        assert_eq!(touched(&ram), [PageRange::new(3, 1)]);
    }

    proptest! {
        #[test]
        fn hostile_runs_are_refused_or_are_runs_of_this_ram(
            block in prop_oneof![Just(1u64), any::<u64>()],
            runs in proptest::collection::vec(
                (prop_oneof![0u64..5000, any::<u64>()], prop_oneof![0u64..3000, any::<u64>()]), 0..5
            ),
        ) {
            let ram = GuestRam::new(16 << 20, Backing::Small).unwrap();
            let saved = Payload::pack("", &SavedTouched { block, runs: runs.clone() });
            let checked = saved.unpack::<SavedTouched>().unwrap().check(&ram);
            let mut set = PageSet::new(ram.pages());
            let fits = |&(start, count): &(u64, u64)| {
                count > 0 && u128::from(start) + u128::from(count) <= u128::from(ram.pages())
            };
            let apart = runs.is_sorted_by(|a, b| a.0.saturating_add(a.1) < b.0);
            let is_fine = block == 1 && runs.iter().all(fits) && apart;
            prop_assert_eq!(checked.is_ok(), is_fine);
            for run in checked.into_iter().flatten() {
                prop_assert!(run.is_within(ram.pages()) && set.count_in(run) == 0);
                set.insert(run);
            }
            let expected: Vec<_> = runs.iter().map(|r| PageRange::new(r.0, r.1)).collect();
            prop_assert!(!is_fine || set.runs().collect::<Vec<_>>() == expected);
        }
    }
}
