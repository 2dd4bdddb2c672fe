//! What describes a machine.

use crate::boot::{BootError, Image};
use memory::Backing;
use std::io;
use std::os::fd::OwnedFd;
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

/// What a machine boots, as another process of this host has it.
#[derive(Debug)]
pub struct BootFiles {
    /// The kernel's name and file.
    pub kernel: (String, OwnedFd),
    /// The initial RAM disk's.
    pub initrd: Option<(String, OwnedFd)>,
    /// The kernel's command line.
    pub cmdline: String,
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

impl BootSource {
    /// Its files, for another process.
    pub(crate) fn files(&self) -> io::Result<BootFiles> {
        let Self { kernel, initrd, cmdline } = self;
        let named = |image: &Image| Ok::<_, io::Error>((image.name().to_owned(), image.file()?));
        Ok(BootFiles {
            kernel: named(kernel)?,
            initrd: initrd.as_ref().map(named).transpose()?,
            cmdline: cmdline.clone(),
        })
    }

    /// What another process had.
    pub(crate) fn of_files(files: BootFiles) -> Result<Self, BootError> {
        let BootFiles { kernel: (name, file), initrd, cmdline } = files;
        let initrd = initrd.map(|(name, file)| Image::from_file(name, file)).transpose()?;
        Ok(Self { kernel: Image::from_file(name, file)?, initrd, cmdline })
    }
}
