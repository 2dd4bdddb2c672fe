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

/// Whether processors are kept from sleeping; not, to begin with, and not once it is dropped.
#[derive(Debug, Default)]
pub struct Awake(Option<File>);

impl Awake {
    /// Keeps them awake, or lets them sleep. Where this process may not do that all goes on without.
    pub fn set(&mut self, awake: bool) {
        match awake {
            true if self.0.is_none() => self.0 = ask().ok(),
            true => {}
            false => self.0 = None,
        }
    }
}

fn ask() -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(LATENCY)?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_until_it_is_ended() {
        let mut awake = Awake::default();
        awake.set(true);
        // It may not be had by others than root, and not everywhere.
        assert_eq!(awake.0.is_some(), ask().is_ok());
        awake.set(false);
        assert!(awake.0.is_none());
    }
}
