//! Why a machine could not be built or booted.

use crate::boot::BootError;
use crate::config::MOST_VCPUS;
use crate::kvm::OpenError;
use devices::bus::BusError;
use memory::RamError;
use motion::MachineError;
use state::Code;
use std::io;

/// Why a machine could not be built or booted. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// `/dev/kvm` is of no use.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Too many vCPUs, or none.
    #[error("a machine has 1 to {MOST_VCPUS} vCPUs here, and {0} are asked for")]
    Vcpus(u32),
    /// Fewer vCPUs than a machine may have, but more than this host's KVM has.
    #[error("this host's KVM gives a machine at most {most} vCPUs, and {asked} are asked for")]
    HostVcpus {
        /// How many were asked for.
        asked: u32,
        /// How many there can be.
        most: u32,
    },
    /// The kernel refused.
    #[error("{action}: {source}")]
    Kvm {
        /// What was being done.
        action: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The guest's RAM cannot be had.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The RAM is not as large as the configuration says.
    #[error("the memory is {found} bytes, and the machine's is to be {expected}")]
    RamSize {
        /// Size of the RAM in bytes.
        found: u64,
        /// Size that the configuration says.
        expected: u64,
    },
    /// Two devices at one address.
    #[error(transparent)]
    Board(#[from] BusError),
    /// The kernel cannot be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The machine has been booted already, or is for a guest that comes from elsewhere.
    #[error("the machine is {0}: only one that was never run can be booted")]
    NotNew(crate::RunState),
}

impl VmError {
    pub(crate) fn kvm(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Kvm { action, source }
    }

    /// The machine-readable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Open(e) => e.code(),
            Self::Vcpus(_) | Self::HostVcpus { .. } => Code::InvalidArgument,
            Self::Kvm { .. } => Code::Kvm,
            Self::Ram(_) => Code::MemoryUnavailable,
            Self::RamSize { .. } => Code::InvalidArgument,
            Self::Board(_) => Code::Internal,
            Self::Boot(_) => Code::BadKernel,
            Self::NotNew(_) => Code::InvalidState,
        }
    }
}

impl From<VmError> for MachineError {
    fn from(e: VmError) -> Self {
        Self::new(e.code(), "the machine", e)
    }
}
