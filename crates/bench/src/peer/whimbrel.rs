//! Whimbrel itself: the program that runs.

use super::{Account, Moment, Peer, Plan, Spec, Way};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A restore whose guest runs while its memory comes.
pub const LAZY: Way = Way::called("lazy");
/// A restore whose guest runs when all of its memory is there.
pub const EAGER: Way = Way::called("eager");

/// Names another runtime folder, in which machines find each other by name.
const RUNTIME_DIR: &str = "WHIMBREL_RUNTIME_DIR";

/// Whimbrel.
#[derive(Debug, Clone)]
pub struct Whimbrel {
    /// The program.
    pub program: PathBuf,
}

impl Whimbrel {
    fn verb(&self, verb: &str, socket: &Path) -> Command {
        let mut command = Command::new(&self.program);
        // The control socket of a machine goes by its name.
        let name = socket.file_stem().unwrap_or_default();
        command.args([verb, "--console", "stdio", "--name"]).arg(name);
        if let Some(place) = socket.parent() {
            command.env(RUNTIME_DIR, place);
        }
        command
    }
}

/// A file of a guest that was stopped, as `migrate file:` writes it: a copy, so that it can be restored
/// over and over without a claim.
const WRITINGS: [Way; 1] =
    [Way { arguments: &["x-whimbrel-force"], ..Way::called("past the page cache") }];
const AT_END: [Way; 1] = [Way {
    capabilities: &[("background-snapshot", false)],
    arguments: &["x-whimbrel-force", "x-whimbrel-snapshot"],
    ..Way::called("of its end")
}];
const AT_START: [Way; 1] = [Way {
    capabilities: &[("background-snapshot", true)],
    ..Way { name: "of its start", ..AT_END[0] }
}];

impl Peer for Whimbrel {
    fn name(&self) -> &'static str {
        "whimbrel"
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn settings(&self) -> String {
        "run --guest workload; all parameters at their defaults".to_owned()
    }

    fn command(&self, spec: &Spec, socket: &Path, incoming: bool) -> Command {
        let mut command = self.verb("run", socket);
        if incoming {
            command.args(["--incoming", "defer"]);
        } else {
            command.args(["--guest", "workload", "--cmdline", &spec.cmdline]).args([
                "--memory",
                &spec.memory.to_string(),
                "--cpus",
                &spec.vcpus.to_string(),
            ]);
        }
        command
    }

    fn restore_command(&self, _: &Spec, socket: &Path, file: &Path, way: &Way) -> Command {
        let mut command = self.verb("restore", socket);
        command.arg(file).arg(format!("--{}", way.name));
        command.args(way.arguments.iter().map(|flag| format!("--{flag}")));
        command
    }

    fn writings(&self) -> &'static [Way] {
        &WRITINGS
    }

    fn readings(&self) -> &'static [Way] {
        const { &[LAZY] }
    }

    fn copyings(&self, of: Moment) -> &'static [Way] {
        match of {
            Moment::Start => &AT_START,
            Moment::End => &AT_END,
        }
    }

    fn syncs(&self) -> bool {
        true
    }

    fn ram(&self) -> &'static str {
        "/memfd:whimbrel-ram"
    }

    fn capabilities(&self) -> &'static [&'static str] {
        &[]
    }

    fn parameters(&self, plan: &Plan) -> Value {
        json!({ "downtime-limit": plan.limit, "max-bandwidth": plan.bandwidth.unwrap_or(0) })
    }

    fn renew_command(&self, _: &Spec, socket: &Path, path: &Path) -> Command {
        // Name, console and control sockets are those of the old process.
        let mut command = Command::new(&self.program);
        command.args(["run", "--incoming"]).arg(format!("update:unix:{}", path.display()));
        if let Some(place) = socket.parent() {
            command.env(RUNTIME_DIR, place);
        }
        command
    }

    fn renew(&self, path: &Path) -> Vec<(&'static str, Value)> {
        vec![("x-whimbrel-update", json!({ "to": path }))]
    }

    fn renew_in_place(&self) -> Option<(&'static str, Value)> {
        Some(("x-whimbrel-update", json!({ "mode": "exec" })))
    }

    fn lasting_command(&self, spec: &Spec, socket: &Path, ram: &Path) -> Option<Command> {
        let mut command = self.command(spec, socket, false);
        command.arg("--memory-file").arg(ram);
        Some(command)
    }

    fn leave(&self, state: &Path) -> (&'static str, Value) {
        let uri = format!("file:{}", state.display());
        ("migrate", json!({ "uri": uri, "x-whimbrel-mode": "cpr-reboot" }))
    }

    fn carries_connections(&self) -> bool {
        true
    }

    fn account(&self, mut info: Value) -> Account {
        let report = info["x-whimbrel-report"].take();
        let millis = |key: &str| report["blackout"][key].as_f64().map(|ns| ns / 1e6);
        Account { blackout: millis("ns"), predicted: millis("predicted_ns"), whole: report }
    }
}
