//! How much of what was written has not arrived yet.
#![allow(unsafe_code)]

use rustix::ioctl::{Getter, Opcode, ioctl};
use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd;

/// `SIOCOUTQ` (tcp(7), unix(7)): bytes in the send queue, for TCP those not yet acknowledged.
/// The same number as `TIOCOUTQ`, which predates the encoding of size and direction.
const SIOCOUTQ: Opcode = 0x5411;

pub(crate) fn unsent(socket: impl AsFd) -> io::Result<u64> {
    // SAFETY: SIOCOUTQ on any socket writes one `int` through its argument and reads nothing; the
    // getter hands it a place for exactly that.
    let bytes = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) }?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}
