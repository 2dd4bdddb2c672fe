//! Which pages of a RAM file were ever touched.

use crate::{HUGE_2M, PAGE_SIZE, PageRange, PageSet};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// Asks a shmem file: what is not a hole was touched. A fresh mapping's page map would not know
/// (`lseek(2)`, `SEEK_DATA`).
pub(crate) fn by_seek(file: impl AsFd, within: PageRange) -> io::Result<Vec<PageRange>> {
    let mut runs = Vec::new();
    let end = within.offset() + within.bytes();
    let mut at = within.offset();
    while at < end {
        let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) if data < end => data,
            Ok(_) | Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data))?.min(end);
        let (first, last) = (data / PAGE_SIZE, hole.div_ceil(PAGE_SIZE));
        runs.push(PageRange::new(first, last - first));
        at = hole;
    }
    Ok(runs)
}

/// Asks the page map of this process's mapping at `base`: for hugetlb, on whose files `SEEK_DATA`
/// reports data everywhere. It knows of what this mapping touched (KVM's guest faults included),
/// one entry for each 4 KiB (Documentation/admin-guide/mm/pagemap.rst). `carried` is what was touched
/// through other mappings, before.
pub(crate) fn by_page_map(
    base: u64,
    within: PageRange,
    carried: &PageSet,
) -> io::Result<Vec<PageRange>> {
    const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;
    let map = File::open("/proc/self/pagemap")?;
    let step = HUGE_2M / PAGE_SIZE;
    let mut runs: Vec<PageRange> = Vec::new();
    let mut page = within.start / step * step;
    while page < within.end() {
        let mut entry = [0; 8];
        map.read_exact_at(&mut entry, (base / PAGE_SIZE + page) * 8)?;
        let present = u64::from_le_bytes(entry) & PRESENT_OR_SWAPPED != 0;
        if (present || carried.contains(page))
            && let Some(run) = PageRange::new(page, step).intersection(within)
        {
            match runs.last_mut() {
                Some(last) if last.end() == run.start => last.count += run.count,
                _ => runs.push(run),
            }
        }
        page += step;
    }
    Ok(runs)
}
