//! Getting a userfaultfd that serves the kernel's own faults.

use super::abi;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

const DEVICE: &str = "/dev/userfaultfd";

/// The device, opened by somebody who may. A userfaultfd is of the address space of the process that
/// makes it, and so this is of the process too.
static HANDED_OVER: Mutex<Option<Arc<OwnedFd>>> = Mutex::new(None);

/// Hands `/dev/userfaultfd` over, opened by somebody who may: from now on this process makes its
/// userfaultfds from it where it may not make them otherwise. In place of the one that was handed
/// over before.
///
/// # Errors
/// It is not that device, or the host has no descriptors left. Nothing has changed.
pub fn hand_over(device: OwnedFd) -> io::Result<()> {
    from_descriptor(device.as_fd())?;
    *HANDED_OVER.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(device));
    Ok(())
}

/// The same, of a descriptor that this process was started with. It stays open.
///
/// # Errors
/// As of [`hand_over`], and when there is no such descriptor.
pub fn hand_over_inherited(number: RawFd) -> io::Result<()> {
    hand_over(abi::duplicate(number)?)
}

/// Takes on what was handed over to the process before this one, unless this one was handed something itself.
///
/// # Errors
/// As of [`hand_over`].
pub fn inherit(device: OwnedFd) -> io::Result<()> {
    if given().is_some() { Ok(()) } else { hand_over(device) }
}

/// What was handed over, for the process that comes after this one; `None` where nothing was.
///
/// # Errors
/// The host has no descriptors left.
pub fn handed_over() -> io::Result<Option<OwnedFd>> {
    given().map(|device| device.try_clone()).transpose()
}

fn given() -> Option<Arc<OwnedFd>> {
    HANDED_OVER.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Why there is no userfaultfd to be had.
#[derive(Debug, thiserror::Error)]
pub enum UserfaultError {
    /// None of the ways led to one.
    #[error(
        "no userfaultfd can be had ({DEVICE}: {device}; userfaultfd(2): {call}{}): allow this user \
         to open {DEVICE} (chmod or chgrp it), set vm.unprivileged_userfaultfd=1, give the process \
         CAP_SYS_PTRACE, or hand {DEVICE} over as an open descriptor (--userfault-fd)",
        .handed_over.as_ref().map(|e| format!("; the descriptor handed over: {e}")).unwrap_or_default()
    )]
    None {
        /// What was said of the device.
        device: io::Error,
        /// What was said to the system call.
        call: io::Error,
        /// What was said of the descriptor that was handed over, if one was.
        handed_over: Option<io::Error>,
    },
    /// The kernel's cannot do what is needed.
    #[error(
        "this kernel's userfaultfd cannot serve faults on this kind of guest RAM: {0}; Linux 4.14 \
         can"
    )]
    Features(#[source] io::Error),
    /// The kernel's cannot protect this memory.
    #[error(
        "this kernel's userfaultfd cannot write-protect this kind of guest RAM: {0}; Linux 5.19 can"
    )]
    Protect(#[source] io::Error),
}

/// Tries one way after the other.
pub(super) fn open() -> Result<OwnedFd, UserfaultError> {
    let opened = File::options().read(true).write(true).open(DEVICE);
    let device = match opened.and_then(|device| abi::new_from(device.as_fd())) {
        Ok(fd) => return Ok(fd),
        Err(e) => e,
    };
    let call = match abi::new() {
        Ok(fd) => return Ok(fd),
        Err(e) => e,
    };
    let handed_over = match given().map(|device| from_descriptor(device.as_fd())) {
        Some(Ok(fd)) => return Ok(fd),
        Some(Err(e)) => Some(e),
        None => None,
    };
    Err(UserfaultError::None { device, call, handed_over })
}

/// Makes one from the device that somebody else has opened.
pub(super) fn from_descriptor(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    abi::new_from(device).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOTTY | libc::EINVAL) => io::Error::other(format!("it is not {DEVICE}")),
        _ => e,
    })
}
