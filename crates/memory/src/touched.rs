//! Which pages of a RAM file were ever touched.

use crate::{PAGE_SIZE, PageRange, PageSet, cached};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// In an entry of the page map: the page is in memory or swapped out
/// (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;

/// Pages that are counted at once: some microseconds' work.
const PIECE: u64 = 512;

/// Adds a run behind those that there are, to the last of them where they are adjacent.
fn append(runs: &mut Vec<PageRange>, run: PageRange) {
    match runs.last_mut() {
        Some(last) if last.end() == run.start => last.count += run.count,
        _ => runs.push(run),
    }
}

/// Asks a shmem file: what is not a hole was touched. A fresh mapping's page map would not know
/// (`lseek(2)`, `SEEK_DATA`).
///
/// `known` is what was found before, and is not asked again. Pages that were discarded since then count as
/// touched, and read as zero.
///
/// `SEEK_HOLE` walks all the way to the next hole, milliseconds for each GiB, and a kernel that does not preempt
/// itself lets no vCPU run on that processor meanwhile. So a shmem file (`is_shmem`) is first asked how many
/// pages of a [piece](PIECE) there are: where all of them are there, nobody need look for a hole.
pub(crate) fn by_seek(
    file: impl AsFd,
    is_shmem: bool,
    within: PageRange,
    known: &mut PageSet,
) -> io::Result<Vec<PageRange>> {
    let data_from = |page: u64| match rustix::fs::seek(&file, SeekFrom::Data(page * PAGE_SIZE)) {
        Ok(data) => Ok(data / PAGE_SIZE),
        Err(rustix::io::Errno::NXIO) => Ok(u64::MAX),
        Err(e) => Err(io::Error::from(e)),
    };
    let mut gaps = Vec::new();
    let mut next = within.start;
    for run in known.runs_in(within) {
        gaps.push(next..run.start);
        next = run.end();
    }
    gaps.push(next..within.end());
    for gap in gaps {
        // A walk from here could go through all that is known on the other side, for a few pages.
        let is_bounded = gap.end < known.pages() && known.contains(gap.end);
        let mut at = gap.start;
        while at < gap.end {
            let data = data_from(at)?;
            if data >= gap.end {
                break;
            }
            let piece = PageRange::new(data, PIECE.min(gap.end - data));
            let there = if is_shmem { cached::pages(&file, piece)? } else { None };
            let hole = match there {
                Some(pages) if pages == piece.count => piece.end(),
                None if is_bounded => {
                    let mut page = data + 1;
                    while page < gap.end && data_from(page)? == page {
                        page += 1;
                    }
                    page
                }
                // Where they were counted there is a hole within the piece.
                Some(_) | None => {
                    let hole = rustix::fs::seek(&file, SeekFrom::Hole(data * PAGE_SIZE))?;
                    hole.div_ceil(PAGE_SIZE).min(known.pages())
                }
            };
            known.insert(PageRange::new(data, hole - data));
            at = hole;
        }
    }
    Ok(known.runs_in(within).collect())
}

