//! The page that a vCPU shares with the kernel (`struct kvm_run`), as others than its own thread
//! may look at it.

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

/// A mapping of our own: `VcpuFd` takes its mapping to be its alone, and hands out `&mut` to it.
#[derive(Debug)]
pub(crate) struct RunPage {
    run: NonNull<kvm_run>,
}

/// Only the first page, where everything is that is looked at here.
const LENGTH: usize = 4096;
const _: () = assert!(size_of::<kvm_run>() <= LENGTH);

// SAFETY: the mapping lives as long as the value, and is accessed only through the methods below:
// atomically, or volatile by the vCPU's own thread.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    pub fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        // SAFETY: the descriptor is open for as long as `vcpu` is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                LENGTH,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        let run = NonNull::new(address.cast()).expect("a mapping is not at address zero");
        Ok(Self { run })
    }

    /// Has the next, or the present, `KVM_RUN` return before the guest's next instruction.
    pub fn set_immediate_exit(&self, set: bool) {
        // SAFETY: the byte lies within the mapping, and through it is only accessed atomically.
        let byte = unsafe {
            AtomicU8::from_ptr(
                self.run.as_ptr().cast::<u8>().add(offset_of!(kvm_run, immediate_exit)),
            )
        };
        byte.store(set.into(), SeqCst);
    }

    /// Bytes in each element of the string of port accesses that `KVM_RUN` last returned for.
    pub fn port_size(&self) -> usize {
        // SAFETY: the union lies within the mapping and `io` is plain integers, so that any bits
        // are valid.
        let io = unsafe { (&raw const (*self.run.as_ptr()).__bindgen_anon_1.io).read_volatile() };
        io.size.into()
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.run.as_ptr().cast(), LENGTH) };
    }
}
