//! What is wrong with a file, in the engine's words.

use crate::MotionError;
use memory::MemoryFileError;
use snapshot::{ClaimError, Damage, ReadError};
use state::Code;

impl From<ReadError> for MotionError {
    fn from(error: ReadError) -> Self {
        Self::new(of_read(&error), error.to_string())
    }
}

impl From<MemoryFileError> for MotionError {
    fn from(error: MemoryFileError) -> Self {
        let code = match &error {
            MemoryFileError::InUse { .. } => Code::Busy,
            MemoryFileError::Occupied { .. } => Code::FileExists,
            MemoryFileError::NotUsable { .. } => Code::InvalidArgument,
            MemoryFileError::NoRoom { .. } => Code::MemoryUnavailable,
            MemoryFileError::Unknown { .. } => Code::SnapshotCorrupt,
            MemoryFileError::Other { .. } => Code::ConfigConflict,
            MemoryFileError::RanOn { .. } => Code::SnapshotClaimed,
            MemoryFileError::System { .. } => Code::HostIo,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ClaimError> for MotionError {
    fn from(error: ClaimError) -> Self {
        let code = match &error {
            ClaimError::Claimed { .. } | ClaimError::Damaged(_) => Code::SnapshotClaimed,
            ClaimError::Contended(_) => Code::Busy,
            ClaimError::File(error) => of_read(error),
            ClaimError::ReadOnly { .. } | ClaimError::Host | ClaimError::Io { .. } => Code::HostIo,
        };
        Self::new(code, error.to_string())
    }
}

fn of_read(error: &ReadError) -> Code {
    match error {
        ReadError::Io { .. } | ReadError::Replaced(_) => Code::HostIo,
        ReadError::Incomplete(_) | ReadError::Truncated { .. } => Code::SnapshotIncomplete,
        ReadError::Damaged { damage, .. } => of_damage(damage),
        ReadError::BadPage { .. } => Code::SnapshotCorrupt,
        ReadError::NotRegular { .. } | ReadError::Apart { .. } => Code::SnapshotUnsupported,
        ReadError::OutOfRange { .. } => Code::Internal,
    }
}

fn of_damage(damage: &Damage) -> Code {
    match damage {
        Damage::Checksum(_) | Damage::Nonsense(..) => Code::SnapshotCorrupt,
        Damage::CutOff(_) => Code::SnapshotIncomplete,
        Damage::NoMagic
        | Damage::Newer(_)
        | Damage::Features(_)
        | Damage::Section(_)
        | Damage::Architecture(_) => Code::SnapshotUnsupported,
    }
}
