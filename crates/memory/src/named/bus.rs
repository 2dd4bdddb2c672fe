//! What is said when a memory file cannot give a page to this process itself.
//!
//! The guest is stopped when it needs such a page, and goes on when it can be had. Where the machine's
//! own code accesses one in passing the kernel sends SIGBUS, which cannot be returned from: the process
//! ends by it, as it would have, but says why.

use std::sync::Once;

const WORD: &[u8] = b"whimbrel: a page of the guest's memory file cannot be had: the file system is \
full, the disk has failed, or the file was cut short. This process ends; the guest's RAM is as it was \
in the file, and without a state that belongs to it.\n";

extern "C" fn say(_: libc::c_int) {
    // SAFETY: write(2) may be called from a signal handler; the bytes are constant.
    unsafe { libc::write(2, WORD.as_ptr().cast(), WORD.len()) };
}

/// Has SIGBUS say a word before it ends this process.
pub(super) fn explain() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is a valid one; it is filled in before it is used.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = say as extern "C" fn(libc::c_int) as usize;
        // The access is tried again after the handler, and then ends the process.
        action.sa_flags = libc::SA_RESETHAND;
        // SAFETY: the handler does only what a signal handler may.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    });
}
