//! The PID namespace of this process, as in a container. With the first process of one the kernel ends all others in
//! it, and to that one they cannot send `SIGKILL` (pid_namespaces(7)).

use rustix::process::{WaitOptions, wait};
use std::os::unix::fs::MetadataExt;

/// Whether this process is the first of its namespace.
pub(super) fn is_first() -> bool {
    std::process::id() == 1
}

/// What tells this process's namespace from all others of the host, where `/proc` says it.
pub(super) fn own() -> Option<u64> {
    Some(std::fs::metadata("/proc/self/ns/pid").ok()?.ino())
}

/// Lets the other processes of the namespace, of which this is the first, come to their end.
pub(super) fn outlive_the_others() {
    let ended = |waited| matches!(waited, Ok(Some(_)) | Err(rustix::io::Errno::INTR));
    // Whoever loses its parent becomes a child of this process.
    while ended(wait(WaitOptions::empty())) {}
}
