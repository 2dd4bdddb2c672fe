//! Pages that come when they are first touched: userfaultfd.

mod abi;
mod open;
mod protect;

use crate::{GuestRam, PAGE_SIZE, PageRange};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use open::{UserfaultError, hand_over, hand_over_inherited, handed_over, inherit};
pub use protect::WriteProtection;

/// Somebody waits for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The page; the first of the huge page where RAM is of such.
    pub page: u64,
    /// It is to be written.
    pub write: bool,
    /// The thread that waits, by its id in the pid namespace of whoever made the descriptor.
    pub thread: u32,
}

/// The faults on pages of one machine's RAM that are yet to come, and the means to provide them.
///
/// Only pages within ranges that were [registered](Self::register) raise faults; the kernel
/// provides others, as zero. Whoever touches a missing page through [`GuestRam`]'s mapping waits
/// until it is provided: the guest, KVM on its behalf, and the VMM itself. Accesses through the
/// memory *file* do not wait, and read zero: see [`crate::Filling`].
///
/// **Never drop the last one while the guest can run and pages are missing**: whoever waits is then
/// given zeroes, and nothing tells of it.
///
/// All methods may be called from many threads.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
    ram: Arc<GuestRam>,
}

impl AsFd for Userfault {
    /// Readable when there are faults: for `poll`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Userfault {
    /// Gets a userfaultfd that serves the kernel's faults (and so KVM's) on `ram`: from
    /// `/dev/userfaultfd`, else by the system call, else from that device as it was [handed
    /// over](hand_over). A userfaultfd itself cannot be handed over: it serves the memory of the
    /// process that made it.
    ///
    /// # Errors
    /// [`UserfaultError`], which says how it can be allowed.
    pub fn open(ram: Arc<GuestRam>) -> Result<Self, UserfaultError> {
        let fd = open::open()?;
        let mut features = abi::FEATURE_THREAD_ID;
        features |= match ram.backing().pool() {
            None => abi::FEATURE_MISSING_SHMEM,
            Some(_) => abi::FEATURE_MISSING_HUGETLBFS,
        };
        abi::shake_hands(fd.as_fd(), features).map_err(UserfaultError::Features)?;
        Ok(Self { fd, ram })
    }

    /// Whether [`Self::open`] would succeed here, and why not.
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub fn check() -> Result<(), UserfaultError> {
        open::open().map(drop)
    }

    /// The RAM whose faults these are.
    #[must_use]
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// How many pages can only be provided together: [`Backing::unit`](crate::Backing::unit).
    #[must_use]
    pub fn unit(&self) -> u64 {
        self.ram.backing().unit()
    }

    /// From now on whoever touches a page of `range` that is missing waits for it. Whole units.
    ///
    /// # Errors
    /// What the kernel said; `InvalidInput` when the range is not of whole units within RAM.
    pub fn register(&self, range: PageRange) -> io::Result<()> {
        let at = self.range(range)?;
        // SAFETY: the range is of the mapping of `ram`, which `self` keeps. Nothing in it is
        // changed. Code that accesses guest RAM goes through volatile accesses or system calls,
        // which may take as long as they like.
        let can = unsafe { abi::register(self.fd.as_fd(), at, abi::REGISTER_MISSING) }?;
        if can & abi::CAN_COPY == 0 {
            return Err(io::Error::other("the kernel cannot provide pages of this kind"));
        }
        Ok(())
    }

    /// Ends the registration of all pages, and wakes whoever waits. **Pages still missing are
    /// provided by the kernel from now on, as zero.**
    ///
    /// # Errors
    /// What the kernel said.
    pub fn unregister_all(&self) -> io::Result<()> {
        let all = PageRange::new(0, self.ram.pages());
        abi::unregister(self.fd.as_fd(), self.range(all)?)?;
        // The kernel wakes who waits before it takes the registration away: who began to wait in
        // between, holding no more than the lock of the one mapping, would wait for ever.
        self.wake(all)
    }

    /// A fault that nobody has taken yet, without waiting for one. Each is given to one caller: who
    /// took one alone leaves the others to be served meanwhile.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn take_fault(&self) -> io::Result<Option<Fault>> {
        let mut message = [0; abi::MESSAGE];
        match rustix::io::read(&self.fd, &mut message[..]) {
            Ok(abi::MESSAGE) => {}
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        Ok(abi::Message::decode(&message).map(|fault| {
            let offset = fault.address.wrapping_sub(self.ram.host_base());
            let page = offset / PAGE_SIZE / self.unit() * self.unit();
            Fault { page, write: fault.write, thread: fault.thread }
        }))
    }

    /// Provides the pages of `range`, which get these contents, and wakes whoever waits for them.
    /// A page that is there already keeps what it has. Whole units, registered. How many pages
    /// were provided.
    ///
    /// # Errors
    /// What the kernel said (`ENOMEM` when there is no memory, or no huge page, left; `ENOENT` when
    /// the range is not registered); some pages may have been provided.
    pub fn provide(&self, range: PageRange, contents: &[u8]) -> io::Result<u64> {
        if contents.len() as u64 != range.bytes() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.each_missing(range, |at, done| abi::copy(self.fd.as_fd(), at.start, &contents[done..]))
    }

    /// Provides pages that are zero, as [`Self::provide`] does. Not for huge pages.
    ///
    /// # Errors
    /// As of [`Self::provide`].
    pub fn provide_zero(&self, range: PageRange) -> io::Result<u64> {
        self.each_missing(range, |at, _| abi::zero(self.fd.as_fd(), at))
    }

    /// Wakes whoever waits for pages of `range`. Who finds its page still missing raises the fault
    /// anew.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn wake(&self, range: PageRange) -> io::Result<()> {
        abi::wake(self.fd.as_fd(), self.range(range)?)
    }

    /// Calls `provide` for what is left of the range until nothing is, passing over pages that are
    /// there already. It gets what is left, and how many bytes have been done.
    fn each_missing(
        &self,
        range: PageRange,
        provide: impl Fn(abi::Range, usize) -> (usize, io::Result<()>),
    ) -> io::Result<u64> {
        let unit = self.unit() * PAGE_SIZE;
        let whole = self.range(range)?;
        let (mut done, mut provided) = (0, 0);
        while done < whole.length {
            let left = abi::Range { start: whole.start + done, length: whole.length - done };
            let at = usize::try_from(done).expect("less than the mapping's length");
            let (bytes, result) = provide(left, at);
            done += bytes as u64;
            provided += bytes as u64 / PAGE_SIZE;
            match result {
                Ok(()) => {}
                // It stopped half way, or the mapping is just being changed.
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                    // Who waits for it may have come before it did.
                    let there = abi::Range { start: whole.start + done, length: unit };
                    abi::wake(self.fd.as_fd(), there)?;
                    done += unit;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(provided)
    }

    /// Where the pages are mapped.
    fn range(&self, range: PageRange) -> io::Result<abi::Range> {
        let unit = self.unit();
        let whole = range.start.is_multiple_of(unit) && range.count.is_multiple_of(unit);
        if !whole || !range.is_within(self.ram.pages()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("pages {}..{} are not whole units of RAM", range.start, range.end()),
            ));
        }
        let start = self.ram.host_base() + range.offset();
        Ok(abi::Range { start, length: range.bytes() })
    }
}

#[cfg(test)]
mod tests;
