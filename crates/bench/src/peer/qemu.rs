//! QEMU 10, with the settings that were found to be its best for these guests.

use super::{Account, Moment, Peer, Plan, Spec, Way};
use crate::BenchError;
use guest::Builtin;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "qemu-system-x86_64";
/// The machine with the least state: no PCI, no firmware for a kernel with a PVH note.
const MACHINE: &str = "microvm,isa-serial=on,pit=off,pic=off,rtc=off,accel=kvm,aux-ram-share=on";
/// Connections for pages: one for each processor, as far as more still help.
const CHANNELS: std::ops::RangeInclusive<usize> = 2..=8;

const fn file(
    name: &'static str,
    capabilities: &'static [(&'static str, bool)],
    direct: bool,
) -> Way {
    Way { capabilities, direct: Some(direct), ..Way::called(name) }
}

/// Pages at fixed places, written by several threads, past the page cache or through it.
const WRITINGS: [Way; 2] =
    [file("multifd, direct-io", IN_PLACE, true), file("multifd, buffered", IN_PLACE, false)];
const IN_PLACE: &[(&str, bool)] = &[("events", true), ("mapped-ram", true), ("multifd", true)];
/// The same for reading, and by one thread, which is better for what is in the page cache. Direct I/O
/// can only be switched on over QMP, and then the file has to be asked for there.
const READINGS: [Way; 3] = [
    Way { asked: true, ..WRITINGS[0] },
    file("multifd, buffered", &[("mapped-ram", true), ("x-multifd", true)], false),
    file("one thread", &[("mapped-ram", true)], false),
];
/// Pages are copied before they are written; that goes with one thread only.
const COPYINGS: [Way; 2] = [
    file("background-snapshot", COPYING, false),
    file("background-snapshot, mapped-ram", COPYING_IN_PLACE, false),
];
const COPYING: &[(&str, bool)] =
    &[("events", true), ("mapped-ram", false), ("background-snapshot", true)];
const COPYING_IN_PLACE: &[(&str, bool)] =
    &[("events", true), ("mapped-ram", true), ("background-snapshot", true)];

/// QEMU, and the exported guest.
#[derive(Debug, Clone)]
pub struct Qemu {
    kernel: PathBuf,
    version: String,
    channels: usize,
}

impl Qemu {
    /// Exports the guest to `place`, and asks QEMU for its version.
    ///
    /// # Errors
    /// When there is no QEMU, or the guest cannot be written.
    pub fn new(place: &Path) -> Result<Self, BenchError> {
        let kernel = place.join("workload.elf");
        std::fs::write(&kernel, Builtin::Workload.image())
            .map_err(BenchError::io("cannot export the guest"))?;
        let output = Command::new(PROGRAM).arg("--version").output().map_err(BenchError::io(
            format!("cannot run {PROGRAM} (Debian: qemu-system-x86, 10 or later)"),
        ))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let first = text.lines().next().unwrap_or_default();
        let version = first.trim_start_matches("QEMU emulator version ").to_owned();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let channels = cpus.clamp(*CHANNELS.start(), *CHANNELS.end());
        Ok(Self { kernel, version, channels })
    }
}

/// Where the state goes when descriptors go to `path`.
fn main_channel(path: &Path) -> PathBuf {
    path.with_extension("main")
}

/// A channel of a motion, in QEMU's words (`MigrationChannel` of its QMP reference).
fn channel(kind: &str, path: &Path) -> Value {
    let addr = json!({ "transport": "socket", "type": "unix", "path": path });
    json!({ "channel-type": kind, "addr": addr })
}

impl Peer for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn settings(&self) -> String {
        format!(
            "-M {MACHINE}; -cpu host -nodefaults; memory-backend-memfd,share=on,prealloc=off; \
             capabilities multifd, events; multifd-channels {}; \
             downtime-limit 1 ms where the guest is idle, else as the case says; max-bandwidth as the case says, else unlimited; \
             updates by cpr-transfer, with events alone",
            self.channels
        )
    }

    fn command(&self, spec: &Spec, socket: &Path, incoming: bool) -> Command {
        let Spec { memory, vcpus, cmdline } = spec;
        let mut command = Command::new(PROGRAM);
        command
            .args(["-M", &format!("{MACHINE},memory-backend=ram"), "-cpu", "host"])
            .args(["-smp", &vcpus.to_string(), "-m", &format!("{}M", memory >> 20)])
            .arg("-object")
            .arg(format!("memory-backend-memfd,id=ram,size={memory},share=on,prealloc=off"))
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-kernel")
            .arg(&self.kernel)
            .args(["-append", cmdline]);
        if incoming {
            command.args(["-incoming", "defer"]);
        }
        command
    }

    fn restore_command(&self, spec: &Spec, socket: &Path, file: &Path, way: &Way) -> Command {
        if way.asked {
            return self.command(spec, socket, true);
        }
        let mut command = self.command(spec, socket, false);
        for (capability, on) in way.capabilities {
            let on = if *on { "on" } else { "off" };
            command.args(["-global", &format!("migration.{capability}={on}")]);
        }
        command.arg("-incoming").arg(format!("file:{}", file.display()));
        command
    }

    fn writings(&self) -> &'static [Way] {
        &WRITINGS
    }

    fn readings(&self) -> &'static [Way] {
        &READINGS
    }

    fn copyings(&self, _: Moment) -> &'static [Way] {
        &COPYINGS
    }

    fn syncs(&self) -> bool {
        false
    }

    fn ram(&self) -> &'static str {
        "/memfd:memory-backend-memfd"
    }

    fn capabilities(&self) -> &'static [&'static str] {
        &["events", "multifd"]
    }

    fn parameters(&self, plan: &Plan) -> Value {
        json!({
            "multifd-channels": self.channels,
            "downtime-limit": plan.eager_limit,
            "max-bandwidth": plan.bandwidth.unwrap_or(0),
        })
    }

    fn renew_command(&self, spec: &Spec, socket: &Path, path: &Path) -> Command {
        let mut command = self.command(spec, socket, false);
        command.arg("-incoming").arg(format!("unix:{}", main_channel(path).display()));
        command.arg("-incoming").arg(channel("cpr", path).to_string());
        command
    }

    fn renew(&self, path: &Path) -> Vec<(&'static str, Value)> {
        let events = json!([{ "capability": "events", "state": true }]);
        let channels = json!([channel("main", &main_channel(path)), channel("cpr", path)]);
        vec![
            ("migrate-set-capabilities", json!({ "capabilities": events })),
            ("migrate-set-parameters", json!({ "mode": "cpr-transfer" })),
            ("migrate", json!({ "channels": channels })),
        ]
    }

    fn renew_in_place(&self) -> Option<(&'static str, Value)> {
        // Its cpr-exec came with version 10.2.
        None
    }

    fn lasting_command(&self, _: &Spec, _: &Path, _: &Path) -> Option<Command> {
        // It maps files, too, and has cpr-reboot; nothing is to be measured against that.
        None
    }

    fn leave(&self, state: &Path) -> (&'static str, Value) {
        ("migrate", json!({ "uri": format!("file:{}", state.display()) }))
    }

    fn carries_connections(&self) -> bool {
        false
    }

    fn account(&self, info: Value) -> Account {
        Account { blackout: info["downtime"].as_f64(), predicted: None, whole: info }
    }
}
