//! Guest RAM on a sealed memory file, or over a file of others.

use crate::mapping::{Mapping, Store, copy_own};
use crate::{
    Backing, Filling, Guarding, HugePool, Layout, LayoutError, MemoryFile, PAGE_SIZE, PageRange,
    PageSet, RamImage, touched,
};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::Advice;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, VolatileSlice};

/// The guest's memory as the rust-vmm crates see it. What the VMM writes through it is tracked:
/// [`GuestRam::take_written`].
pub type GuestMemory = GuestMemoryMmap<AtomicBitmap>;

/// Why guest RAM could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The size or the layout is impossible.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The pool of huge pages is too small.
    #[error(
        "{needed} huge pages of {pool} are needed for the guest's RAM and {free} are free: make \
         the pool larger ({}), or use --hugepages thp or off",
        pool.advice(*advice)
    )]
    HugePages {
        /// The pool.
        pool: HugePool,
        /// Pages needed.
        needed: u64,
        /// Pages free and not reserved.
        free: u64,
        /// A size of the pool that would do, in pages.
        advice: u64,
    },
    /// Transparent huge pages are switched off for shared memory.
    #[error(
        "transparent huge pages are off for shared memory: write `advise` to \
         /sys/kernel/mm/transparent_hugepage/shmem_enabled, or use --hugepages 2M or off"
    )]
    NoTransparent,
    /// A system call failed.
    #[error("guest RAM of {size} bytes: {action} failed: {source}")]
    System {
        /// What was being done.
        action: &'static str,
        /// Size of RAM in bytes.
        size: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A descriptor that was handed over is not this machine's RAM.
    #[error("the memory file is {found} bytes and the machine's RAM is {expected}")]
    WrongFile {
        /// Size of the file in bytes.
        found: u64,
        /// Size of RAM in bytes.
        expected: u64,
    },
    /// A file that somebody could cut short would end this process when it is accessed.
    #[error("the memory file can change its size: it is not sealed as a machine's RAM is")]
    NotSealed,
    /// A descriptor that was handed over is of other pages than the machine's RAM.
    #[error("the memory file has pages of {found} bytes, which is not what {backing} means")]
    WrongPages {
        /// Size of its pages in bytes.
        found: u64,
        /// What backs the machine's RAM.
        backing: Backing,
    },
}

/// All RAM of one machine: a sealed memory file, or one with a name, mapped once as a whole; or the
/// pages of a file that has them already, mapped so that what is written stays here.
///
/// Pages of which it is not known that they were touched are read through the file
/// ([`GuestRam::read`]): a read through the mapping would allocate the page, and cost would follow
/// the size of RAM and not its use.
#[derive(Debug)]
pub struct GuestRam {
    // Declared before `mapping`: it points into it.
    memory: GuestMemory,
    mapping: Mapping,
    store: Store,
    layout: Layout,
    backing: Backing,
    /// What was touched, as far as the kernel was asked or the process said that had it before.
    known: Mutex<PageSet>,
    /// What was touched through the mapping of another process cannot be known, and was not told.
    awaits_touched: AtomicBool,
    /// What brings in pages that are yet to come.
    filling: RwLock<Option<Arc<dyn Filling>>>,
    /// What has writers wait.
    guarding: RwLock<Option<Arc<dyn Guarding>>>,
}

impl GuestRam {
    /// Makes `size` bytes of RAM on a new memory file.
    ///
    /// # Errors
    /// [`RamError`], saying what to change when RAM cannot be had as asked. Never falls back to
    /// something else.
    pub fn new(size: u64, backing: Backing) -> Result<Self, RamError> {
        let layout = Layout::new(size, backing.page_size())?;
        check_available(size, backing)?;
        let system = |action| {
            move |e: rustix::io::Errno| RamError::System { action, size, source: e.into() }
        };
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        flags |= match backing {
            Backing::Small | Backing::Transparent => MemfdFlags::empty(),
            Backing::Huge2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            Backing::Huge1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
        };
        let file: File = rustix::fs::memfd_create("whimbrel-ram", flags)
            .map_err(system("creating its memory file"))?
            .into();
        rustix::fs::ftruncate(&file, size).map_err(system("sizing its memory file"))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(system("sealing its memory file"))?;
        Self::map(Store::File(file), layout, backing)
    }

