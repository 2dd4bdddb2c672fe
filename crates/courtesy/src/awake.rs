//! Keeping idle processors awake while a guest stands still that is to run again.
//!
//! A handover is a chain of threads of which each wakes the next, often on a processor that has gone to
//! sleep meanwhile: bringing one back takes tens of microseconds in a deep state of hardware, or in a host
//! that is a virtual machine itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

/// Where a process says how long a processor may take to wake up, for as long as it has it open (Linux
/// `Documentation/power/pm_qos_interface.rst`). Only privileged ones may.
const LATENCY: &str = "/dev/cpu_dma_latency";

/// Processors do not sleep as long as this lives.
#[derive(Debug)]
pub struct Awake(#[expect(dead_code, reason = "it is kept open")] File);

impl Awake {
    /// Asks for it.
    ///
    /// # Errors
    /// This process may not, or the host's processors do not sleep.
    pub fn begin() -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).open(LATENCY)?;
        file.write_all(&0_i32.to_ne_bytes())?;
        Ok(Self(file))
    }

    /// Begins or ends what `self` is, if anything. Where it cannot be had all goes on without.
    pub fn set(this: &mut Option<Self>, awake: bool) {
        match awake {
            true if this.is_none() => *this = Self::begin().ok(),
            true => {}
            false => *this = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_until_it_is_ended() {
        let mut awake = None;
        Awake::set(&mut awake, true);
        // Elsewhere, and for others, it may not be had.
        assert!(awake.is_some() || OpenOptions::new().write(true).open(LATENCY).is_err());
        Awake::set(&mut awake, false);
        assert!(awake.is_none());
    }
}
