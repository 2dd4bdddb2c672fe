//! A program that was started, and its ends of the guest's console.

use super::{PATIENCE, Peer};
use crate::BenchError;
use crate::talk::Talk;
use qmp::Client;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at what is still to come.
const LOOK: Duration = Duration::from_millis(5);

/// A program, killed when it is dropped.
pub(super) struct Program {
    peer: &'static str,
    child: Child,
    /// Where its control socket is to be.
    socket: PathBuf,
    /// Its last words.
    said: PathBuf,
}

impl Program {
    /// Starts the program of a command, called `name`, with its files in `place`.
    pub fn start(
        peer: &dyn Peer,
        place: &Path,
        name: &str,
        mut command: Command,
    ) -> Result<(Self, Talk), BenchError> {
        let peer = peer.name();
        let said = place.join(format!("{name}.said"));
        let starting = |source| BenchError::Io { doing: format!("{peer}: starting"), source };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&said).map_err(starting)?);
        let mut child = command.spawn().map_err(starting)?;
        let (keys, output) = (child.stdin.take(), child.stdout.take());
        let program = Self { peer, child, socket: place.join(format!("{name}.sock")), said };
        let (Some(keys), Some(output)) = (keys, output) else {
            return Err(starting(io::ErrorKind::BrokenPipe.into()));
        };
        Ok((program, Talk::new(peer, keys, output)))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tries until it succeeds, the program ends, or patience does.
    fn persist<T, E: std::fmt::Display>(
        &mut self,
        mut attempt: impl FnMut(&Self) -> Result<T, E>,
    ) -> Result<T, BenchError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match attempt(self) {
                Ok(found) => return Ok(found),
                Err(_) if Instant::now() < deadline && !self.has_ended() => thread::sleep(LOOK),
                Err(error) => {
                    let words = std::fs::read_to_string(&self.said).unwrap_or_default();
                    let said = format!("{error}; {}", words.trim());
                    return Err(BenchError::Start { peer: self.peer, said });
                }
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it can be controlled.
    pub fn control(&mut self) -> Result<Client, BenchError> {
        self.persist(|program| Client::connect_within(&program.socket, PATIENCE))
    }

    /// Waits until there is a file at `path`.
    pub fn makes(&mut self, path: &Path) -> Result<(), BenchError> {
        self.persist(|_| std::fs::metadata(path).map(drop))
    }

    /// Waits until it has ended by itself; whether it has.
    pub fn ends(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself. Its memory is to be free again before anything is measured.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
