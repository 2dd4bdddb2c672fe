//! RAM that stays in a memory file, which outlives this process: only the state is written.

use super::patience::SLOWEST_DISK;
use crate::rules::{Rule, keeps};
use memory::{GuestRam, MemoryFile};
use snapshot::{Apart, WriteError, Writer};
use state::{Code, Refusal};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Why RAM cannot stay where it is while its state is written to a file.
pub(super) fn refusals(ram: &GuestRam) -> Vec<Refusal> {
    let refusal = |why: String| {
        let advice = "run a machine that is to outlive a reboot with --memory-file, on storage that \
                      lasts; this one can be saved with all of its RAM: `whimbrel save`";
        vec![Refusal::new(Code::NotMovable, "ram", why, advice)]
    };
    let Some(file) = ram.memory_file() else {
        return refusal("it is gone when this host starts anew".to_owned());
    };
    let path = file.path().display();
    match file.is_volatile() {
        Ok(None) => Vec::new(),
        Ok(Some(kind)) => {
            refusal(format!("{path} is on {kind}, and gone when this host starts anew"))
        }
        Err(e) => refusal(format!("it is not known whether {path} lasts: {e}")),
    }
}

/// How long it may take to write back all that may wait for that.
pub(super) fn longest(file: &MemoryFile) -> Duration {
    Duration::from_secs(file.size() / SLOWEST_DISK)
}

/// Writes back what the guest has written so far, so that little is left when it stops.
pub(super) fn write_back(file: &MemoryFile) -> Result<(), WriteError> {
    file.make_durable().map_err(|source| failed("writing back", file, source))
}

/// The guest stands still: makes RAM durable, and then the state that belongs to it.
pub(super) fn finish(
    writer: &Writer,
    state: &[u8],
    file: &Arc<MemoryFile>,
) -> Result<(), WriteError> {
    if keeps(Rule::RamIsDurable) {
        write_back(file)?;
    }
    let generation = file.leave().map_err(|e| failed("noting the generation of", file, e))?;
    let identity = Uuid::from_bytes(file.identity());
    writer.finish_apart(state, &Apart { identity, generation, path: file.path().to_owned() })
}

fn failed(action: &'static str, file: &MemoryFile, source: std::io::Error) -> WriteError {
    let name = format!("the memory file {}", file.path().display());
    WriteError::Io { name, action, offset: None, source }
}
