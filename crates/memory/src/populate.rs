//! Filling in the page tables of a process that takes RAM over.

use crate::{GuestRam, PageRange};
use rustix::io::Errno;
use rustix::mm::Advice;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Pages that are asked for at once: 1 MiB, which takes a quarter of a millisecond in pages of 4 KiB.
const CHUNK: u64 = 256;

impl GuestRam {
    /// Has the kernel enter all pages that were touched into this process's page tables, in which a
    /// guest that goes on here would otherwise fault on each of them. Pages that were never touched
    /// stay so, no contents change, and the guest may be running elsewhere meanwhile.
    ///
    /// So many `threads` share the work, in steps of a MiB; before each they ask whether to `go_on`.
    /// Says how many pages there are now. Pages that are left out cost time and nothing else: so does a
    /// kernel that cannot do it (before Linux 5.14), RAM of private pages over a file, and RAM that
    /// [awaits](Self::awaits_touched) what was touched, of which none are entered.
    ///
    /// Of RAM in a file with a name those pages are entered that the kernel has in memory, and only for
    /// reading: entered for writing, they would all have to be written back, and those that are not in
    /// memory would have to be read first. The guest faults once more on each that it writes, as it does
    /// wherever such a page was written back.
    ///
    /// # Errors
    /// What the kernel said when it had no memory for page tables, or was asked what was touched.
    pub fn populate(&self, threads: usize, go_on: &(dyn Fn() -> bool + Sync)) -> io::Result<u64> {
        if self.image().is_some() || self.awaits_touched() {
            return Ok(0);
        }
        let runs = self.resident(PageRange::new(0, self.pages()))?;
        let chunks = Mutex::new(runs.into_iter().flat_map(chunks));
        let (done, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        let work = || -> io::Result<()> {
            while !ended.load(Ordering::Relaxed) && go_on() {
                let next = chunks.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(chunk) = next else { return Ok(()) };
                let entered = match self.memory_file() {
                    None => self.populate_run(chunk, Advice::LinuxPopulateWrite, go_on),
                    Some(_) => self.populate_cached(chunk, go_on),
                };
                match entered {
                    Ok(count) => drop(done.fetch_add(count, Ordering::Relaxed)),
                    Err(e) => {
                        ended.store(true, Ordering::Relaxed);
                        return if e == Errno::INVAL { Ok(()) } else { Err(e.into()) };
                    }
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let start =
                |_| thread::Builder::new().name("populate".to_owned()).spawn_scoped(scope, work);
            // Where there is no thread to be had, the others do its share.
            let others: Vec<_> = (1..threads).filter_map(|i| start(i).ok()).collect();
            let mut outcome = work();
            for other in others {
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                outcome = outcome.and(other);
            }
            outcome
        })?;
        Ok(done.into_inner())
    }

    /// As [`Self::populate_run`], for reading, without what is not in memory.
    fn populate_cached(&self, chunk: PageRange, go_on: &dyn Fn() -> bool) -> Result<u64, Errno> {
        let Ok(slice) = self.slice(chunk) else { return Ok(0) };
        let mut cached = vec![0_u8; usize::try_from(chunk.count).map_err(|_| Errno::INVAL)?];
        let start = slice.ptr_guard_mut().as_ptr();
        // SAFETY: our own mapping, within bounds, and a byte for each of its pages (mincore(2)).
        if unsafe { libc::mincore(start.cast(), slice.len(), cached.as_mut_ptr()) } != 0 {
            return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL));
        }
        let (mut at, mut entered) = (chunk.start, 0);
        for part in cached.chunk_by(|one, next| one & 1 == next & 1) {
            let run = PageRange::new(at, u64::try_from(part.len()).map_err(|_| Errno::INVAL)?);
            at = run.end();
            if part[0] & 1 == 1 {
                entered += self.populate_run(run, Advice::LinuxPopulateRead, go_on)?;
            }
        }
        Ok(entered)
    }

    /// Enters a run, and says how many pages there are of it now. Fails where there is no point in going
    /// on.
    fn populate_run(
        &self,
        run: PageRange,
        advice: Advice,
        go_on: &dyn Fn() -> bool,
    ) -> Result<u64, Errno> {
        let Ok(slice) = self.slice(run) else { return Ok(0) };
        loop {
            // SAFETY: advice on our own mapping, within bounds; it changes no contents.
            let outcome = unsafe {
                rustix::mm::madvise(slice.ptr_guard_mut().as_ptr().cast(), slice.len(), advice)
            };
            match outcome {
                Ok(()) => return Ok(run.count),
                Err(Errno::INTR | Errno::AGAIN) if go_on() => {}
                // One that cannot be had now (EFAULT), or is lost for good (EHWPOISON): the guest
                // will see, if it ever comes there.
                Err(Errno::INTR | Errno::AGAIN | Errno::FAULT | Errno::HWPOISON) => return Ok(0),
                Err(e) => return Err(e),
            }
        }
    }
}

