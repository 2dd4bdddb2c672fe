//! Kernels, and the machine that they are loaded into.

use std::sync::OnceLock;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm::boot::{Entry, Image};

/// RAM that is used again: what an earlier kernel left there does not matter to loading another.
fn memory() -> &'static GuestMemoryMmap {
    static MEMORY: OnceLock<GuestMemoryMmap> = OnceLock::new();
    MEMORY.get_or_init(|| {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).expect("64 MiB can be had")
    })
}

/// Loads a kernel with or without an initrd.
pub fn load(kernel: &[u8], initrd: bool) -> Option<Entry> {
    let image = Image::from_bytes("kernel", kernel.to_vec());
    let initrd = initrd.then(|| Image::from_bytes("initrd", vec![1; 5000]));
    let loaded = vmm::boot::load(memory(), &image, initrd.as_ref(), "quiet", 0xe_0000);
    // Whoever reads the error is told something.
    loaded.map_err(|error| assert!(!error.to_string().is_empty())).ok()
}
