//! Getting a userfaultfd that serves the kernel's own faults.

use super::abi;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

const DEVICE: &str = "/dev/userfaultfd";

/// Why there is no userfaultfd to be had.
#[derive(Debug, thiserror::Error)]
pub enum UserfaultError {
    /// None of the ways led to one.
    #[error(
        "no userfaultfd can be had ({DEVICE}: {device}; userfaultfd(2): {call}{}): allow this user \
         to open {DEVICE} (chmod or chgrp it), set vm.unprivileged_userfaultfd=1, give the process \
         CAP_SYS_PTRACE, or hand {DEVICE} over as an open descriptor",
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
pub(super) fn open(handed_over: Option<BorrowedFd<'_>>) -> Result<OwnedFd, UserfaultError> {
    let opened = File::options().read(true).write(true).open(DEVICE);
    let device = match opened.and_then(|device| abi::new_from(device.as_fd())) {
        Ok(fd) => return Ok(fd),
        Err(e) => e,
    };
    let call = match abi::new() {
        Ok(fd) => return Ok(fd),
        Err(e) => e,
    };
    let handed_over = match handed_over.map(from_descriptor) {
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
