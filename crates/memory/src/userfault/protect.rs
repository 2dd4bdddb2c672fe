//! Writes that wait: userfaultfd write protection.

use super::{Fault, Userfault, UserfaultError, abi, open};
use crate::{GuestRam, PageRange};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// How much is unregistered at a time, in pages: the kernel holds the lock of the whole address space
/// meanwhile, and walks the page tables under it.
const PART: u64 = (256 << 20) / crate::PAGE_SIZE;

/// The writes to one machine's RAM that are to wait, and the means to let them through.
///
/// Whoever writes a [protected](Self::protect) page through [`GuestRam`]'s mapping waits until it is
/// [let through](Self::let_through): the guest, KVM on its behalf, and the VMM itself. Whoever writes
/// through the memory *file*, or another mapping of it, does not; nobody may. Reading is always free.
///
/// When the last one is dropped all writes go through again.
///
/// All methods may be called from many threads.
#[derive(Debug)]
pub struct WriteProtection {
    userfault: Userfault,
}

impl AsFd for WriteProtection {
    /// Readable when somebody waits: for `poll`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.userfault.as_fd()
    }
}

impl WriteProtection {
    /// Gets the means, as [`Userfault::open`] does. Protects nothing yet.
    ///
    /// # Errors
    /// [`UserfaultError`], which says how it can be allowed.
    pub fn open(ram: Arc<GuestRam>) -> Result<Self, UserfaultError> {
        let fd = open::open()?;
        let features = abi::FEATURE_THREAD_ID
            | abi::FEATURE_PAGEFAULT_FLAG_WP
            | abi::FEATURE_WP_HUGETLBFS_SHMEM;
        abi::shake_hands(fd.as_fd(), features).map_err(UserfaultError::Protect)?;
        Ok(Self { userfault: Userfault { fd, ram } })
    }

    /// The RAM.
    #[must_use]
    pub fn ram(&self) -> &Arc<GuestRam> {
        self.userfault.ram()
    }

    /// The pages that can only be protected together, as [`Userfault::unit`] has it.
    #[must_use]
    pub fn unit(&self) -> u64 {
        self.userfault.unit()
    }

    /// Makes all of RAM ready to be protected. Nobody waits yet.
    ///
    /// # Errors
    /// What the kernel said: `EBUSY` when pages of it are yet to come by another userfaultfd.
    pub fn register(&self) -> io::Result<()> {
        let all = self.userfault.range(self.all())?;
        // SAFETY: the range is of the mapping of `ram`, which `self` keeps. Nothing in it is changed.
        // Code that accesses guest RAM goes through volatile accesses or system calls, which may take as
        // long as they like.
        let can = unsafe { abi::register(self.as_fd(), all, abi::REGISTER_WP) }?;
        if can & abi::CAN_WRITEPROTECT == 0 {
            return Err(io::Error::other("the kernel cannot protect pages of this kind"));
        }
        Ok(())
    }

    /// From now on whoever writes a page of `range` waits, also where it was never touched. Whole units.
    ///
    /// # Errors
    /// What the kernel said (`ENOMEM`: page tables are needed); some pages may be protected.
    pub fn protect(&self, range: PageRange) -> io::Result<()> {
        self.set(range, true)
    }

