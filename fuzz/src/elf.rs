//! ELF kernels.

use crate::{allocation, kernel};
use vmm::boot::Entry;

/// Loads a file whose first bytes are ELF's.
///
/// # Panics
/// When a kernel is loaded that does not begin within RAM.
pub fn run(data: &[u8]) {
    let mut file = data.to_vec();
    let magic = b"\x7fELF";
    file.resize(file.len().max(magic.len()), 0);
    file[..magic.len()].copy_from_slice(magic);
    allocation::bounded(file.len(), || {
        let initrd = file.len().is_multiple_of(2);
        match kernel::load(&file, initrd) {
            Some(Entry::Pvh { entry, .. }) => assert!((1 << 20..64 << 20).contains(&entry)),
            Some(Entry::Linux64 { .. }) => panic!("an ELF file was taken for a bzImage"),
            None => {}
        }
    });
}
