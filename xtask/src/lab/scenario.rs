//! What can be played in the emulated host.

use std::fs;

use anyhow::{Context, Result};

/// What is done to the guest, by the program of that name in `lab/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// A guest is moved, updated, saved, restored and rebooted
    Moves,
    /// A guest moves, is saved and restored into a page of 1 GiB and out of one, and updated on it
    Pages,
}

impl Scenario {
    /// All of them, what is played whatever the machine first.
    pub const ALL: [Self; 2] = [Self::Moves, Self::Pages];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Moves => "moves",
            Self::Pages => "pages",
        }
    }

    /// What its emulated host needs in MiB.
    pub fn memory_mib(self) -> u32 {
        match self {
            Self::Moves => 2048,
            Self::Pages => 6144,
        }
    }

    /// How many pages of 1 GiB its emulated host sets aside of that.
    pub fn gibibytes(self) -> u32 {
        match self {
            Self::Moves => 0,
            Self::Pages => 1,
        }
    }

    /// What runs in the emulated host; the folder `out` comes back.
    pub fn script(self) -> String {
        let name = self.name();
        format!("mkdir -p out\nexec ./scenario {name} ./whimbrel ./vmlinuz ./guest.cpio ./out\n")
    }

    /// Those for which there is memory, played at the same time. The first one always is.
    pub fn that_fit(available_mib: u64) -> Vec<Self> {
        let mut needed = 0;
        let fits = |scenario: &Self| {
            needed += u64::from(scenario.memory_mib());
            *scenario == Self::ALL[0] || needed <= available_mib
        };
        Self::ALL.into_iter().filter(fits).collect()
    }
}

/// Memory that this machine can give, in MiB.
pub fn available_mib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    available_of(&text).context("/proc/meminfo does not say how much memory is available")
}

/// `MemAvailable` of `proc_meminfo(5)`, in MiB.
fn available_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_memory_for_is_left_out() {
        assert_eq!(Scenario::that_fit(1024), [Scenario::Moves]);
        assert_eq!(Scenario::that_fit(8191), [Scenario::Moves]);
        assert_eq!(Scenario::that_fit(8192), Scenario::ALL);
    }

    #[test]
    fn memory_that_is_available_is_read() {
        let meminfo = "MemTotal:  9437184 kB\nMemFree: 12 kB\nMemAvailable:    2097152 kB\n";
        assert_eq!(available_of(meminfo), Some(2048));
        assert_eq!(available_of("MemTotal: 1 kB\n"), None);
    }
}
