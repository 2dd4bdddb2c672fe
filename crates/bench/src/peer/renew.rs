//! Processes that take the place of others, with the guest's RAM where it is.

use super::program::Program;
use super::{Account, PATIENCE, Peer, Process, Spec};
use crate::BenchError;
use crate::talk::Talk;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// An update that takes longer than this is given up.
const LONGEST: Duration = Duration::from_secs(60);
/// What is said when all that goes along has come.
const UPDATED: &str = "x-whimbrel-updated";

/// A process that waits to take the place of another.
pub struct Successor {
    program: Program,
    talk: Talk,
    path: PathBuf,
}

impl Successor {
    /// Starts one, called `name`, with its files in `place`.
    pub fn start(
        peer: &dyn Peer,
        place: &Path,
        name: &str,
        spec: &Spec,
    ) -> Result<Self, BenchError> {
        let path = place.join(format!("{name}.update"));
        let socket = place.join(format!("{name}.sock"));
        let command = peer.renew_command(spec, &socket, &path);
        let (mut program, talk) = Program::start(peer, place, name, command)?;
        program.makes(&path)?;
        Ok(Self { program, talk, path })
    }
}

impl Process<'_> {
    /// Has a process take its place: how long that took from the command on, and what it says of it.
    pub fn renew(&mut self, next: Successor) -> Result<(Duration, Account), BenchError> {
        let Successor { program, talk, path } = next;
        self.forget_events();
        let mut begin = Instant::now();
        for (command, arguments) in self.peer.renew(&path) {
            begin = Instant::now();
            self.execute(command, Some(arguments))?;
        }
        if self.peer.carries_connections() {
            self.goes_along(program, begin)
        } else {
            self.begins_anew(program, talk, begin)
        }
    }

    /// Has it become another program, where it can be told to: how long that took from the command on,
    /// and what it says of it.
    pub fn renew_in_place(&mut self) -> Result<(Duration, Account), BenchError> {
        let Some((command, arguments)) = self.peer.renew_in_place() else {
            return Err(BenchError::Raw(format!("{} does not execute itself", self.peer.name())));
        };
        self.forget_events();
        let begin = Instant::now();
        self.execute(command, Some(arguments))?;
        let pid = self.updated(begin + LONGEST)?;
        let total = begin.elapsed();
        if pid != Some(self.pid().into()) {
            let (peer, what) = (self.peer.name(), "that the process is the same");
            return Err(BenchError::Answer { peer, command, what });
        }
        let info = self.ended_motion("completed")?;
        Ok((total, self.peer.account(info)))
    }

    /// Waits until it is said that the guest has another program under it, and in which process.
    fn updated(&mut self, deadline: Instant) -> Result<Option<u64>, BenchError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.client.next_event(Some(left)).map_err(|e| self.failed("update", e))? {
                Some(event) if event.event == UPDATED => return Ok(event.data["pid"].as_u64()),
                Some(_) => {}
                None => {
                    let info = self.motion()?;
                    return Err(self.not_renewed(&info));
                }
            }
        }
    }

    /// The new process has the console and the connections of the old one, which ends.
    fn goes_along(
        &mut self,
        program: Program,
        begin: Instant,
    ) -> Result<(Duration, Account), BenchError> {
        self.updated(begin + LONGEST)?;
        let total = begin.elapsed();
        let mut old = std::mem::replace(&mut self.program, program);
        if !old.ends() {
            let (peer, command, what) = (self.peer.name(), "update", "that the old process ends");
            return Err(BenchError::Answer { peer, command, what });
        }
        let info = self.ended_motion("completed")?;
        Ok((total, self.peer.account(info)))
    }

    /// The new process has a console and a control socket of its own.
    fn begins_anew(
        &mut self,
        mut program: Program,
        talk: Talk,
        begin: Instant,
    ) -> Result<(Duration, Account), BenchError> {
        let ended = self.motion_ended(LONGEST)?;
        let total = begin.elapsed();
        let info = match ended.as_deref() {
            Some(status) => self.ended_motion(status)?,
            None => self.motion()?,
        };
        if ended.as_deref() != Some("completed") {
            return Err(self.not_renewed(&info));
        }
        self.client = program.control()?;
        self.talk = talk;
        // As whoever looks after them does. It stops nobody: the guest is elsewhere.
        self.program = program;
        let deadline = Instant::now() + PATIENCE;
        while !self.runs()? && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        Ok((total, self.peer.account(info)))
    }

    fn not_renewed(&self, info: &Value) -> BenchError {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let why = text(&info["x-whimbrel-report"]["error"]["why"]).or(text(&info["error-desc"]));
        BenchError::Move {
            peer: self.peer.name(),
            status: text(&info["status"]).unwrap_or_else(|| "none".to_owned()),
            why: why.unwrap_or_else(|| "no reason given".to_owned()),
        }
    }
}
