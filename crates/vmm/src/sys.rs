//! KVM calls that kvm-ioctls does not have, and its errors as everybody else's.

use kvm_bindings::{KVMIO, kvm_clear_dirty_log, kvm_device_attr, kvm_dirty_log, kvm_sregs2};
use kvm_ioctls::{VcpuFd, VmFd};
use std::ffi::c_ulong;
use std::io;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};

const WRITE: u64 = 1;
const READ: u64 = 2;

/// A request number (Linux `include/uapi/asm-generic/ioctl.h`).
const fn request<T>(direction: u64, number: u64) -> c_ulong {
    direction << 30 | (size_of::<T>() as u64) << 16 | (KVMIO as u64) << 8 | number
}

const GET_DIRTY_LOG: c_ulong = request::<kvm_dirty_log>(WRITE, 0x42);
const CLEAR_DIRTY_LOG: c_ulong = request::<kvm_clear_dirty_log>(READ | WRITE, 0xc0);
// The structure itself ends with a signal set that its size does not count.
const SET_SIGNAL_MASK: c_ulong = request::<u32>(WRITE, 0x8b);
const GET_SREGS2: c_ulong = request::<kvm_sregs2>(READ, 0xcc);
const SET_SREGS2: c_ulong = request::<kvm_sregs2>(WRITE, 0xcd);
const SET_DEVICE_ATTR: c_ulong = request::<kvm_device_attr>(WRITE, 0xe1);
const GET_DEVICE_ATTR: c_ulong = request::<kvm_device_attr>(WRITE, 0xe2);

// Linux include/uapi/linux/kvm.h.
const _: () = assert!(GET_DIRTY_LOG == 0x4010_ae42);
const _: () = assert!(CLEAR_DIRTY_LOG == 0xc018_aec0);
const _: () = assert!(SET_SIGNAL_MASK == 0x4004_ae8b);
const _: () = assert!(GET_SREGS2 == 0x8140_aecc);
const _: () = assert!(SET_SREGS2 == 0x4140_aecd);
const _: () = assert!(SET_DEVICE_ATTR == 0x4018_aee1);
const _: () = assert!(GET_DEVICE_ATTR == 0x4018_aee2);

/// The error as the standard library's.
pub(crate) fn io_error(e: errno::Error) -> io::Error {
    io::Error::from_raw_os_error(e.errno())
}

fn done(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads a slot's dirty bitmap into `bitmap`: a bit for each page, in words of 64.
/// With manual protect nothing is cleared.
pub(crate) fn get_dirty_log(
    vm: &VmFd,
    slot: u32,
    pages: u64,
    bitmap: &mut [u64],
) -> io::Result<()> {
    assert!(bitmap.len() as u64 >= pages.div_ceil(64), "the kernel writes a bit for each page");
    let mut log = kvm_dirty_log { slot, ..Default::default() };
    log.__bindgen_anon_1.dirty_bitmap = bitmap.as_mut_ptr().cast();
    // SAFETY: the fd is a VM's; the kernel writes as many words as the slot has pages, rounded up,
    // which is what the buffer holds (the slot has `pages`, checked above).
    done(unsafe { ioctl_with_ref(vm, GET_DIRTY_LOG, &log) })
}

/// Clears the dirty bits that are set in `bitmap`, of which the first is page `first` of the slot,
/// and has writes to their pages logged again. `first` is a multiple of 64, and so is `pages`
/// unless it ends with the slot.
pub(crate) fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    first: u64,
    pages: u32,
    bitmap: &[u64],
) -> io::Result<()> {
    assert!(bitmap.len() as u64 >= u64::from(pages).div_ceil(64), "a bit is read for each page");
    let mut clear = kvm_clear_dirty_log {
        slot,
        num_pages: pages,
        first_page: first,
        __bindgen_anon_1: Default::default(),
    };
    clear.__bindgen_anon_1.dirty_bitmap = bitmap.as_ptr().cast_mut().cast();
    // SAFETY: the fd is a VM's; the kernel only reads a bit for each of `pages` pages, which the
    // buffer holds (checked above).
    done(unsafe { ioctl_with_ref(vm, CLEAR_DIRTY_LOG, &clear) })
}

/// `KVM_GET_SREGS2`.
pub(crate) fn get_sregs2(vcpu: &VcpuFd) -> io::Result<kvm_sregs2> {
    let mut sregs = kvm_sregs2::default();
    // SAFETY: the fd is a vCPU's and the kernel writes exactly this structure.
    done(unsafe { ioctl_with_mut_ref(vcpu, GET_SREGS2, &mut sregs) })?;
    Ok(sregs)
}

/// `KVM_SET_SREGS2`.
pub(crate) fn set_sregs2(vcpu: &VcpuFd, sregs: &kvm_sregs2) -> io::Result<()> {
    // SAFETY: the fd is a vCPU's and the kernel only reads this structure.
    done(unsafe { ioctl_with_ref(vcpu, SET_SREGS2, sregs) })
}

/// `struct kvm_signal_mask` and the kernel's signal set behind it.
#[repr(C)]
struct SignalMask {
    len: u32,
    blocked: [u8; 8],
}

const _: () = assert!(size_of::<SignalMask>() == 12);

/// `KVM_SET_SIGNAL_MASK`: these signals, bit 0 being signal 1, are blocked while the vCPU runs; without any
/// said, those of its thread.
pub(crate) fn set_signal_mask(vcpu: &VcpuFd, blocked: Option<u64>) -> io::Result<()> {
    let Some(blocked) = blocked else {
        // SAFETY: the fd is a vCPU's; no mask at all is a null pointer.
        return done(unsafe { ioctl_with_val(vcpu, SET_SIGNAL_MASK, 0) });
    };
    let mask = SignalMask { len: 8, blocked: blocked.to_ne_bytes() };
    // SAFETY: the fd is a vCPU's; the kernel only reads this structure, and eight bytes behind its head
    // as that says.
    done(unsafe { ioctl_with_ref(vcpu, SET_SIGNAL_MASK, &mask) })
}

fn tsc_offset_attribute(value: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: kvm_bindings::KVM_VCPU_TSC_CTRL,
        attr: kvm_bindings::KVM_VCPU_TSC_OFFSET.into(),
        addr: value as u64,
    }
}

/// What is added to the host's TSC to make the guest's (Linux
/// `Documentation/virt/kvm/devices/vcpu.rst`, section 4). `None` where KVM does not say.
pub(crate) fn tsc_offset(vcpu: &VcpuFd) -> Option<u64> {
    let mut offset = 0u64;
    let attribute = tsc_offset_attribute(&raw mut offset);
    // SAFETY: the fd is a vCPU's; `addr` points to eight bytes that live as long as the call.
    done(unsafe { ioctl_with_ref(vcpu, GET_DEVICE_ATTR, &attribute) }).ok()?;
    Some(offset)
}

/// Sets what [`tsc_offset`] reads.
pub(crate) fn set_tsc_offset(vcpu: &VcpuFd, mut offset: u64) -> io::Result<()> {
    let attribute = tsc_offset_attribute(&raw mut offset);
    // SAFETY: the fd is a vCPU's; the kernel reads eight bytes at `addr`, which live as long as
    // the call.
    done(unsafe { ioctl_with_ref(vcpu, SET_DEVICE_ATTR, &attribute) })
}
