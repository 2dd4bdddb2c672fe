//! The VMMs that are measured: real processes, driven over QMP, with the same guest.

mod file;
mod program;
mod qemu;
mod renew;
mod way;
mod whimbrel;

pub use qemu::Qemu;
pub use renew::Successor;
pub use way::{Moment, Way};
pub use whimbrel::{EAGER, LAZY, Whimbrel};

use crate::BenchError;
use crate::talk::Talk;
use program::Program;
use qmp::{Client, ClientError};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may take until it answers, and a command until it is answered.
const PATIENCE: Duration = Duration::from_secs(20);

/// The guest to run: always the built-in `workload`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// RAM in bytes.
    pub memory: u64,
    /// Processors.
    pub vcpus: u32,
    /// What the guest is told to do.
    pub cmdline: String,
}

/// How to move it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The longest blackout allowed, in milliseconds.
    pub limit: u64,
    /// The same for a VMM that stops the guest as soon as what is left fits the limit, where a lower
    /// one serves it better.
    pub eager_limit: u64,
    /// The most bytes per second, where there is such a limit.
    pub bandwidth: Option<u64>,
}

impl Default for Plan {
    fn default() -> Self {
        Self::within(300)
    }
}

impl Plan {
    /// A move with a blackout of at most so many milliseconds, over a link without a limit.
    pub fn within(limit: u64) -> Self {
        Self { limit, eager_limit: limit, bandwidth: None }
    }

    /// A move of a guest that writes nothing: nobody has to stop it before all was sent.
    pub fn idle() -> Self {
        Self { eager_limit: 1, ..Self::default() }
    }
}

/// What a VMM itself says of a move that ended, in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// The blackout.
    pub blackout: Option<f64>,
    /// The blackout that it predicted when it stopped the guest.
    pub predicted: Option<f64>,
    /// All that it says.
    pub whole: Value,
}

