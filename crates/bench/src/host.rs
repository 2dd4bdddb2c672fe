//! The machine that figures were taken on, as far as it matters to them. No names.

use serde::{Deserialize, Serialize};
use std::fs::read_to_string;
use std::io;
use std::path::Path;

/// The machine that figures were taken on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Model of the processor.
    pub cpu: String,
    /// Processors that may be used.
    pub cpus: usize,
    /// Whether it is a virtual machine itself.
    pub is_virtual: bool,
    /// RAM in MiB.
    pub ram_mib: u64,
    /// Kernel.
    pub kernel: String,
    /// KVM's module, and whether it has the processor's help with page tables.
    pub kvm: String,
    /// Huge pages of 2 MiB in the pool.
    pub huge_pages: u64,
    /// Transparent huge pages for shared memory, as the kernel shows its choice.
    pub shmem_huge: String,
    /// What chooses the processors' frequency.
    pub governor: String,
    /// Average number of runnable tasks over the last minute before the start.
    pub load: String,
    /// What files are stored on, where that matters: file system and size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Version of Whimbrel, and how it was built.
    pub whimbrel: String,
    /// Version of the other VMM, if there was one.
    pub peer: Option<String>,
    /// How that is run and set.
    pub peer_settings: Option<String>,
}

/// A load from which on a machine is not idle.
const QUIET: f64 = 0.5;

/// What a folder is stored on: the file system and its size.
///
/// # Errors
/// What the kernel said.
pub fn storage(folder: &Path) -> io::Result<String> {
    let about = rustix::fs::statfs(folder)?;
    let name = match u64::from_ne_bytes(about.f_type.to_ne_bytes()) {
        // linux/magic.h
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x6969 => "nfs".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        0x2fc1_2fc1 => "zfs".to_owned(),
        other => format!("a file system of type {other:#x}"),
    };
    let size = about.f_blocks.saturating_mul(u64::try_from(about.f_bsize).unwrap_or(0));
    Ok(format!("{name} of {} GiB", size >> 30))
}

fn read(path: &str) -> String {
    read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field(text: &str, key: &str) -> String {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map_or(String::new(), |(_, value)| value.trim().to_owned())
}

/// A size in kB as `/proc/meminfo` has it, in MiB.
fn mib(text: &str) -> u64 {
    text.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) >> 10
}

fn kvm() -> String {
    for (module, parameter) in [("kvm_intel", "ept"), ("kvm_amd", "npt"), ("kvm_pvm", "")] {
        let folder = format!("/sys/module/{module}");
        if std::path::Path::new(&folder).is_dir() {
            let paging = read(&format!("{folder}/parameters/{parameter}"));
            let paging = if parameter.is_empty() || paging.is_empty() {
                String::new()
            } else {
                format!(", {parameter}={paging}")
            };
            return format!("{module}{paging}");
        }
    }
    "unknown".into()
}

impl Host {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let meminfo = read("/proc/meminfo");
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        let build = if cfg!(debug_assertions) { "debug build" } else { "release build" };
        Self {
            cpu: field(&cpuinfo, "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            is_virtual: field(&cpuinfo, "flags").split(' ').any(|flag| flag == "hypervisor"),
            ram_mib: mib(&field(&meminfo, "MemTotal")),
            kernel: read("/proc/sys/kernel/osrelease"),
            kvm: kvm(),
            huge_pages: field(&meminfo, "HugePages_Total").parse().unwrap_or(0),
            shmem_huge: read("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            governor: if governor.is_empty() { "none".into() } else { governor },
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            whimbrel: format!("{}, {build}", env!("CARGO_PKG_VERSION")),
            storage: None,
            peer: None,
            peer_settings: None,
        }
    }

    /// Whether figures from there and from here may stand in one table.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let what = |host: &Self| {
            (
                host.cpu.clone(),
                (host.cpus, host.ram_mib),
                (host.kernel.clone(), host.whimbrel.clone()),
                host.storage.clone(),
            )
        };
        what(self) == what(other)
    }

    /// For people, in lines.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let kind = if self.is_virtual { "virtual machine" } else { "bare metal" };
        let mut lines = vec![
            format!("{}, {} CPUs, {} MiB, {kind}", self.cpu, self.cpus, self.ram_mib),
            format!("Linux {}, KVM by {}, governor {}", self.kernel, self.kvm, self.governor),
            format!("Whimbrel {}; load at the start {}", self.whimbrel, self.load),
        ];
        if self.load.parse::<f64>().is_ok_and(|load| load >= QUIET) {
            lines.push("  the machine was not idle at the start: figures may be off".to_owned());
        }
        lines.extend(self.storage.iter().map(|storage| format!("files on {storage}")));
        lines.extend(self.peer.iter().map(|version| format!("beside QEMU {version}")));
        let settings = self.peer_settings.as_deref().unwrap_or_default();
        let settings = settings.split("; ").filter(|part| !part.is_empty());
        lines.extend(settings.map(|part| format!("  {part}")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_read() {
        let text = "processor\t: 0\nmodel name\t: A  CPU\nMemTotal:       2048 kB\n";
        assert_eq!(field(text, "model name"), "A  CPU");
        assert_eq!(mib(&field(text, "MemTotal")), 2);
        assert_eq!(field(text, "none"), "");
    }

    #[test]
    fn this_machine_has_processors_and_memory_and_no_name() {
        let here = Host::here();
        assert!(storage(Path::new("/proc")).unwrap().starts_with("a file system of type 0x"));
        assert!(here.cpus > 0 && here.ram_mib > 0 && !here.kernel.is_empty());
        assert!(here.is_like(&here) && !here.is_like(&Host::default()));
        let name = read("/proc/sys/kernel/hostname");
        let text = serde_json::to_string(&here).unwrap();
        assert!(name.len() < 5 || !text.contains(&name), "{text}");
    }
}
