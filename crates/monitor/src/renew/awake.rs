//! Keeping idle processors awake while a guest stands still.
//!
//! A handover is a chain of threads of which each wakes the next, often on a processor that has gone to
//! sleep meanwhile: bringing one back takes tens of microseconds in a deep state of hardware, or in a host
//! that is a virtual machine itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

/// Where a process says how long a processor may take to wake up, for as long as it has it open (Linux
/// `Documentation/power/pm_qos_interface.rst`). Only privileged ones may.
const LATENCY: &str = "/dev/cpu_dma_latency";

/// Processors do not sleep as long as this lives, if this process may ask for that.
#[derive(Debug)]
pub(super) struct Awake(#[expect(dead_code, reason = "it is kept open")] Option<File>);

impl Awake {
    pub fn begin() -> Self {
        Self(Self::ask().inspect_err(|error| tracing::trace!(%error, "{LATENCY}")).ok())
    }

    fn ask() -> io::Result<File> {
        let mut file = OpenOptions::new().write(true).open(LATENCY)?;
        file.write_all(&0_i32.to_ne_bytes())?;
        Ok(file)
    }
}