    /// RAM that begins as what `image` holds. Pages are read from its file when they are touched, and
    /// shared with everybody else who does so until they are written.
    ///
    /// It has pages of 4 KiB, no memory file, and depends on the image for as long as it lives:
    /// [`Self::filling`] says whether that can still be had.
    ///
    /// # Errors
    /// [`RamError`] when it is laid out as no machine's RAM is, or cannot be mapped.
    pub fn over(image: Arc<RamImage>) -> Result<Self, RamError> {
        let layout = Layout::new(image.size(), PAGE_SIZE)?;
        let ram = Self::map(Store::Image(image.clone()), layout, Backing::Small)?;
        ram.set_filling(Some(image));
        Ok(ram)
    }

    /// RAM in a file with a name, which is what that holds.
    ///
    /// It has pages of 4 KiB. The file is not sealed: what becomes of it is noticed
    /// ([`Self::trouble`]).
    ///
    /// # Errors
    /// [`RamError`] when it is laid out as no machine's RAM is, or cannot be mapped.
    pub fn named(file: Arc<MemoryFile>) -> Result<Self, RamError> {
        let layout = Layout::new(file.size(), PAGE_SIZE)?;
        Self::map(Store::Named(file), layout, Backing::Small)
    }

    /// Takes over the memory file of a machine that ran elsewhere on this host, or still does.
    /// `touched` is what its [`GuestRam::touched`] said, for the backings of which the kernel cannot
    /// tell ([`Self::only_it_knows_touched`]); it can be [told](Self::learn_touched) later.
    ///
    /// # Errors
    /// [`RamError`] when the file is not as large as the machine's RAM, could be cut short, has other
    /// pages, or cannot be mapped.
    pub fn from_file(
        file: OwnedFd,
        size: u64,
        backing: Backing,
        touched: Option<PageSet>,
    ) -> Result<Self, RamError> {
        let layout = Layout::new(size, backing.page_size())?;
        let file = File::from(file);
        let found = file
            .metadata()
            .map_err(|source| RamError::System { action: "looking at its file", size, source })?
            .len();
        if found != size {
            return Err(RamError::WrongFile { found, expected: size });
        }
        check_file(&file, size, backing)?;
        let ram = Self::map(Store::File(file), layout, backing)?;
        ram.awaits_touched.store(ram.only_it_knows_touched(), Ordering::Release);
        if let Some(set) = touched.filter(|t| t.pages() == ram.pages()) {
            ram.learn_touched(set.runs());
        }
        Ok(ram)
    }

    fn map(store: Store, layout: Layout, backing: Backing) -> Result<Self, RamError> {
        let size = layout.size();
        let fail = |action| move |source| RamError::System { action, size, source };
        let length = usize::try_from(size).map_err(|_| LayoutError::TooLarge(size))?;
        let mapping =
            Mapping::new(&store, length, backing).map_err(fail("mapping its memory file"))?;
        if backing == Backing::Transparent {
            // SAFETY: advice on our own mapping; it changes no contents.
            unsafe { rustix::mm::madvise(mapping.base, length, Advice::LinuxHugepage) }
                .map_err(|e| fail("asking for transparent huge pages")(e.into()))?;
        }
        let mut regions = Vec::new();
        for region in layout.regions() {
            let offset = usize::try_from(region.offset).expect("an offset is below the length");
            let length = usize::try_from(region.length).expect("a part is below the length");
            let page = std::num::NonZeroUsize::new(4096).expect("4096 is not zero");
            // SAFETY: the region lies within the mapping, which lives as long as `memory` does:
            // both are fields of one struct, dropped in order.
            let built = unsafe {
                MmapRegionBuilder::new_with_bitmap(length, AtomicBitmap::new(length, page))
                    .with_raw_mmap_pointer(mapping.base.wrapping_byte_add(offset).cast())
                    .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                    .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
                    .build()
            }
            .map_err(|e| fail("describing its mapping")(io::Error::other(e)))?;
            regions.push(GuestRegionMmap::new(built, GuestAddress(region.address)).ok_or_else(
                || fail("placing it")(io::Error::other("a region ends beyond the address space")),
            )?);
        }
        let memory = GuestMemory::from_regions(regions)
            .map_err(|e| fail("arranging its regions")(io::Error::other(e)))?;
        let known = Mutex::new(PageSet::new(layout.pages()));
        Ok(Self {
            memory,
            mapping,
            store,
            layout,
            backing,
            known,
            awaits_touched: AtomicBool::new(false),
            filling: RwLock::default(),
            guarding: RwLock::default(),
        })
    }

