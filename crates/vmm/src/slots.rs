//! The guest's RAM as KVM's memory slots: one for each region.

use crate::sys::io_error;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use memory::{GuestRam, Region};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The RAM of one VM and the slots through which its guest sees it.
///
/// The RAM is kept for as long as a vCPU could run on it.
#[derive(Debug)]
pub(crate) struct Slots {
    vm: Arc<VmFd>,
    ram: Arc<GuestRam>,
    /// How long it took to make them.
    took: Duration,
}

impl Slots {
    /// Shows all of `ram` to the guest.
    pub fn new(vm: Arc<VmFd>, ram: Arc<GuestRam>) -> io::Result<Self> {
        let begun = Instant::now();
        let slots = Self { vm, ram, took: Duration::ZERO };
        for (slot, region) in slots.regions() {
            slots.set(slot, region, false)?;
        }
        Ok(Self { took: begun.elapsed(), ..slots })
    }

    /// How long it took to make them.
    pub fn took(&self) -> Duration {
        self.took
    }

    pub fn vm(&self) -> &VmFd {
        &self.vm
    }

    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// The slots by number, with what each shows.
    pub fn regions(&self) -> impl Iterator<Item = (u32, &Region)> {
        (0u32..).zip(self.ram.layout().regions())
    }

    /// Makes a slot, or changes whether writes to it are logged.
    pub fn set(&self, slot: u32, region: &Region, logged: bool) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: if logged { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: region.address,
            memory_size: region.length,
            userspace_addr: self.ram.host_base() + region.offset,
        };
        // SAFETY: the memory is the mapping of `ram`, which `self` keeps for longer than the VM's
        // vCPUs can run: `Vm` ends their threads before it drops this.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(io_error)
    }
}
