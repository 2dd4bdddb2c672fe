//! The emulated host: Debian's kernel, KVM's modules and busybox, booted by QEMU without KVM.
//!
//! QEMU emulates an AMD processor with SVM and nested paging, so the host's own KVM is a complete
//! one, whatever the machine that all this runs on can do.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::debian::{self, Kernel};
use crate::process::{output, rendered, run};

const MODULES: [&str; 4] = ["irqbypass", "kvm", "kvm-amd", "virtio_blk"];
const INIT: &[u8] = include_bytes!("../../../lab/host-init.sh");
/// An AMD processor, less what QEMU cannot emulate and would warn about.
const CPU: &str = "EPYC,-fxsr-opt,-misalignsse,-osvw,-topoext,-nrip-save,-xsavec";
/// How `timeout` says that it had to end the emulator.
const TIMED_OUT: i32 = 124;
/// What the host says every 5 s.
const ALIVE: &str = "LAB-ALIVE";
/// A host that says nothing for so long stands still.
const SILENCE: Duration = Duration::from_secs(60);
/// What the emulator is asked about a host that stands still, on its monitor: Ctrl-a c leads from
/// the serial line there and back.
const QUESTIONS: &[u8] = b"\x01cinfo registers\ninfo lapic\n\x01c";
/// So long it has to answer.
const ANSWER: Duration = Duration::from_secs(2);
const BUSYBOX: &str = "/bin/busybox";

/// Installs what the emulated host is made of, and what emulates it.
pub fn install() -> Result<()> {
    debian::install(&["busybox-static", "xz-utils", "e2fsprogs"], &["qemu-system-x86"])
}

/// What boots the emulated host.
#[derive(Clone)]
pub struct Host {
    kernel: PathBuf,
    initramfs: PathBuf,
    /// What each line of it begins with on our output.
    pub label: String,
    /// Which one it is of those that run at the same time, counted from 0.
    pub turn: usize,
    /// Number of emulated processors.
    pub cpus: u32,
    /// Memory of the host, in MiB.
    pub memory_mib: u32,
    /// Pages of 1 GiB that are set aside of it at the start: later the kernel may not find any.
    pub gibibytes: u32,
    /// After this long the emulator is ended.
    pub timeout: Duration,
}

/// How a run of the emulated host ended.
pub enum Ended {
    /// `run.sh` ended with this status.
    Ran(i32),
    /// The host itself ended, or stood still, before `run.sh` ended.
    Died(String),
}

impl Host {
    /// Installs what is needed and builds the host's initramfs in `folder`.
    pub fn build(folder: &Path, cache: &Path) -> Result<Self> {
        install()?;
        let package = debian::kernel(Kernel::Newer, &MODULES, cache)?;
        let mut archive = Archive::default();
        for path in ["bin", "dev", "mnt", "proc", "run", "sys", "tmp"] {
            archive.folder(path);
        }
        archive.device("dev/console", (5, 1));
        archive.file("init", INIT);
        archive.file("bin/busybox", &fs::read(BUSYBOX).context("cannot read busybox")?);
        archive.modules(&package, &MODULES)?;
        fs::create_dir_all(folder)?;
        let initramfs = folder.join("host.cpio");
        fs::write(&initramfs, archive.finish())?;
        let kernel = package.join("vmlinuz");
        let timeout = Duration::from_secs(300);
        Ok(Self {
            kernel,
            initramfs,
            label: String::new(),
            turn: 0,
            cpus: 1,
            memory_mib: 2048,
            gibibytes: 0,
            timeout,
        })
    }

    /// All of an emulator's threads share one processor, because QEMU 10 loses interrupts otherwise:
    /// to enter a nested guest with a virtual interrupt pending, `helper_vmrun` sets a bit of
    /// `interrupt_request` without the lock under which the main thread, for the emulated timers,
    /// sets others. That is one instruction, not atomic between processors, but between the threads
    /// on one it is.
    ///
    /// For the same reason the host's kernel is told not to try its timers out, `no_timer_check`: a
    /// main thread that waits for its turn would make it believe that they do not work.
    ///
    /// And that it can rely on its time stamp counter, `tsc=reliable`: only with that as its clock does its KVM
    /// tell clock and counter together, as on real hosts, and one that waits for its turn may take it for unstable.
    fn emulator(&self, disk: &Path, extra: &str) -> Result<Command> {
        let mut command = Command::new("taskset");
        command
            .args(["--cpu-list", &processor(self.turn)?, "timeout", "--foreground"])
            .arg(self.timeout.as_secs().to_string())
            .args("qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu".split(' '))
            .arg(CPU)
            .args("-nodefaults -no-reboot -display none -serial mon:stdio".split(' '))
            .args(["-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()])
            .args([Path::new("-kernel"), &self.kernel, Path::new("-initrd"), &self.initramfs])
            .args(["-drive", &format!("if=none,id=d,format=raw,file={}", disk.display())])
            .args(["-device", "virtio-blk-pci,drive=d", "-append"])
            .arg(format!(
                "console=ttyS0 panic=-1 quiet mitigations=off no_timer_check tsc=reliable \
                 hugepagesz=1G hugepages={} {extra}",
                self.gibibytes
            ));
        Ok(command)
    }

    /// Boots the host with a copy of `payload` as its disk and runs `run.sh` from it. Everything
    /// on the serial line goes to our output and to `folder/serial.log`; the disk as the host left
    /// it is unpacked to `folder/disk`.
    pub fn run(&self, payload: &Path, folder: &Path) -> Result<Ended> {
        let disk = build_disk(payload, folder)?;
        let mut command = self.emulator(&disk, "")?;
        let mut emulator = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("emulator.log"))?)
            .spawn()
            .with_context(|| format!("cannot start `{}`", rendered(&command)))?;
        let monitor = emulator.stdin.take().expect("piped above");
        let serial = emulator.stdout.take().expect("piped above");
        let mut log = fs::File::create(folder.join("serial.log"))?;
        let mut verdict = None;
        let mut lines = BufReader::new(serial);
        let mut line = Vec::new();
        let watch = Watch::over(emulator.id(), monitor);
        while lines.read_until(b'\n', &mut line)? != 0 {
            watch.heard();
            log.write_all(&line)?;
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if text == ALIVE {
                line.clear();
                continue;
            }
            println!("    {}{text}", self.label);
            if let Some(status) = text.strip_prefix("LAB-RC=") {
                verdict = status.parse().ok();
            }
            line.clear();
        }
        let stood_still = watch.end();
        let status = emulator.wait()?;
        unpack(&disk, &folder.join("disk"))?;
        let died = || {
            let said = fs::read_to_string(folder.join("emulator.log")).unwrap_or_default();
            Ended::Died(format!("the emulator ended with {status} {}", said.trim()))
        };
        if stood_still && verdict.is_none() {
            return Ok(Ended::Died(format!(
                "it stood still: no sign of life for {} s; its processor's and its interrupt \
                 controller's registers are at the end of what it printed",
                SILENCE.as_secs()
            )));
        }
        if verdict.is_none() && status.code() == Some(TIMED_OUT) {
            bail!("run.sh did not end within {:?} in the emulated host", self.timeout);
        }
        Ok(verdict.map_or_else(died, Ended::Ran))
    }