/// The run in parts of at most [`CHUNK`] pages.
fn chunks(run: PageRange) -> impl Iterator<Item = PageRange> {
    let step = usize::try_from(CHUNK).unwrap_or(usize::MAX);
    let part = move |start| PageRange::new(start, CHUNK.min(run.end() - start));
    (run.start..run.end()).step_by(step).map(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, MemoryFile, PAGE_SIZE, PageSet, RamError, RamImage};
    use proptest::prelude::*;
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::sync::Arc;

    const SIZE: u64 = 64 << 20;

    /// The same RAM in what could be another process: nothing of it is mapped there yet.
    fn other(ram: &GuestRam) -> GuestRam {
        let file = ram.file().unwrap().try_clone_to_owned().unwrap();
        GuestRam::from_file(file, ram.layout().size(), ram.backing(), None).unwrap()
    }

    /// RAM in huge pages, of which the host is asked for more where it has too few.
    fn huge() -> GuestRam {
        let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
        for _ in 0..100 {
            match GuestRam::new(SIZE, Backing::Huge2M) {
                Err(RamError::HugePages { advice, .. }) => {
                    std::fs::write(pool, advice.to_string())
                        .expect("this test needs huge pages, and may not ask for them");
                }
                ram => return ram.unwrap(),
            }
            // Others take them too, and give them back.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("this test needs huge pages, and the host has none");
    }

    fn touch(ram: &GuestRam, page: u64) {
        ram.slice(PageRange::new(page, 1)).unwrap().copy_from(&[page.to_le_bytes()[0] | 1]);
    }

    /// The pages that an access would not fault on.
    fn entered(ram: &GuestRam) -> PageSet {
        let map = File::open("/proc/self/pagemap").unwrap();
        let mut set = PageSet::new(ram.pages());
        let mut entries = vec![0; usize::try_from(ram.pages() * 8).unwrap()];
        map.read_exact_at(&mut entries, ram.host_base() / PAGE_SIZE * 8).unwrap();
        for (page, entry) in (0..).zip(entries.as_chunks().0) {
            if u64::from_le_bytes(*entry) >> 63 == 1 {
                set.insert(PageRange::new(page, 1));
            }
        }
        set
    }

    fn allocated(ram: &GuestRam) -> u64 {
        let stat = rustix::fs::fstat(ram.file().unwrap()).unwrap();
        u64::try_from(stat.st_blocks).unwrap() * 512
    }

    fn touched(ram: &GuestRam) -> PageSet {
        let mut set = PageSet::new(ram.pages());
        for run in ram.touched(PageRange::new(0, ram.pages())).unwrap() {
            set.insert(run);
        }
        set
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

        #[test]
        fn what_was_touched_is_entered_and_nothing_else(
            runs in proptest::collection::vec((0..SIZE / PAGE_SIZE, 1u64..3000), 0..6),
            threads in 0usize..4,
        ) {
            let ram = GuestRam::new(SIZE, Backing::Small).unwrap();
            for (start, count) in runs {
                (start..(start + count).min(ram.pages())).for_each(|page| touch(&ram, page));
            }
            let (before, held) = (touched(&ram), allocated(&ram));
            let new = other(&ram);
            prop_assert!(entered(&new).is_empty());
            prop_assert_eq!(new.populate(threads, &|| true).unwrap(), before.count());
            prop_assert_eq!(entered(&new), before.clone());
            prop_assert_eq!(touched(&other(&ram)), before.clone());
            prop_assert_eq!(allocated(&ram), held);
            for page in before.runs().flat_map(|run| run.start..run.end()) {
                let mut bytes = [0; 4096];
                new.read(PageRange::new(page, 1), &mut bytes).unwrap();
                prop_assert_eq!(bytes[0], page.to_le_bytes()[0] | 1);
            }
        }
    }

    #[test]
    fn transparent_huge_pages_are_entered_and_none_is_made() {
        let ram = GuestRam::new(SIZE, Backing::Transparent).unwrap_or_else(|_| {
            std::fs::write("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise")
                .expect("this test needs transparent huge pages, and may not allow them");
            GuestRam::new(SIZE, Backing::Transparent).unwrap()
        });
        [0, 1500, 9000].into_iter().for_each(|page| touch(&ram, page));
        let (before, held) = (touched(&ram), allocated(&ram));
        let new = other(&ram);
        assert_eq!(new.populate(2, &|| true).unwrap(), before.count());
        assert_eq!((entered(&new), allocated(&ram)), (before, held));
    }

    #[test]
    fn huge_pages_are_entered_once_it_was_told_which_were_touched() {
        let ram = huge();
        [0, 1, 5000, 16383].into_iter().for_each(|page| touch(&ram, page));
        let (before, held) = (touched(&ram), allocated(&ram));
        assert_eq!(before.count(), 3 * 512);
        assert!(ram.only_it_knows_touched() && !ram.awaits_touched());
        let new = other(&ram);
        assert!(new.awaits_touched());
        assert_eq!(new.populate(1, &|| true).unwrap(), 0);
        assert!(new.touched(PageRange::new(0, 1)).is_err(), "it is not said to be untouched");
        // One page stands for all that come and go with it; what lies outside for nothing.
        let all = [PageRange::new(1, 1), PageRange::new(u64::MAX, 1), PageRange::new(5000, 1)];
        new.learn_touched(all.into_iter().chain([PageRange::new(16383, u64::MAX)]));
        assert_eq!(touched(&new), before);
        assert_eq!(new.populate(2, &|| true).unwrap(), before.count());
        assert_eq!((entered(&new), allocated(&ram)), (before, held));
    }

    /// How much of this RAM would have to be written back, in bytes, as this process's mapping shows it.
    fn dirty(ram: &GuestRam) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let begin = format!("{:x}-", ram.host_base());
        let mapping = maps.lines().skip_while(|line| !line.starts_with(&begin)).take(25);
        let kib = |line: &str| {
            let rest = line.split_once("_Dirty:")?.1.trim().strip_suffix(" kB")?;
            rest.parse::<u64>().ok()
        };
        mapping.filter_map(kib).sum::<u64>() * 1024
    }

    #[test]
    fn of_a_named_file_what_is_in_memory_is_entered_and_nothing_is_to_be_written_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ram");
        let file = MemoryFile::create(&path, SIZE, [1; 16], [2; 16], false, false).unwrap();
        let is_volatile = file.is_volatile().unwrap().is_some();
        let ram = GuestRam::named(Arc::new(file)).unwrap();
        let (kept, dropped) = (PageRange::new(0, 1024), PageRange::new(8192, 1024));
        [kept, dropped].into_iter().flat_map(|run| run.start..run.end()).for_each(|page| {
            touch(&ram, page);
        });
        ram.memory_file().unwrap().make_durable().unwrap();
        drop(ram);
        let file = File::open(&path).unwrap();
        let (at, length) = (dropped.start * PAGE_SIZE, dropped.count * PAGE_SIZE);
        let length = std::num::NonZeroU64::new(length);
        rustix::fs::fadvise(&file, at, length, rustix::fs::Advice::DontNeed).unwrap();

        let ram = GuestRam::named(Arc::new(MemoryFile::open(&path).unwrap())).unwrap();
        let held = file.metadata().unwrap();
        let count = ram.populate(2, &|| true).unwrap();
        let entered = entered(&ram);
        assert!(count >= kept.count && count <= kept.count + dropped.count, "{count}");
        assert_eq!(entered.count_in(kept), kept.count);
        if !is_volatile {
            assert_eq!(entered.count(), kept.count, "what was only on the disk was left there");
            assert_eq!(dirty(&ram), 0);
        }
        assert_eq!(file.metadata().unwrap().blocks(), held.blocks());
        touch(&ram, 5);
        assert!(dirty(&ram) > 0, "what is written shows");
    }

    #[test]
    fn it_ends_when_it_is_told_to() {
        let ram = GuestRam::new(SIZE, Backing::Small).unwrap();
        (0..ram.pages()).for_each(|page| touch(&ram, page));
        let new = other(&ram);
        let asked = AtomicU64::new(0);
        let twice = || asked.fetch_add(1, Ordering::Relaxed) < 2;
        assert_eq!(new.populate(1, &twice).unwrap(), 2 * CHUNK);
        assert_eq!(entered(&new).count(), 2 * CHUNK);
        assert_eq!(new.populate(3, &|| false).unwrap(), 0);
    }

    #[test]
    fn private_pages_over_a_file_are_left_alone() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16 << 20).unwrap();
        let mut present = PageSet::new(4096);
        present.insert(PageRange::new(3, 100));
        let image = RamImage::new(file.into(), "it".to_owned(), 0, present).unwrap();
        let ram = GuestRam::over(Arc::new(image)).unwrap();
        assert_eq!(ram.populate(1, &|| true).unwrap(), 0);
        assert!(entered(&ram).is_empty());
    }

    #[test]
    fn a_run_is_cut_into_chunks() {
        assert!(chunks(PageRange::new(7, 0)).next().is_none());
        let parts: Vec<_> = chunks(PageRange::new(7, 2 * CHUNK + 1)).collect();
        let last = PageRange::new(7 + 2 * CHUNK, 1);
        assert_eq!((parts.len(), parts[1].start, parts[2]), (3, 7 + CHUNK, last));
    }
}
