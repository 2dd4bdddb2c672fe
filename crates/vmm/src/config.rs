//! What describes a machine.

use crate::boot::Image;
use memory::Backing;
use uuid::Uuid;

/// Most vCPUs that a machine can have.
pub const MOST_VCPUS: u32 = 64;

/// A machine as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfig {
    /// Its name, by which commands find it.
    pub name: String,
    /// What makes it this machine and no other, wherever it runs.
    pub uuid: Uuid,
    /// Size of its RAM in bytes.
    pub memory: u64,
    /// What backs its RAM.
    pub backing: Backing,
    /// How many vCPUs it has: 1 to [`MOST_VCPUS`].
    pub vcpus: u32,
}

/// What a machine boots, now and whenever its guest resets it.
#[derive(Debug)]
pub struct BootSource {
    /// The kernel: an ELF file with a PVH note, or a bzImage.
    pub kernel: Image,
    /// The initial RAM disk.
    pub initrd: Option<Image>,
    /// The kernel's command line.
    pub cmdline: String,
}
