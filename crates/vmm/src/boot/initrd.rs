//! Placing the initrd.

use super::{BootError, Image};
use vm_memory::GuestMemoryBackend;

const PAGE: u64 = 4096;

/// Where the initrd is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Module {
    /// Guest-physical address.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Copies the initrd to the highest page at which it ends at or below `ceiling`, and does not
/// reach below `floor`, where the kernel ends.
pub(super) fn load<M: GuestMemoryBackend>(
    memory: &M,
    image: &Image,
    floor: u64,
    ceiling: u64,
) -> Result<Module, BootError> {
    let length = image.length();
    if length == 0 {
        return Err(BootError::InitrdEmpty { file: image.name().to_owned() });
    }
    let room = ceiling.saturating_sub(floor);
    let address = ceiling.checked_sub(length).map(|address| address / PAGE * PAGE);
    let address = address
        .filter(|address| *address >= floor)
        .ok_or_else(|| BootError::InitrdTooLarge { file: image.name().to_owned(), length, room })?;
    image.copy_to(memory, address, 0, length)?;
    Ok(Module { address, length })
}
