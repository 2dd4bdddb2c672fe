//! What backs guest RAM.

use crate::{HUGE_2M, PAGE_SIZE};

/// The pages that the host's kernel uses for guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Backing {
    /// Pages of 4 KiB.
    #[default]
    Small,
    /// Transparent huge pages: 2 MiB where the kernel finds them. Needs
    /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` to be `advise`, `always` or
    /// `within_size`.
    Transparent,
    /// Huge pages of 2 MiB from the pool `vm.nr_hugepages`, reserved when the machine starts.
    Huge2M,
}

impl Backing {
    /// The page size that RAM must be a multiple of, in bytes.
    #[must_use]
    pub fn page_size(self) -> u64 {
        match self {
            Self::Small => PAGE_SIZE,
            Self::Transparent | Self::Huge2M => HUGE_2M,
        }
    }

    /// The word for it on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Small => "off",
            Self::Transparent => "thp",
            Self::Huge2M => "2M",
        }
    }
}

impl std::fmt::Display for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Backing {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "off" => Ok(Self::Small),
            "thp" => Ok(Self::Transparent),
            "2M" | "2m" => Ok(Self::Huge2M),
            _ => Err(format!("`{s}` is not a kind of huge pages: use 2M, thp or off")),
        }
    }
}
