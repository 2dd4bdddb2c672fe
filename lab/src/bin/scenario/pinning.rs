//! Keeps each vCPU on one processor of the emulated host.
//!
//! QEMU's emulation of SVM does not survive for long that a vCPU goes from one processor to
//! another: either the guest or the host's kernel is soon damaged, whatever the VMM. A vCPU that
//! stays where it is does no harm.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

/// How the threads of vCPUs are called, before their number.
const NAME: &str = "vcpu";
const INTERVAL: Duration = Duration::from_millis(20);

/// Pins the vCPUs of a process, whenever it makes them, until it is dropped.
pub struct Pinning(Arc<AtomicBool>);

impl Drop for Pinning {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Pinning {
    /// Begins with the process `pid`.
    pub fn of(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let pinning = Self(Arc::clone(&over));
        thread::spawn(move || {
            let tasks = PathBuf::from(format!("/proc/{pid}/task"));
            let mut pinned = Vec::new();
            while !over.load(Ordering::Relaxed) {
                for task in std::fs::read_dir(&tasks).into_iter().flatten().flatten() {
                    if !pinned.contains(&task.file_name()) && pin(&task.path(), processors) {
                        pinned.push(task.file_name());
                    }
                }
                thread::sleep(INTERVAL);
            }
        });
        pinning
    }
}

/// Whether the task was a vCPU and has been pinned.
fn pin(task: &std::path::Path, processors: usize) -> bool {
    let vcpu = || -> Option<(Pid, usize)> {
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        let index: usize = name.trim().strip_prefix(NAME)?.parse().ok()?;
        let thread = task.file_name()?.to_str()?.parse().ok()?;
        Some((Pid::from_raw(thread)?, index))
    };
    let Some((thread, index)) = vcpu() else { return false };
    let mut one = CpuSet::new();
    one.set(index % processors);
    sched_setaffinity(Some(thread), &one).is_ok()
}
