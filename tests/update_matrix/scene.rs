//! A machine that is updated, and the people who hold on to it.

use crate::support::{Host, Machine, PATIENCE};
use qmp::Client;
use serde_json::{Value, json};
use std::time::Duration;

/// A guest that checks itself, small enough to be whole in no time.
const SHAPE: [&str; 4] = ["--memory", "16M", "--cmdline", "ws=4M rate=5000"];
/// How long a silent process is put up with where silence is what is waited for.
const SHORT: Duration = Duration::from_secs(2);
/// And where nothing may depend on time.
const LONG: Duration = Duration::from_secs(600);

/// The machine `a` as it was begun.
pub struct Scene {
    /// Its first process.
    pub process: Machine,
    /// People who were connected before.
    pub clients: [Client; 2],
    /// After so long without a word the other process is given up.
    pub patience: Duration,
    // The last to go: what the machine has logged is in its folder.
    pub host: Host,
}

impl Scene {
    /// Begins it, with so many processors, and people who have more or less patience.
    pub fn set(cpus: &str, somebody_is_silent: bool) -> Self {
        let host = Host::new();
        let patience = if somebody_is_silent { SHORT } else { LONG };
        let more = ["--cpus", cpus, "--log", "whimbrel=debug"];
        let process = host.selfcheck("a", &[&SHAPE[..], &more].concat());
        let wishes = json!({
            "x-whimbrel-stall-limit": u64::try_from(patience.as_millis()).unwrap(),
            "x-whimbrel-downtime-unlimited": true
        });
        host.ask("a", "migrate-set-parameters", wishes).unwrap();
        let clients = [(); 2].map(|()| Client::connect(&host.folder().join("a.sock")).unwrap());
        Self { process, clients, patience, host }
    }

    /// How the update stands, as whoever serves the machine says.
    pub fn motion(&self) -> Value {
        let motion = self.host.ask("a", "query-migrate", None).unwrap_or_default();
        motion["status"].clone()
    }

    /// The process that serves the machine.
    pub fn pid(&self) -> u64 {
        self.host.view("a").and_then(|view| view["pid"].as_u64()).unwrap_or(0)
    }

    /// The machine is listed once and runs in this process; its guest is whole and its console and its
    /// clients are still connected; and it can be updated.
    pub fn goes_on_in(&mut self, pid: u32) {
        let listed: Vec<_> = self.host.machines();
        assert_eq!(listed.len(), 1, "{listed:#?}");
        assert_eq!(listed[0]["pid"], u64::from(pid));
        for client in &mut self.clients {
            let status = client.execute("query-status", None, Some(PATIENCE)).unwrap();
            assert_eq!(status["status"], "running");
        }
        self.process.check_all();
        assert!(self.process.faults().is_empty(), "{:#?}", self.process.faults());
        self.host.ok(&["update", "a", "--mode", "transfer", "--max-blackout", "unlimited"]);
        assert_ne!(self.pid(), u64::from(pid));
        self.process.check_all();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Whichever process has it by now.
        self.host.run(&["kill", "--force", "a"]);
    }
}
