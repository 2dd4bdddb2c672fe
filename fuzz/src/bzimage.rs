//! bzImage kernels.

use crate::{allocation, kernel};
use vmm::boot::Entry;

/// Where the header's signature is.
const MAGIC: usize = 0x202;

/// Loads a file with the signature of a bzImage.
///
/// # Panics
/// When a kernel is loaded that does not begin within RAM.
pub fn run(data: &[u8]) {
    let mut file = data.to_vec();
    if let Some(magic) = file.get_mut(MAGIC..MAGIC + 4) {
        magic.copy_from_slice(b"HdrS");
    }
    allocation::bounded(file.len(), || {
        let initrd = file.len().is_multiple_of(2);
        if let Some(Entry::Linux64 { entry, .. }) = kernel::load(&file, initrd) {
            assert!((1 << 20..64 << 20).contains(&entry));
        }
    });
}