    /// Where the guest sees it.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Size in pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.layout.pages()
    }

    /// What backs it.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// The memory by guest-physical address, for loaders and devices.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The memory file, unless RAM was begun [over](Self::over) a file of others.
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        match &self.store {
            Store::File(file) => Some(file.as_fd()),
            Store::Named(file) => Some(file.as_fd()),
            Store::Image(_) => None,
        }
    }

    /// The memory file, where it has a name.
    #[must_use]
    pub fn memory_file(&self) -> Option<&Arc<MemoryFile>> {
        match &self.store {
            Store::Named(file) => Some(file),
            Store::File(_) | Store::Image(_) => None,
        }
    }

    /// Why pages cannot be had at present, if that is known.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if let Some(file) = self.memory_file() {
            return file.check().err().map(|error| error.to_string());
        }
        self.filling().and_then(|filling| filling.trouble())
    }

    /// What RAM was begun [over](Self::over).
    #[must_use]
    pub fn image(&self) -> Option<&Arc<RamImage>> {
        match &self.store {
            Store::File(_) | Store::Named(_) => None,
            Store::Image(image) => Some(image),
        }
    }

    /// The address in this process at which the memory file is mapped as a whole; a KVM memory slot
    /// for a region starts at this plus the region's offset.
    #[must_use]
    pub fn host_base(&self) -> u64 {
        self.mapping.base as u64
    }

    /// Says what brings in pages that are yet to come, while the guest runs already; `None` when all
    /// have come. From now on [`Self::touched`], [`Self::read`] and [`Self::zero`] have the pages
    /// that they are about brought in first, and fail where they cannot be had: a page that has not
    /// come must not be taken for one that is zero.
    pub fn set_filling(&self, filling: Option<Arc<dyn Filling>>) {
        *self.filling.write().unwrap_or_else(PoisonError::into_inner) = filling;
    }

    /// What brings in pages that are yet to come, if any are.
    #[must_use]
    pub fn filling(&self) -> Option<Arc<dyn Filling>> {
        self.filling.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what has whoever writes wait until pages are copied as they were; `None` when nobody has to
    /// wait any more.
    pub fn set_guarding(&self, guarding: Option<Arc<dyn Guarding>>) {
        *self.guarding.write().unwrap_or_else(PoisonError::into_inner) = guarding;
    }

    fn guarding(&self) -> Option<Arc<dyn Guarding>> {
        self.guarding.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether an access through the mapping may have to wait for something other than the kernel.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.filling().is_some() || self.guarding().is_some()
    }

    /// The guest never executes another instruction: whoever waits is let go, with a page of zeroes where
    /// it was yet to come.
    pub fn let_go(&self) {
        if let Some(filling) = self.filling() {
            filling.abandon();
        }
        if let Some(guarding) = self.guarding() {
            guarding.abandon();
        }
    }

    /// Has the pages that are to come brought in.
    fn bring(&self, range: PageRange) -> io::Result<()> {
        self.filling().map_or(Ok(()), |filling| filling.bring(range))
    }

    /// Has pages that are yet to come brought in, for as long as they are `wanted`. Whether none of them is
    /// missing any more.
    ///
    /// # Errors
    /// That a page that is yet to come cannot be had; `InvalidInput` when the run is out of bounds.
    pub fn bring_while(&self, range: PageRange, wanted: &dyn Fn() -> bool) -> io::Result<bool> {
        self.check(range)?;
        self.filling().map_or(Ok(true), |filling| filling.bring_while(range, wanted))
    }

    /// Reads pages without allocating those that were never touched. Waits for those that are yet
    /// to come.
    ///
    /// # Errors
    /// What the kernel said, or that a page that is yet to come cannot be had; `InvalidInput` when
    /// the run or the buffer is out of bounds.
    pub fn read(&self, range: PageRange, buffer: &mut [u8]) -> io::Result<()> {
        self.check(range)?;
        if buffer.len() as u64 != range.bytes() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match &self.store {
            Store::File(file) => {
                self.bring(range)?;
                file.read_exact_at(buffer, range.offset())
            }
            Store::Named(file) => file.file().read_exact_at(buffer, range.offset()),
            Store::Image(_) => {
                buffer.fill(0);
                for run in self.touched(range)? {
                    let from = usize::try_from((run.start - range.start) * PAGE_SIZE);
                    let part = buffer[from.map_err(io::Error::other)?..]
                        .split_at_mut(usize::try_from(run.bytes()).map_err(io::Error::other)?);
                    self.copy(run, part.0)?;
                }
                Ok(())
            }
        }
    }

    /// Copies pages that were touched, as they are in the mapping. Waits for those that are yet to
    /// come, however long that takes.
    ///
    /// # Errors
    /// That a page cannot be had, where others can cut the file short; `InvalidInput` when the run or
    /// the buffer is out of bounds.
    pub fn copy(&self, range: PageRange, buffer: &mut [u8]) -> io::Result<()> {
        let slice = self.slice(range)?;
        if buffer.len() != slice.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match &self.store {
            Store::File(_) => {
                slice.copy_to(buffer);
                Ok(())
            }
            // By the kernel, for which a page that cannot be had is an error and not a signal.
            Store::Image(image) => {
                let copied = copy_own(slice.ptr_guard().as_ptr(), buffer);
                // What was copied of a file that is being cut short is not to be used.
                image.check().and(copied)
            }
            Store::Named(file) => {
                let copied = copy_own(slice.ptr_guard().as_ptr(), buffer);
                file.check().and(copied)
            }
        }
    }

    /// The pages themselves, for those who fill them before the guest runs, or look at pages that
    /// were touched. Accesses wait for pages that are yet to come, however long that takes.
    ///
    /// # Errors
    /// `InvalidInput` when the run is out of bounds.
    pub fn slice(&self, range: PageRange) -> io::Result<VolatileSlice<'_>> {
        self.check(range)?;
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let offset = usize::try_from(range.offset()).map_err(invalid)?;
        let length = usize::try_from(range.bytes()).map_err(invalid)?;
        // SAFETY: the run lies within the mapping (checked above), which lives as long as `self`;
        // volatile accesses allow for others at the same time.
        Ok(unsafe {
            VolatileSlice::new(self.mapping.base.wrapping_byte_add(offset).cast(), length)
        })
    }

    /// Whether a page that was touched is zero now. Looks through the mapping.
    ///
    /// # Errors
    /// `InvalidInput` when the page is out of bounds.
    pub fn is_zero(&self, page: u64) -> io::Result<bool> {
        const ZERO: [u8; 4096] = [0; 4096];
        let mut bytes = [0; 4096];
        if !matches!(self.store, Store::File(_)) {
            self.copy(PageRange::new(page, 1), &mut bytes)?;
            return Ok(bytes == ZERO);
        }
        let slice = self.slice(PageRange::new(page, 1))?;
        // Most pages that are not zero show it at once.
        let first = slice.load::<u64>(0, Ordering::Relaxed).map_err(io::Error::other)?;
        if first != 0 {
            return Ok(false);
        }
        slice.copy_to(&mut bytes);
        Ok(bytes == ZERO)
    }

    /// Has the kernel provide pages that are about to be filled, all at once, instead of one by one
    /// as they are written. Advice: where it is not taken they come one by one.
    pub fn prepare(&self, range: PageRange) {
        /// Fewer are not worth the call.
        const WORTHWHILE: u64 = 8;
        if range.count < WORTHWHILE {
            return;
        }
        let Ok(slice) = self.slice(range) else { return };
        // SAFETY: advice on our own mapping, within bounds; it changes no contents.
        let _ = unsafe {
            rustix::mm::madvise(
                slice.ptr_guard_mut().as_ptr().cast(),
                slice.len(),
                Advice::LinuxPopulateWrite,
            )
        };
    }

    /// Makes pages zero, touching only those that are not zero already.
    ///
    /// # Errors
    /// What the kernel said; `InvalidInput` when the run is out of bounds.
    pub fn zero(&self, range: PageRange) -> io::Result<()> {
        self.check(range)?;
        for run in self.touched(range)? {
            for page in run.start..run.end() {
                self.slice(PageRange::new(page, 1))?.copy_from(&[0u8; 4096]);
            }
        }
        Ok(())
    }

    /// The runs within `within` of pages that were ever touched: the others read as zero and need
    /// not be looked at. Waits for pages that are yet to come: afterwards none within is missing.
    ///
    /// # Errors
    /// What the kernel said, or that a page that is yet to come cannot be had; `InvalidInput` when
    /// the run is out of bounds.
    pub fn touched(&self, within: PageRange) -> io::Result<Vec<PageRange>> {
        self.check(within)?;
        self.bring(within)?;
        self.resident(within)
    }

    /// As [`Self::touched`], but without pages that are yet to come: how much memory is in use, not
    /// what RAM holds.
    ///
    /// # Errors
    /// What the kernel said; `InvalidInput` when the run is out of bounds; that it is not known, while
    /// RAM [awaits](Self::awaits_touched) it.
    pub fn resident(&self, within: PageRange) -> io::Result<Vec<PageRange>> {
        self.check(within)?;
        if self.awaits_touched() {
            let why =
                "what was touched of this RAM is known only to the process that had it before";
            return Err(io::Error::other(why));
        }
        match (&self.store, self.backing) {
            (Store::Image(image), _) => {
                touched::by_ownership(self.host_base(), within, image.present())
            }
            // Where the file cannot tell, all of it counts.
            (Store::Named(file), _) if !file.tells_touched() => Ok(vec![within]),
            (Store::Named(file), _) => {
                let mut known = self.known.lock().expect("no one panics while holding it");
                touched::by_seek(&**file, false, within, &mut known)
            }
            (Store::File(file), Backing::Small | Backing::Transparent) => {
                let mut known = self.known.lock().expect("no one panics while holding it");
                touched::by_seek(file, true, within, &mut known)
            }
            (Store::File(_), Backing::Huge2M | Backing::Huge1G) => {
                let mut known = self.known.lock().expect("no one panics while holding it");
                touched::by_page_map(self.host_base(), within, self.backing.unit(), &mut known)
            }
        }
    }

    /// Whether it is this process alone that knows what was touched: another one that takes over the
    /// memory file has to be told, because the kernel cannot say it there.
    #[must_use]
    pub fn only_it_knows_touched(&self) -> bool {
        matches!(self.store, Store::File(_)) && self.backing.pool().is_some()
    }

    /// Whether it has to be [told](Self::learn_touched) yet what was touched in another process. Until
    /// then nobody can say what it holds.
    #[must_use]
    pub fn awaits_touched(&self) -> bool {
        self.awaits_touched.load(Ordering::Acquire)
    }

    /// Takes in what was touched through the mapping of another process, which does not touch any more.
    /// Runs beyond the end are passed over.
    pub fn learn_touched(&self, runs: impl IntoIterator<Item = PageRange>) {
        let unit = self.backing.unit();
        let all = PageRange::new(0, self.pages());
        let mut known = self.known.lock().expect("no one panics while holding it");
        for run in runs.into_iter().filter_map(|run| run.intersection(all)) {
            let start = run.start / unit * unit;
            let end = run.end().next_multiple_of(unit);
            known.insert(PageRange::new(start, end - start));
        }
        drop(known);
        self.awaits_touched.store(false, Ordering::Release);
    }

    /// All blocks of so many pages (the last may be shorter) in which there is a page that was ever
    /// touched, whole. As [`Self::resident`], but with one question to the kernel for each block, however
    /// its pages lie: for when the guest stands still meanwhile.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn resident_blocks(&self, block: u64) -> io::Result<PageSet> {
        let all = PageRange::new(0, self.pages());
        if let (Store::File(file), None) = (&self.store, self.backing.pool()) {
            return touched::blocks(file, all.count, block);
        }
        let mut set = PageSet::new(all.count);
        for run in self.resident(all)? {
            let start = run.start / block * block;
            let end = run.end().next_multiple_of(block).min(all.count);
            set.insert(PageRange::new(start, end - start));
        }
        Ok(set)
    }

    /// As it was when it was new: no page of it was ever touched. For one machine after another, where
    /// making RAM anew costs more than it is used.
    ///
    /// # Errors
    /// What the kernel said; `Unsupported` for RAM that was begun over a file.
    pub fn clear(&mut self) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let file = self.file().ok_or(io::ErrorKind::Unsupported)?;
        rustix::fs::fallocate(file, flags, 0, self.layout.size())?;
        // What was known of the pages went with them.
        self.known = Mutex::new(PageSet::new(self.pages()));
        self.awaits_touched = AtomicBool::new(false);
        self.filling = RwLock::default();
        self.guarding = RwLock::default();
        self.take_written(&mut PageSet::new(self.pages()));
        Ok(())
    }

    /// Adds to `into` what the VMM itself has written through [`GuestRam::memory`] since the last
    /// call, and forgets it.
    pub fn take_written(&self, into: &mut PageSet) {
        use vm_memory::GuestMemoryBackend as _;
        for (region, part) in self.layout.regions().iter().zip(self.memory.iter()) {
            into.insert_bitmap(region.pages().start, &part.bitmap().get_and_reset());
        }
    }

    fn check(&self, range: PageRange) -> io::Result<()> {
        if range.is_within(self.pages()) {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "pages {}..{} are not within the {} of the guest",
                    range.start,
                    range.end(),
                    self.pages()
                ),
            ))
        }
    }
}