    /// Boots the host with a shell on this terminal, `payload` in `/mnt`.
    pub fn shell(&self, payload: &Path, folder: &Path) -> Result<()> {
        let disk = build_disk(payload, folder)?;
        let mut command = self.emulator(&disk, "lab.shell")?;
        let status =
            command.status().with_context(|| format!("cannot start `{}`", rendered(&command)))?;
        if !status.success() {
            bail!("the emulator ended with {status}");
        }
        Ok(())
    }
}

/// Ends an emulator whose host says nothing any more.
struct Watch {
    shared: Arc<(Mutex<Life>, Condvar)>,
    thread: JoinHandle<bool>,
}

struct Life {
    heard: Instant,
    is_over: bool,
}

impl Watch {
    /// Watches over the emulator that `timeout`, process `id`, has started.
    fn over(id: u32, mut monitor: ChildStdin) -> Self {
        let life = Life { heard: Instant::now(), is_over: false };
        let shared = Arc::new((Mutex::new(life), Condvar::new()));
        let watching = shared.clone();
        let thread = std::thread::spawn(move || {
            let (life, changed) = &*watching;
            let mut life = life.lock().unwrap_or_else(PoisonError::into_inner);
            while !life.is_over {
                let Some(left) = SILENCE.checked_sub(life.heard.elapsed()) else {
                    drop(life);
                    if monitor.write_all(QUESTIONS).is_ok() {
                        std::thread::sleep(ANSWER);
                    }
                    // `timeout` passes it on to what it has started.
                    let killed = Command::new("kill").arg(id.to_string()).status();
                    return killed.is_ok_and(|status| status.success());
                };
                let waited = changed.wait_timeout(life, left);
                life = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            false
        });
        Self { shared, thread }
    }

    fn heard(&self) {
        self.life().heard = Instant::now();
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the host stood still.
    fn end(self) -> bool {
        self.life().is_over = true;
        self.shared.1.notify_all();
        self.thread.join().unwrap_or(false)
    }
}

/// A processor that we may run on: another one for each turn, as far as there are some.
fn processor(turn: usize) -> Result<String> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read our own status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let all = list.and_then(processors);
    let all = all.context("the kernel does not say on which processors we may run")?;
    Ok(all[all.len() - 1 - turn % all.len()].to_string())
}

/// The numbers in a list of them and of ranges, `cpuset(7)`, "List format"; at least one.
fn processors(list: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    (!all.is_empty()).then_some(all)
}

/// Packs a folder into a file system image with room to write in.
fn build_disk(payload: &Path, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let disk = folder.join("disk.img");
    let _ = fs::remove_file(&disk);
    run(Command::new("/sbin/mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .args([payload, &disk])
        .arg("1G"))
    .with_context(|| format!("cannot pack {} for the emulated host", payload.display()))?;
    Ok(disk)
}

/// Copies everything on a file system image to `folder`, as far as it can be read.
fn unpack(disk: &Path, folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    // After a host that was ended the journal has to be replayed. The status is that of what was
    // found, and `debugfs` says nothing either: what matters is looked for by whoever needs it.
    let _ = output(Command::new("/sbin/e2fsck").args(["-f", "-y"]).arg(disk));
    let dump = format!("rdump / {}", folder.display());
    output(Command::new("/sbin/debugfs").args(["-R", &dump]).arg(disk))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_of_a_list_are_found() {
        let all = |list| processors(list).unwrap();
        assert_eq!(all("0"), [0]);
        assert_eq!(all("\t0-3\n"), [0, 1, 2, 3]);
        assert_eq!(all("0-1,5,10-11"), [0, 1, 5, 10, 11]);
        assert_eq!(processors(""), None);
        assert_eq!(processors("3-1"), None);
    }

    #[test]
    fn emulators_run_on_processors_that_we_may_use() {
        for turn in 0..3 {
            let chosen = processor(turn).unwrap();
            assert!(run(Command::new("taskset").args(["--cpu-list", &chosen, "true"])).is_ok());
        }
    }
}
