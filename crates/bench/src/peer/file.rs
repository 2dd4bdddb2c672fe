//! Processes that write their guest to a file, or take one out of it.

use super::{PATIENCE, Peer, Process, Spec, Way};
use crate::BenchError;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// A file that takes longer than this is given up.
const LONGEST: Duration = Duration::from_secs(120);
/// Between two looks whether all has come.
const LOOK: Duration = Duration::from_millis(4);

impl<'a> Process<'a> {
    /// Has it write its guest to a new file; returns when that is durable, and says how long it took
    /// from the command on.
    pub fn save(&mut self, path: &Path, way: &Way) -> Result<Duration, BenchError> {
        // Writing over what is there is not the same.
        if path.exists() {
            std::fs::remove_file(path).map_err(BenchError::io("removing a file"))?;
        }
        self.set_way(way)?;
        self.forget_events();
        let mut arguments = Map::new();
        arguments.insert("uri".into(), json!(format!("file:{}", path.display())));
        arguments.extend(way.arguments.iter().map(|name| ((*name).into(), json!(true))));
        let begun = Instant::now();
        self.execute("migrate", Some(arguments.into()))?;
        let ended = self.motion_ended(LONGEST)?;
        if !self.peer.syncs() {
            let synced = File::open(path).and_then(|file| file.sync_data());
            let folder = path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all());
            synced.and(folder).map_err(BenchError::io("making a file durable"))?;
        }
        let took = begun.elapsed();
        match ended.as_deref() {
            Some("completed") => Ok(took),
            ended => Err(self.went_wrong(ended)?),
        }
    }

    /// Has it leave its guest for after a reboot: its state in `state`, beside the file that its RAM is in.
    pub fn leave(&mut self, state: &Path) -> Result<(), BenchError> {
        if state.exists() {
            std::fs::remove_file(state).map_err(BenchError::io("removing a file"))?;
        }
        self.forget_events();
        let (command, arguments) = self.peer.leave(state);
        self.execute(command, Some(arguments))?;
        match self.motion_ended(LONGEST)?.as_deref() {
            Some("completed") => Ok(()),
            ended => Err(self.went_wrong(ended)?),
        }
    }

    /// Why its motion has ended so, or has not.
    fn went_wrong(&mut self, ended: Option<&str>) -> Result<BenchError, BenchError> {
        let info = self.motion()?;
        let report = &info["x-whimbrel-report"]["error"]["why"];
        let why = report.as_str().or(info["error-desc"].as_str()).unwrap_or("no reason given");
        let status = ended.unwrap_or("still under way").to_owned();
        Ok(BenchError::Move { peer: self.peer.name(), status, why: why.to_owned() })
    }

    /// What it says of its last motion.
    pub fn account(&mut self) -> Result<super::Account, BenchError> {
        let info = self.ended_motion("completed")?;
        Ok(self.peer.account(info))
    }

    fn set_way(&mut self, way: &Way) -> Result<(), BenchError> {
        if !way.capabilities.is_empty() {
            let one = |(name, on): &(&str, bool)| json!({ "capability": name, "state": on });
            let all: Vec<Value> = way.capabilities.iter().map(one).collect();
            self.execute("migrate-set-capabilities", Some(json!({ "capabilities": all })))?;
        }
        let mut parameters = self.peer.parameters(&super::Plan::default());
        if let Some(direct) = way.direct {
            parameters["direct-io"] = json!(direct);
        }
        self.execute("migrate-set-parameters", Some(parameters)).map(drop)
    }

    /// Starts one that takes its guest out of a file, with its own files in `place`. When it returns
    /// the guest may run already.
    pub fn restore(
        peer: &'a dyn Peer,
        place: &Path,
        name: &str,
        spec: &Spec,
        file: &Path,
        way: &Way,
    ) -> Result<Self, BenchError> {
        let socket = place.join(format!("{name}.sock"));
        let command = peer.restore_command(spec, &socket, file, way);
        let mut process = Self::of(peer, place, name, command)?;
        if way.asked {
            process.set_way(way)?;
            let uri = format!("file:{}", file.display());
            process.execute("migrate-incoming", Some(json!({ "uri": uri })))?;
        }
        Ok(process)
    }

    /// Waits for the first word of a guest that goes on: how long that took since the process was
    /// started.
    pub fn first_word(&mut self) -> Result<Duration, BenchError> {
        Ok(self.talk.awake()?.saturating_duration_since(self.started))
    }

    /// Waits until a guest has checked its sample: how long that took since the process was started,
    /// and what it says.
    pub fn checked(&mut self) -> Result<(Duration, guest::report::Sample), BenchError> {
        let (at, sample) = self.talk.sample()?;
        if sample.faults > 0 {
            let what = "all that its guest had written";
            return Err(BenchError::Answer { peer: self.peer.name(), command: "restore", what });
        }
        Ok((at.saturating_duration_since(self.started), sample))
    }

    /// Waits until all of a guest's memory is there: how long that took since the process was started.
    pub fn all_in(&mut self) -> Result<Duration, BenchError> {
        let deadline = Instant::now() + LONGEST;
        loop {
            let info = self.motion()?;
            let restore = &info["x-whimbrel-report"]["restore"];
            let lazily = restore["how"] == "lazy";
            if info["status"] == "completed" && (!lazily || restore["fill"]["all_in_ns"].is_u64()) {
                return Ok(self.started.elapsed());
            }
            if Instant::now() >= deadline {
                let what = "that all of its memory has come";
                return Err(BenchError::Answer {
                    peer: self.peer.name(),
                    command: "query-migrate",
                    what,
                });
            }
            thread::sleep(LOOK);
        }
    }

    /// Lets a guest go on that was written to a file, and stops it: some take no second command
    /// otherwise.
    pub fn stop_again(&mut self) -> Result<(), BenchError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.cont() {
                Ok(()) => return self.stop(),
                // The event came a little earlier than the end.
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => thread::sleep(LOOK),
            }
        }
    }
}