/// Looks beforehand whether the host can give what is asked, so that the error can say what to do.
fn check_available(size: u64, backing: Backing) -> Result<(), RamError> {
    if backing == Backing::Transparent {
        let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
        let chosen = std::fs::read_to_string(path).unwrap_or_default();
        let off = ["[never]", "[deny]"].iter().any(|word| chosen.contains(word));
        return if chosen.is_empty() || off { Err(RamError::NoTransparent) } else { Ok(()) };
    }
    let Some(pool) = backing.pool() else { return Ok(()) };
    let read = |name: &str| -> u64 {
        let text = std::fs::read_to_string(format!("{}/{name}", pool.folder())).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let needed = size / pool.page_size();
    let free = read("free_hugepages").saturating_sub(read("resv_hugepages"));
    if free >= needed {
        return Ok(());
    }
    Err(RamError::HugePages { pool, needed, free, advice: read("nr_hugepages") + needed - free })
}

/// Looks whether a file that was handed over can be mapped as RAM without harm.
fn check_file(file: &File, size: u64, backing: Backing) -> Result<(), RamError> {
    let needed = SealFlags::SHRINK | SealFlags::GROW;
    // Whatever has no seals is no memory file.
    if !rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(needed)) {
        return Err(RamError::NotSealed);
    }
    let about = rustix::fs::fstatfs(file).map_err(|e| RamError::System {
        action: "looking at the pages of its file",
        size,
        source: e.into(),
    })?;
    // Of a file of huge pages the block size is theirs (`hugetlbfs_statfs`).
    let found = u64::try_from(about.f_bsize).unwrap_or(0);
    if found != backing.unit() * PAGE_SIZE {
        return Err(RamError::WrongPages { found, backing });
    }
    Ok(())
}

