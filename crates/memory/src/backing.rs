//! What backs guest RAM.

use crate::{HUGE_1G, HUGE_2M, PAGE_SIZE};

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
    /// Huge pages of 1 GiB from their pool, reserved when the machine starts.
    Huge1G,
}

impl Backing {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Small, Self::Transparent, Self::Huge2M, Self::Huge1G];

    /// The page size that RAM must be a multiple of, in bytes.
    #[must_use]
    pub fn page_size(self) -> u64 {
        match self {
            Self::Small => PAGE_SIZE,
            Self::Transparent | Self::Huge2M => HUGE_2M,
            Self::Huge1G => HUGE_1G,
        }
    }

    /// The pool of huge pages that RAM is reserved from, if it is.
    #[must_use]
    pub fn pool(self) -> Option<HugePool> {
        match self {
            Self::Small | Self::Transparent => None,
            Self::Huge2M | Self::Huge1G => Some(HugePool { page_size: self.page_size() }),
        }
    }

    /// The pages of 4 KiB that exist or are missing together, because they are one page of a pool.
    #[must_use]
    pub fn unit(self) -> u64 {
        self.pool().map_or(1, |pool| pool.page_size / PAGE_SIZE)
    }

    /// The word for it on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Small => "off",
            Self::Transparent => "thp",
            Self::Huge2M => "2M",
            Self::Huge1G => "1G",
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
            "1G" | "1g" => Ok(Self::Huge1G),
            _ => Err(format!("`{s}` is not a kind of huge pages: use 1G, 2M, thp or off")),
        }
    }
}

/// The host's pool of huge pages of one size (Documentation/admin-guide/mm/hugetlbpage.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugePool {
    page_size: u64,
}

impl HugePool {
    /// Size of its pages in bytes.
    #[must_use]
    pub fn page_size(self) -> u64 {
        self.page_size
    }

    /// The folder in which the kernel tells of it.
    #[must_use]
    pub fn folder(self) -> String {
        format!("/sys/kernel/mm/hugepages/hugepages-{}kB", self.page_size / 1024)
    }

    /// The command that makes it this large, in pages.
    #[must_use]
    pub fn advice(self, pages: u64) -> String {
        match self.page_size {
            HUGE_2M => format!("sysctl vm.nr_hugepages={pages}"),
            _ => format!("echo {pages} > {}/nr_hugepages", self.folder()),
        }
    }
}

impl std::fmt::Display for HugePool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.page_size == HUGE_2M { "2 MiB" } else { "1 GiB" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_read_as_it_is_written() {
        for backing in Backing::ALL {
            assert_eq!(backing.as_str().parse(), Ok(backing));
            assert!(backing.page_size().is_multiple_of(backing.unit() * PAGE_SIZE));
        }
        assert!("4K".parse::<Backing>().unwrap_err().contains("1G, 2M, thp or off"));
    }

    #[test]
    fn advice_for_a_pool_is_a_command() {
        let advice = |backing: Backing| backing.pool().map(|pool| pool.advice(3));
        assert_eq!(advice(Backing::Small), None);
        assert_eq!(advice(Backing::Huge2M).unwrap(), "sysctl vm.nr_hugepages=3");
        let folder = "/sys/kernel/mm/hugepages/hugepages-1048576kB";
        assert_eq!(advice(Backing::Huge1G).unwrap(), format!("echo 3 > {folder}/nr_hugepages"));
    }
}
