//! Why a machine cannot be booted from what it was given.

use std::io;

/// The kernel, the initrd or the command line cannot be booted. The guest has not run.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file cannot be opened.
    #[error("cannot open {file}: {source}")]
    Open {
        /// The file.
        file: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read {file} at byte {offset:#x}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file ends before what its own headers announce.
    #[error(
        "{file} ends at byte {length:#x}, but its headers announce {needed:#x} bytes: it is \
         truncated or damaged; copy it again"
    )]
    Truncated {
        /// The file.
        file: String,
        /// Its length in bytes.
        length: u64,
        /// The length that it should have at least, in bytes.
        needed: u64,
    },
    /// Neither of the formats that can be booted.
    #[error(
        "{file} is neither an ELF file nor a bzImage ({found} at byte {offset:#x}): give a \
         vmlinuz, or a vmlinux that was built with CONFIG_PVH"
    )]
    NotAKernel {
        /// The file.
        file: String,
        /// Where the signature should be.
        offset: u64,
        /// What is there instead.
        found: String,
    },
    /// The ELF file breaks a rule.
    #[error("{file} is an ELF file that cannot be booted: at byte {offset:#x}, {reason}")]
    BadElf {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// Which rule, and what to try.
        reason: String,
    },
    /// The bzImage breaks a rule.
    #[error("{file} is a bzImage that cannot be booted: at byte {offset:#x}, {reason}")]
    BadBzImage {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// Which rule, and what to try.
        reason: String,
    },
    /// What is to be loaded, or what it needs at run time, does not fit into RAM.
    #[error(
        "{file} needs {length:#x} bytes of RAM at {address:#x}, and the machine's RAM below 4 GiB \
         ends at {end:#x}: give the machine more memory"
    )]
    OutsideRam {
        /// The file.
        file: String,
        /// Guest-physical address.
        address: u64,
        /// Length in bytes.
        length: u64,
        /// Where RAM ends.
        end: u64,
    },
    /// The initrd does not fit between the kernel and the highest address that it may have.
    #[error(
        "the initrd {file} is {length} bytes, and between the kernel and the highest address it \
         may have there is room for {room}: give the machine more memory, or a smaller initrd"
    )]
    InitrdTooLarge {
        /// The file.
        file: String,
        /// Its length in bytes.
        length: u64,
        /// How many bytes there are for it.
        room: u64,
    },
    /// The initrd has no contents.
    #[error("the initrd {file} is empty")]
    InitrdEmpty {
        /// The file.
        file: String,
    },
    /// The command line is longer than the kernel takes.
    #[error("the command line is {length} bytes, and this kernel takes at most {most}: shorten it")]
    CmdlineTooLong {
        /// Its length in bytes.
        length: usize,
        /// The most bytes the kernel takes.
        most: usize,
    },
    /// The command line contains the byte that ends it.
    #[error("the command line has a zero byte at position {at}; the kernel would not see the rest")]
    CmdlineHasZero {
        /// Position in bytes.
        at: usize,
    },
    /// Guest memory refused a write that had been checked.
    #[error("writing {what} to guest memory failed: {source}")]
    Memory {
        /// What was being written.
        what: &'static str,
        /// What the memory said.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
}

pub(super) fn memory_error(
    what: &'static str,
) -> impl Fn(vm_memory::GuestMemoryError) -> BootError {
    move |source| BootError::Memory { what, source }
}