    /// Writes to pages of `range` go through, and whoever waits for that goes on. Whole units.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn let_through(&self, range: PageRange) -> io::Result<()> {
        self.set(range, false)
    }

    fn set(&self, range: PageRange, protect: bool) -> io::Result<()> {
        let at = self.userfault.range(range)?;
        loop {
            let (start, length) = (at.start, at.length);
            match abi::protect(self.as_fd(), abi::Range { start, length }, protect) {
                // The mapping was just being changed.
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
                done => return done,
            }
        }
    }

    /// Lets all writes through, and whoever waits goes on. No page can be protected from now on.
    ///
    /// # Errors
    /// What the kernel said; it was tried for all of RAM.
    pub fn unregister(&self) -> io::Result<()> {
        let pages = self.ram().pages();
        let mut result = Ok(());
        for start in (0..pages).step_by(usize::try_from(PART).expect("a part is addressable")) {
            let part = PageRange::new(start, PART.min(pages - start));
            let done = self.userfault.range(part).and_then(|at| abi::unregister(self.as_fd(), at));
            result = result.and(done);
        }
        // Who began to wait after the kernel had woken all, and before it was done, would wait for ever.
        result.and(self.userfault.wake(self.all()))
    }

    /// Somebody who waits, as [`Userfault::take_fault`] has it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn take_fault(&self) -> io::Result<Option<Fault>> {
        self.userfault.take_fault()
    }

    fn all(&self) -> PageRange {
        PageRange::new(0, self.ram().pages())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, PAGE_SIZE};
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::thread;
    use std::time::{Duration, Instant};
    use vm_memory::{Bytes as _, GuestAddress};

    fn ram(backing: Backing) -> Arc<GuestRam> {
        Arc::new(GuestRam::new(16 << 20, backing).unwrap())
    }

    fn protection(ram: &Arc<GuestRam>) -> WriteProtection {
        let protection = WriteProtection::open(ram.clone()).unwrap();
        protection.register().unwrap();
        protection
    }

    fn write(ram: &GuestRam, page: u64, value: u8) {
        ram.memory().write_obj(value, GuestAddress(page * PAGE_SIZE)).unwrap();
    }

    fn in_file(ram: &GuestRam, page: u64) -> u8 {
        let mut bytes = [0; 4096];
        ram.read(PageRange::new(page, 1), &mut bytes).unwrap();
        bytes[0]
    }

    fn fault(protection: &WriteProtection) -> Fault {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(fault) = protection.take_fault().unwrap() {
                return fault;
            }
            assert!(Instant::now() < end, "nobody waits");
            thread::yield_now();
        }
    }

    /// Each kind of RAM that can be had here.
    fn backings() -> Vec<Backing> {
        let all = [Backing::Small, Backing::Transparent, Backing::Huge2M];
        all.into_iter().filter(|backing| GuestRam::new(16 << 20, *backing).is_ok()).collect()
    }

    #[test]
    fn a_write_to_a_protected_page_waits_whatever_backs_it_and_whether_it_is_mapped_or_not() {
        for backing in backings() {
            let ram = ram(backing);
            // Touched, never touched, and touched through the file alone, so that it is not mapped.
            write(&ram, 0, 1);
            let mut pages = vec![0, 1024];
            if backing != Backing::Huge2M {
                let file = std::fs::File::from(ram.file().unwrap().try_clone_to_owned().unwrap());
                std::os::unix::fs::FileExt::write_all_at(&file, &[1], 2048 * PAGE_SIZE).unwrap();
                pages.push(2048);
            }
            let protection = protection(&ram);
            protection.protect(protection.all()).unwrap();
            for page in pages {
                let before = in_file(&ram, page);
                let done = Arc::new(AtomicBool::new(false));
                let writer = thread::spawn({
                    let (ram, done) = (ram.clone(), done.clone());
                    move || {
                        // Reading is free.
                        ram.memory().read_obj::<u8>(GuestAddress(page * PAGE_SIZE)).unwrap();
                        write(&ram, page, 9);
                        done.store(true, SeqCst);
                    }
                });
                let fault = fault(&protection);
                assert!(fault.write && !done.load(SeqCst), "{backing}: {fault:?}");
                assert_eq!((fault.page, in_file(&ram, page)), (page, before), "{backing}");
                protection.let_through(PageRange::new(page, protection.unit())).unwrap();
                writer.join().unwrap();
                assert_eq!(in_file(&ram, page), 9);
            }
        }
    }

    #[test]
    fn once_unregistered_nobody_waits() {
        for backing in backings() {
            let ram = ram(backing);
            let protection = protection(&ram);
            protection.protect(protection.all()).unwrap();
            let writers: Vec<_> = [0, 512, 4095]
                .map(|page| {
                    let ram = ram.clone();
                    thread::spawn(move || write(&ram, page, 3))
                })
                .into_iter()
                .collect();
            fault(&protection);
            protection.unregister().unwrap();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            write(&ram, 2048, 4);
            assert_eq!([0, 512, 4095, 2048].map(|page| in_file(&ram, page)), [3, 3, 3, 4]);
        }
    }

    #[test]
    fn a_protection_that_is_dropped_lets_everybody_go() {
        let ram = ram(Backing::Small);
        let protection = protection(&ram);
        protection.protect(protection.all()).unwrap();
        let writer = thread::spawn({
            let ram = ram.clone();
            move || write(&ram, 7, 3)
        });
        fault(&protection);
        drop(protection);
        writer.join().unwrap();
        assert_eq!(in_file(&ram, 7), 3);
    }

    #[test]
    fn ram_that_is_yet_to_come_cannot_be_protected() {
        let ram = ram(Backing::Small);
        let missing = Userfault::open(ram.clone()).unwrap();
        missing.register(PageRange::new(0, 8)).unwrap();
        let error = WriteProtection::open(ram).unwrap().register().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}");
    }
}
