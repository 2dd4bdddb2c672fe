//! The kernel's ABI: Linux `include/uapi/linux/userfaultfd.h` and
//! `Documentation/admin-guide/mm/userfaultfd.rst`.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// The version of the API.
const API: u64 = 0xaa;
/// Only pages that are not there raise a fault.
pub(super) const REGISTER_MISSING: u64 = 1 << 0;
/// Only writes to pages that are protected raise a fault.
pub(super) const REGISTER_WP: u64 = 1 << 1;

/// Faults in shared memory are reported.
pub(super) const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
/// Faults in huge pages are reported.
pub(super) const FEATURE_MISSING_HUGETLBFS: u64 = 1 << 4;
/// Writes to pages that are protected are told apart from others.
pub(super) const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
/// Shared memory and huge pages can be write-protected, those included that are not mapped: the page
/// table is marked (Linux 5.19).
pub(super) const FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
/// Each fault names the thread that waits.
pub(super) const FEATURE_THREAD_ID: u64 = 1 << 8;

/// `UFFD_EVENT_PAGEFAULT`.
const EVENT_PAGEFAULT: u8 = 0x12;
/// `UFFD_PAGEFAULT_FLAG_WRITE`.
const PAGEFAULT_WRITE: u64 = 1 << 0;

/// `struct uffdio_api`.
#[repr(C)]
pub(super) struct Api {
    api: u64,
    pub features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
pub(super) struct Range {
    pub start: u64,
    pub length: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
pub(super) struct Register {
    pub range: Range,
    pub mode: u64,
    /// What can be done to the range, as a bit for each `_UFFDIO_` number: the kernel's answer.
    pub ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
pub(super) struct Copy {
    pub to: u64,
    pub from: u64,
    pub length: u64,
    pub mode: u64,
    /// How many bytes were copied, or a negative error: the kernel's answer.
    pub copied: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
pub(super) struct Zero {
    pub range: Range,
    pub mode: u64,
    /// How many bytes were provided, or a negative error: the kernel's answer.
    pub zeroed: i64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
pub(super) struct WriteProtect {
    pub range: Range,
    pub mode: u64,
}

/// `UFFDIO_WRITEPROTECT_MODE_WP`.
const PROTECT: u64 = 1 << 0;

const WRITE: u64 = 1;
const READ: u64 = 2;

/// A request number (Linux `include/uapi/asm-generic/ioctl.h`).
const fn request(direction: u64, number: u64, size: usize) -> libc::c_ulong {
    direction << 30 | (size as u64) << 16 | 0xaa << 8 | number
}

const NEW: libc::c_ulong = request(0, 0x00, 0);
const UFFDIO_API: libc::c_ulong = request(READ | WRITE, 0x3f, size_of::<Api>());
const REGISTER: libc::c_ulong = request(READ | WRITE, 0x00, size_of::<Register>());
const UNREGISTER: libc::c_ulong = request(READ, 0x01, size_of::<Range>());
const WAKE: libc::c_ulong = request(READ, 0x02, size_of::<Range>());
const COPY: libc::c_ulong = request(READ | WRITE, 0x03, size_of::<Copy>());
const ZEROPAGE: libc::c_ulong = request(READ | WRITE, 0x04, size_of::<Zero>());
const WRITEPROTECT: libc::c_ulong = request(READ | WRITE, 0x06, size_of::<WriteProtect>());

const _: () = assert!(size_of::<Api>() == 24 && UFFDIO_API == 0xc018_aa3f);
const _: () = assert!(size_of::<Range>() == 16 && UNREGISTER == 0x8010_aa01);
const _: () = assert!(WAKE == 0x8010_aa02);
const _: () = assert!(size_of::<Register>() == 32 && REGISTER == 0xc020_aa00);
const _: () = assert!(size_of::<Copy>() == 40 && COPY == 0xc028_aa03);
const _: () = assert!(size_of::<Zero>() == 32 && ZEROPAGE == 0xc020_aa04);
const _: () = assert!(size_of::<WriteProtect>() == 24 && WRITEPROTECT == 0xc018_aa06);
const _: () = assert!(NEW == 0xaa00);

/// Bit of `_UFFDIO_COPY` in [`Register::ioctls`].
pub(super) const CAN_COPY: u64 = 1 << 3;
/// Bit of `_UFFDIO_WRITEPROTECT` in [`Register::ioctls`].
pub(super) const CAN_WRITEPROTECT: u64 = 1 << 6;

/// Size of `struct uffd_msg` in bytes.
pub(super) const MESSAGE: usize = 32;

/// `struct uffd_msg` of a page fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub address: u64,
    pub write: bool,
    /// The thread that waits, if that was asked for.
    pub thread: u32,
}

impl Message {
    /// The page fault that these bytes are, if they are one.
    pub fn decode(bytes: &[u8; MESSAGE]) -> Option<Self> {
        let word = |at: usize| {
            u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes are eight bytes"))
        };
        let thread = u32::from_ne_bytes(bytes[24..28].try_into().expect("four bytes are four"));
        (bytes[0] == EVENT_PAGEFAULT).then(|| Self {
            address: word(16),
            write: word(8) & PAGEFAULT_WRITE != 0,
            thread,
        })
    }
}

fn call<T>(fd: BorrowedFd<'_>, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: `argument` is the structure that the request takes (its size is part of the number,
    // checked above), and lives as long as the call. What the call does to memory is the matter of
    // the functions below, which are all that call this.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Another descriptor of what this number stands for.
pub(super) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the kernel looks the number up, and says so where it stands for nothing. The descriptor
    // behind it stays as it is, whosever it is.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the device make a userfaultfd for the memory of this process.
pub(super) fn new_from(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the argument is a number.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), NEW, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a userfaultfd by the system call.
pub(super) fn new() -> io::Result<OwnedFd> {
    let flags = rustix::mm::UserfaultfdFlags::CLOEXEC | rustix::mm::UserfaultfdFlags::NONBLOCK;
    // SAFETY: it does nothing to memory before a range is registered.
    Ok(unsafe { rustix::mm::userfaultfd(flags) }?)
}

/// Agrees with the kernel on the features that are wanted; once for each descriptor.
pub(super) fn shake_hands(fd: BorrowedFd<'_>, features: u64) -> io::Result<()> {
    call(fd, UFFDIO_API, &mut Api { api: API, features, ioctls: 0 })
}

/// Registers the range for the faults of this mode.
///
/// # Safety
/// The range is one of a mapping that outlives its registration, and whoever accesses pages of it in a
/// way that raises such a fault can wait.
pub(super) unsafe fn register(fd: BorrowedFd<'_>, range: Range, mode: u64) -> io::Result<u64> {
    let mut register = Register { range, mode, ioctls: 0 };
    call(fd, REGISTER, &mut register)?;
    Ok(register.ioctls)
}

/// Ends the registration of what is registered of the range, and wakes whoever waits there.
pub(super) fn unregister(fd: BorrowedFd<'_>, mut range: Range) -> io::Result<()> {
    call(fd, UNREGISTER, &mut range)
}

/// Wakes whoever waits in the range; who finds the page still missing waits anew.
pub(super) fn wake(fd: BorrowedFd<'_>, mut range: Range) -> io::Result<()> {
    call(fd, WAKE, &mut range)
}

/// Provides pages with these contents. How many bytes, and the error that it ended with.
pub(super) fn copy(fd: BorrowedFd<'_>, to: u64, bytes: &[u8]) -> (usize, io::Result<()>) {
    let length = bytes.len() as u64;
    let mut copy = Copy { to, from: bytes.as_ptr() as u64, length, mode: 0, copied: 0 };
    let result = call(fd, COPY, &mut copy);
    (usize::try_from(copy.copied).unwrap_or(0), result)
}

/// Provides pages that are zero. How many bytes, and the error that it ended with.
pub(super) fn zero(fd: BorrowedFd<'_>, range: Range) -> (usize, io::Result<()>) {
    let mut zero = Zero { range, mode: 0, zeroed: 0 };
    let result = call(fd, ZEROPAGE, &mut zero);
    (usize::try_from(zero.zeroed).unwrap_or(0), result)
}

/// Has writes to the range, which is registered for it, wait; or lets them through again, and wakes
/// whoever waits.
pub(super) fn protect(fd: BorrowedFd<'_>, range: Range, protect: bool) -> io::Result<()> {
    let mode = if protect { PROTECT } else { 0 };
    call(fd, WRITEPROTECT, &mut WriteProtect { range, mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_the_header_lays_it_out() {
        let mut bytes = [0; MESSAGE];
        bytes[0] = 0x12;
        bytes[8] = 1;
        bytes[16..24].copy_from_slice(&0x7f00_1234_5000_u64.to_ne_bytes());
        bytes[24..28].copy_from_slice(&77_u32.to_ne_bytes());
        let fault = Message { address: 0x7f00_1234_5000, write: true, thread: 77 };
        assert_eq!(Message::decode(&bytes), Some(fault));
        bytes[8] = 0;
        assert!(!Message::decode(&bytes).unwrap().write);
        bytes[0] = 0x15;
        assert_eq!(Message::decode(&bytes), None, "an event that was never asked for");
    }
}