/// Asks a shmem file of `pages` pages for each block of so many whether anything in it was touched.
pub(crate) fn blocks(file: impl AsFd, pages: u64, block: u64) -> io::Result<PageSet> {
    let mut set = PageSet::new(pages);
    let mut at = 0;
    while at < pages {
        let start = match rustix::fs::seek(&file, SeekFrom::Data(at * PAGE_SIZE)) {
            Ok(data) => data / PAGE_SIZE / block * block,
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        at = start + block;
        set.insert(PageRange::new(start, at.min(pages) - start));
    }
    Ok(set)
}

/// Asks the page map of this process's mapping at `base`: for hugetlb, on whose files `SEEK_DATA`
/// reports data everywhere. It knows of what this mapping touched (KVM's guest faults included),
/// one entry for each 4 KiB (Documentation/admin-guide/mm/pagemap.rst). `unit` is how many of those a
/// huge page has.
///
/// `known` is what was found before, or was touched through other mappings. It is not asked again.
pub(crate) fn by_page_map(
    base: u64,
    within: PageRange,
    unit: u64,
    known: &mut PageSet,
) -> io::Result<Vec<PageRange>> {
    let map = File::open("/proc/self/pagemap")?;
    let mut runs: Vec<PageRange> = Vec::new();
    let mut page = within.start / unit * unit;
    while page < within.end() {
        let huge = PageRange::new(page, unit);
        if !known.contains(page) {
            let mut entry = [0; 8];
            map.read_exact_at(&mut entry, (base / PAGE_SIZE + page) * 8)?;
            if u64::from_le_bytes(entry) & PRESENT_OR_SWAPPED != 0 {
                known.insert(huge);
            }
        }
        if known.contains(page)
            && let Some(run) = huge.intersection(within)
        {
            append(&mut runs, run);
        }
        page += unit;
    }
    Ok(runs)
}

/// Asks the page map of the private mapping of a file at `base` which pages were written, and are this
/// process's own by now; to which `begun`, what the file has, is added.
pub(crate) fn by_ownership(
    base: u64,
    within: PageRange,
    begun: &PageSet,
) -> io::Result<Vec<PageRange>> {
    const OF_A_FILE: u64 = 1 << 61;
    const ENTRIES: u64 = 512;
    let is_own = |entry: u64| entry & PRESENT_OR_SWAPPED != 0 && entry & OF_A_FILE == 0;
    let map = File::open("/proc/self/pagemap")?;
    let mut entries = Vec::new();
    let mut runs: Vec<PageRange> = Vec::new();
    let mut at = within.start;
    while at < within.end() {
        let count = ENTRIES.min(within.end() - at);
        entries.resize(usize::try_from(count * 8).map_err(io::Error::other)?, 0);
        map.read_exact_at(&mut entries, (base / PAGE_SIZE + at) * 8)?;
        for (page, entry) in (at..).zip(entries.as_chunks().0) {
            if !begun.contains(page) && !is_own(u64::from_le_bytes(*entry)) {
                continue;
            }
            append(&mut runs, PageRange::new(page, 1));
        }
        at += count;
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::MemfdFlags;

    const PAGES: u64 = 64;

    fn file() -> File {
        let file = File::from(rustix::fs::memfd_create("touched", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(PAGES * PAGE_SIZE).unwrap();
        file
    }

    fn touch(file: &File, pages: &PageSet) {
        for run in pages.runs() {
            for page in run.start..run.end() {
                file.write_all_at(&[1], page * PAGE_SIZE).unwrap();
            }
        }
    }

    fn some_pages() -> impl Strategy<Value = PageSet> {
        proptest::collection::vec((0..PAGES, 1..20u64), 0..6).prop_map(|runs| {
            let mut set = PageSet::new(PAGES);
            for (start, count) in runs {
                set.insert(PageRange::new(start, count.min(PAGES - start)));
            }
            set
        })
    }

    proptest! {
        #[test]
        fn a_block_counts_as_touched_when_a_page_of_it_was(
            pages in some_pages(), block in 1..PAGES + 2,
        ) {
            let file = file();
            touch(&file, &pages);
            let found = blocks(&file, PAGES, block).unwrap();
            for page in 0..PAGES {
                let start = page / block * block;
                let whole = PageRange::new(start, block.min(PAGES - start));
                prop_assert_eq!(found.contains(page), pages.count_in(whole) > 0);
            }
        }

        #[test]
        fn what_was_touched_is_found_however_much_is_known_already(
            rounds in proptest::collection::vec((some_pages(), 0..PAGES, 1..=PAGES), 1..8),
            is_shmem in any::<bool>(),
        ) {
            let file = file();
            let mut known = PageSet::new(PAGES);
            let mut touched = PageSet::new(PAGES);
            for (pages, start, count) in rounds {
                touch(&file, &pages);
                touched.union_with(&pages);
                let within = PageRange::new(start, count.min(PAGES - start));
                let found = by_seek(&file, is_shmem, within, &mut known).unwrap();
                prop_assert_eq!(found, touched.runs_in(within).collect::<Vec<_>>());
            }
        }
    }
}