const _: () = assert!(PAGE_SIZE == 4096, "the bitmap of VMM writes counts pages of 4096 bytes");

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(ram: &GuestRam) -> Vec<PageRange> {
        ram.touched(PageRange::new(0, ram.pages())).unwrap()
    }

    #[test]
    fn a_page_never_touched_reads_as_zero_and_stays_untouched() {
        let ram = GuestRam::new(16 << 20, Backing::Small).unwrap();
        let mut page = [7; 4096];
        ram.read(PageRange::new(9, 1), &mut page).unwrap();
        assert_eq!(page, [0; 4096]);
        assert_eq!(touched(&ram), []);
        ram.zero(PageRange::new(0, ram.pages())).unwrap();
        assert_eq!(touched(&ram), []);
    }

    #[test]
    fn what_the_vmm_writes_is_touched_and_tracked() {
        let ram = GuestRam::new(16 << 20, Backing::Small).unwrap();
        ram.memory().write_slice(&[1, 2, 3], GuestAddress(5 * 4096 - 1)).unwrap();
        assert_eq!(touched(&ram), [PageRange::new(4, 2)]);
        let mut written = PageSet::new(ram.pages());
        ram.take_written(&mut written);
        assert_eq!(written.runs().collect::<Vec<_>>(), [PageRange::new(4, 2)]);
        let mut again = PageSet::new(ram.pages());
        ram.take_written(&mut again);
        assert!(again.is_empty());
        let mut page = [0; 4096];
        ram.read(PageRange::new(5, 1), &mut page).unwrap();
        assert_eq!(page[..3], [2, 3, 0]);
    }

    #[test]
    fn what_is_cleared_was_never_touched_nor_written() {
        let mut ram = GuestRam::new(16 << 20, Backing::Small).unwrap();
        ram.memory().write_obj(1u8, GuestAddress(4096)).unwrap();
        assert_eq!(touched(&ram), [PageRange::new(1, 1)]);
        ram.clear().unwrap();
        assert_eq!(touched(&ram), []);
        let mut written = PageSet::new(ram.pages());
        ram.take_written(&mut written);
        assert!(written.is_empty());
        assert_eq!(ram.memory().read_obj::<u8>(GuestAddress(4096)).unwrap(), 0);
    }

    #[test]
    fn ram_above_the_hole_follows_in_the_file() {
        let ram = GuestRam::new(4 << 30, Backing::Small).unwrap();
        ram.memory().write_obj(0x55u8, GuestAddress(crate::HIGH_RAM)).unwrap();
        assert_eq!(touched(&ram), [PageRange::new(crate::PCI_HOLE / 4096, 1)]);
        let mut written = PageSet::new(ram.pages());
        ram.take_written(&mut written);
        assert!(written.contains(crate::PCI_HOLE / 4096));
    }

    #[test]
    fn the_file_cannot_change_its_size() {
        let ram = GuestRam::new(16 << 20, Backing::Small).unwrap();
        assert!(rustix::fs::ftruncate(ram.file().unwrap(), 1 << 20).is_err());
        assert!(rustix::fs::ftruncate(ram.file().unwrap(), 32 << 20).is_err());
        assert!(matches!(
            GuestRam::from_file(
                ram.file().unwrap().try_clone_to_owned().unwrap(),
                32 << 20,
                Backing::Small,
                None
            ),
            Err(RamError::WrongFile { .. })
        ));
    }

    #[test]
    fn a_file_that_could_change_its_size_is_refused_as_ram() {
        let size = 16 << 20;
        let adopt = |file: OwnedFd| GuestRam::from_file(file, size, Backing::Small, None);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        for seals in [SealFlags::empty(), SealFlags::GROW, SealFlags::SHRINK] {
            let file = rustix::fs::memfd_create("unsealed", flags).unwrap();
            rustix::fs::ftruncate(&file, size).unwrap();
            rustix::fs::fcntl_add_seals(&file, seals).unwrap();
            assert!(matches!(adopt(file), Err(RamError::NotSealed)), "{seals:?}");
        }
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        assert!(matches!(adopt(file.into()), Err(RamError::NotSealed)));
    }

    #[test]
    fn a_file_of_other_pages_is_refused_as_ram() {
        let ram = GuestRam::new(16 << 20, Backing::Small).unwrap();
        let fd = ram.file().unwrap().try_clone_to_owned().unwrap();
        let adopted = GuestRam::from_file(fd, 16 << 20, Backing::Huge2M, None);
        assert!(matches!(adopted, Err(RamError::WrongPages { found: 4096, .. })), "{adopted:?}");
    }

    #[test]
    fn a_second_mapping_of_the_file_sees_the_same_pages() {
        let ram = GuestRam::new(16 << 20, Backing::Small).unwrap();
        ram.memory().write_obj(42u64, GuestAddress(4096)).unwrap();
        let fd = ram.file().unwrap().try_clone_to_owned().unwrap();
        let other = GuestRam::from_file(fd, 16 << 20, Backing::Small, None).unwrap();
        assert_eq!(other.memory().read_obj::<u64>(GuestAddress(4096)).unwrap(), 42);
        assert_eq!(touched(&other), [PageRange::new(1, 1)]);
    }

    #[test]
    fn pages_out_of_bounds_are_an_error() {
        let ram = GuestRam::new(16 << 20, Backing::Small).unwrap();
        assert!(ram.slice(PageRange::new(ram.pages(), 1)).is_err());
        assert!(ram.slice(PageRange::new(u64::MAX, 2)).is_err());
        assert!(ram.read(PageRange::new(0, 1), &mut [0; 1]).is_err());
        assert!(ram.zero(PageRange::new(1, u64::MAX)).is_err());
    }

    #[test]
    fn huge_pages_that_are_not_there_are_refused_with_advice() {
        let size = 1 << 40;
        let error = GuestRam::new(size, Backing::Huge2M).unwrap_err().to_string();
        assert!(error.contains("(sysctl vm.nr_hugepages="), "{error}");
        let error = GuestRam::new(size, Backing::Huge1G).unwrap_err().to_string();
        assert!(error.contains("1024 huge pages of 1 GiB are needed"), "{error}");
        assert!(error.contains("hugepages-1048576kB/nr_hugepages)"), "{error}");
    }
}
