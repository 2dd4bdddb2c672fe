//! The emulated host's pages of 1 GiB.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Where the kernel tells of them (Documentation/admin-guide/mm/hugetlbpage.rst).
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB";
const STEP: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);

/// The command that makes the pool so large, as Whimbrel is to advise it.
pub fn advice(pages: u64) -> String {
    format!("echo {pages} > {POOL}/nr_hugepages")
}

/// Waits until so many are free. The kernel takes back those of a process a moment after its end.
pub fn wait_until_free(pages: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while number("free_hugepages")? != pages {
        if Instant::now() > deadline {
            bail!("{} pages of 1 GiB are free, not {pages}", number("free_hugepages")?);
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

/// How many parts of 1 GiB of its guests' memory KVM has mapped for them as one page each, by what it counts.
pub fn mapped() -> Result<u64> {
    read("/sys/kernel/debug/kvm/pages_1g")
}

fn number(name: &str) -> Result<u64> {
    read(&format!("{POOL}/{name}"))
}

fn read(path: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    text.trim().parse().with_context(|| format!("{path} is no number: {text}"))
}