/// A VMM.
pub trait Peer: Sync {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// Its version.
    fn version(&self) -> String;
    /// How it is run and set, for those who read the figures.
    fn settings(&self) -> String;
    /// The command that runs `spec`, or waits for its arrival. Its control socket is to be at
    /// `socket`, its guest's console on its standard input and output.
    fn command(&self, spec: &Spec, socket: &Path, incoming: bool) -> Command;
    /// The command that takes the guest of `spec` out of `file`; otherwise as [`Self::command`].
    fn restore_command(&self, spec: &Spec, socket: &Path, file: &Path, way: &Way) -> Command;
    /// How it can write a guest that does not run to a file, and leave it stopped.
    fn writings(&self) -> &'static [Way];
    /// How it can take a guest out of such a file as fast as possible.
    fn readings(&self) -> &'static [Way];
    /// How it can write a guest that goes on running to a file: as the guest was at the end of that, or
    /// as it was when that began, where it has the choice.
    fn copyings(&self, of: Moment) -> &'static [Way];
    /// Whether what it has written is durable when it says that it is done.
    fn syncs(&self) -> bool;
    /// How the mapping of its guest's RAM is called in `smaps`.
    fn ram(&self) -> &'static str;
    /// The capabilities to set before a move, on both sides.
    fn capabilities(&self) -> &'static [&'static str];
    /// The parameters to set before a move.
    fn parameters(&self, plan: &Plan) -> Value;
    /// The command of a process that waits at `path`, which is to be a Unix socket, to take the place of
    /// one that runs `spec`; otherwise as [`Self::command`].
    fn renew_command(&self, spec: &Spec, socket: &Path, path: &Path) -> Command;
    /// What has a process give its guest to the one that waits at `path`: commands and their
    /// arguments, one after the other.
    fn renew(&self, path: &Path) -> Vec<(&'static str, Value)>;
    /// What has a process become another program under its guest, where it can: a command and its
    /// arguments.
    fn renew_in_place(&self) -> Option<(&'static str, Value)>;
    /// The command that runs `spec` with its RAM in the file `ram`, which is new; where it can have the
    /// guest go on from there when the host has started anew. Otherwise as [`Self::command`].
    fn lasting_command(&self, spec: &Spec, socket: &Path, ram: &Path) -> Option<Command>;
    /// What has a process write its guest's state to the file `state`, beside such RAM: a command and its
    /// arguments.
    fn leave(&self, state: &Path) -> (&'static str, Value);
    /// Whether its guest's console and its control connections go along, and the old process ends by
    /// itself.
    fn carries_connections(&self) -> bool;
    /// Reads the answer to `query-migrate` after a move.
    fn account(&self, info: Value) -> Account;
}

/// A process of a VMM, killed when it is dropped.
pub struct Process<'a> {
    peer: &'a dyn Peer,
    program: Program,
    client: Client,
    /// When it was started.
    pub started: Instant,
    /// Its guest's console.
    pub talk: Talk,
}

impl<'a> Process<'a> {
    /// Starts one, called `name`, with its files in `place`; returns when it can be controlled.
    pub fn start(
        peer: &'a dyn Peer,
        place: &Path,
        name: &str,
        spec: &Spec,
        incoming: bool,
    ) -> Result<Self, BenchError> {
        let socket = place.join(format!("{name}.sock"));
        Self::of(peer, place, name, peer.command(spec, &socket, incoming))
    }

    /// Starts one whose RAM is in the file `ram`, from which its guest can go on later.
    pub fn start_lasting(
        peer: &'a dyn Peer,
        place: &Path,
        name: &str,
        spec: &Spec,
        ram: &Path,
    ) -> Result<Self, BenchError> {
        let socket = place.join(format!("{name}.sock"));
        let none =
            || BenchError::Raw(format!("{} is not measured with its RAM in a file", peer.name()));
        Self::of(peer, place, name, peer.lasting_command(spec, &socket, ram).ok_or_else(none)?)
    }

    /// Starts the command of one.
    fn of(
        peer: &'a dyn Peer,
        place: &Path,
        name: &str,
        command: Command,
    ) -> Result<Self, BenchError> {
        let started = Instant::now();
        let (mut program, talk) = Program::start(peer, place, name, command)?;
        let client = program.control()?;
        Ok(Self { peer, program, client, started, talk })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.program.id()
    }

    fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, BenchError> {
        self.client.execute(command, arguments, Some(PATIENCE)).map_err(|e| self.failed(command, e))
    }

    fn failed(&self, command: &str, source: ClientError) -> BenchError {
        BenchError::Command { peer: self.peer.name(), command: command.to_owned(), source }
    }

    /// Stops its guest.
    pub fn stop(&mut self) -> Result<(), BenchError> {
        self.execute("stop", None).map(drop)
    }

    /// Lets its guest run again.
    pub fn cont(&mut self) -> Result<(), BenchError> {
        self.execute("cont", None).map(drop)
    }

    fn set(&mut self, plan: &Plan) -> Result<(), BenchError> {
        let on = |name: &&str| json!({ "capability": name, "state": true });
        let all: Vec<Value> = self.peer.capabilities().iter().map(on).collect();
        if !all.is_empty() {
            self.execute("migrate-set-capabilities", Some(json!({ "capabilities": all })))?;
        }
        let parameters = self.peer.parameters(plan);
        self.execute("migrate-set-parameters", Some(parameters)).map(drop)
    }

    /// Has it wait for a guest; says where.
    pub fn expect_guest(&mut self, plan: &Plan) -> Result<String, BenchError> {
        const COMMAND: &str = "query-migrate";
        self.set(plan)?;
        self.execute("migrate-incoming", Some(json!({ "uri": "tcp:127.0.0.1:0" })))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let info = self.execute(COMMAND, None)?;
            if let Some(port) = info["socket-address"][0]["port"].as_str() {
                return Ok(format!("tcp:127.0.0.1:{port}"));
            }
            if Instant::now() >= deadline {
                let what = "the address at which it waits";
                return Err(BenchError::Answer { peer: self.peer.name(), command: COMMAND, what });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn forget_events(&mut self) {
        while let Ok(Some(_)) = self.client.next_event(Some(Duration::from_millis(1))) {}
    }

    /// Starts a move to where another process waits.
    pub fn migrate(&mut self, to: &str, plan: &Plan) -> Result<(), BenchError> {
        self.set(plan)?;
        // What it went through as a destination.
        self.forget_events();
        self.execute("migrate", Some(json!({ "uri": to }))).map(drop)
    }

    /// Waits until its motion has ended, and says how, or `None` if it has not within `limit`.
    pub fn motion_ended(&mut self, limit: Duration) -> Result<Option<String>, BenchError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.client.next_event(Some(left)).map_err(|e| self.failed("migrate", e))? {
                None => return Ok(None),
                Some(event) if event.event == "MIGRATION" => {
                    let status = event.data["status"].as_str().unwrap_or_default();
                    if matches!(status, "completed" | "failed" | "cancelled") {
                        return Ok(Some(status.to_owned()));
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Gives its motion up.
    pub fn cancel(&mut self) -> Result<(), BenchError> {
        self.execute("migrate_cancel", None).map(drop)
    }

    /// Its answer to `query-migrate` when its motion has ended with this `status`. The event comes a
    /// little earlier than the answer.
    pub fn ended_motion(&mut self, status: &str) -> Result<Value, BenchError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let info = self.motion()?;
            if info["status"] == status || Instant::now() >= deadline {
                return Ok(info);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its answer to `query-migrate`.
    pub fn motion(&mut self) -> Result<Value, BenchError> {
        self.execute("query-migrate", None)
    }

    /// Whether its guest runs.
    pub fn runs(&mut self) -> Result<bool, BenchError> {
        Ok(self.execute("query-status", None)?["running"] == true)
    }
}
