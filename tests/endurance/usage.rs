//! What a process has of the host.

use crate::support::wait;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Memory may differ by so much: what an allocator keeps is not the same twice.
pub const MEMORY_SLACK: u64 = 1 << 20;

/// Descriptors, threads and memory of a process. The guest's RAM is shared memory and not counted:
/// how much of it there is, is up to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// What they are: each kind, or path, with how many there are of it.
    pub descriptors: BTreeMap<String, usize>,
    pub threads: usize,
    /// Anonymous memory in RAM, in bytes.
    pub memory: u64,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let count = |what| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kib =
            |line: &str| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok();
        let memory: u64 = status.lines().find_map(kib).unwrap();
        Self { descriptors: descriptors(pid), threads: count("task"), memory: memory << 10 }
    }

    /// What it has when whatever was just done is done: connections close and threads end a little
    /// after their work.
    pub fn at_rest(pid: u32) -> Self {
        let mut last = Self::of(pid);
        let mut same = 0;
        wait("a process to come to rest", || {
            thread::sleep(Duration::from_millis(100));
            let now = Self::of(pid);
            let alike = now.descriptors == last.descriptors && now.threads == last.threads;
            same = if alike { same + 1 } else { 0 };
            last = now;
            (same >= 15).then(|| last.clone())
        })
    }

    /// Requires that this process has, at rest, what another one had, or what it had itself before.
    pub fn is_still_that_of(&self, pid: u32, who: &str) -> Self {
        let now = Self::at_rest(pid);
        println!("{who}: {self:?} before, {now:?} now");
        assert_eq!(self.descriptors, now.descriptors, "descriptors of {who}");
        assert_eq!(self.threads, now.threads, "threads of {who}");
        let grown = now.memory.saturating_sub(self.memory);
        assert!(grown <= MEMORY_SLACK, "{who} has grown by {grown} bytes");
        now
    }
}

/// What a process has of all memory, in bytes: what it shares counts in part (`proc_pid_smaps(5)`, "Pss").
pub fn share_of_memory(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kib = |line: &str| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok();
    let share: u64 = rollup.lines().find_map(kib).unwrap();
    share << 10
}

/// The descriptors of a process. What the kernel has for it alone goes by its kind.
fn descriptors(pid: u32) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map_while(Result::ok) {
        // One that is closed meanwhile was not there.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let kind = target.split(":[").next().unwrap_or(&target);
        // What is a machine's own is called after it.
        let kind = match Path::new(kind).extension().and_then(OsStr::to_str) {
            Some(own @ ("lock" | "log")) => own,
            _ => kind,
        };
        *found.entry(kind.to_owned()).or_insert(0) += 1;
    }
    found
}
