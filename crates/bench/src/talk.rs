//! A conversation with a guest over the standard input and output of its VMM.

use crate::BenchError;
use guest::report::{Clock, Hello, Line, Pause, Sample, Work};
use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a guest may take to answer: it looks at its console fifty times a second, and a slow
/// host's guests write some ten bytes a millisecond.
const ANSWER: Duration = Duration::from_secs(20);

/// What a guest said when it was asked.
#[derive(Debug, Clone, Copy)]
pub struct Said {
    /// Its clock since it was last asked.
    pub clock: Clock,
    /// Its work since its start.
    pub work: Work,
}

/// A guest's console.
pub struct Talk {
    peer: &'static str,
    keys: ChildStdin,
    lines: Receiver<(Instant, Line)>,
}

impl Talk {
    /// Listens from now on; a line's time is that of its first byte.
    pub fn new(peer: &'static str, keys: ChildStdin, mut output: ChildStdout) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            let mut begun = None;
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let now = Instant::now();
                for &byte in &buffer[..count] {
                    let first = *begun.get_or_insert(now);
                    line.push(byte);
                    if byte == b'\n' {
                        let said = String::from_utf8_lossy(&line).trim_end().parse();
                        if said.is_ok_and(|said| sender.send((first, said)).is_err()) {
                            return;
                        }
                        line.clear();
                        begun = None;
                    }
                }
            }
        });
        Self { peer, keys, lines }
    }

    /// Waits for a line that `wanted` takes.
    fn wait<T>(
        &self,
        when: &'static str,
        mut wanted: impl FnMut(Instant, Line) -> Option<T>,
    ) -> Result<T, BenchError> {
        let deadline = Instant::now() + ANSWER;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((at, line)) => match wanted(at, line) {
                    Some(found) => return Ok(found),
                    None => continue,
                },
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(BenchError::Silent { peer: self.peer, when });
                }
            }
        }
    }

    /// Waits for the guest's first line: when its first byte came, and what it says.
    pub fn hello(&self) -> Result<(Instant, Hello), BenchError> {
        self.wait("at its start", |at, line| match line {
            Line::Hello(hello) => Some((at, hello)),
            _ => None,
        })
    }

    /// Waits until a guest that was away says that it goes on: when the first byte of that came.
    pub fn awake(&self) -> Result<Instant, BenchError> {
        self.wait("when it was to go on", |at, line| match line {
            Line::Awake(_) => Some(at),
            _ => None,
        })
    }

    /// Waits until a guest tells of a pause, which it does a second after it.
    pub fn pause(&self) -> Result<Pause, BenchError> {
        self.wait("of a pause", |_, line| match line {
            Line::Pause(pause) => Some(pause),
            _ => None,
        })
    }

    /// Waits until a guest has checked a sample of its memory: when it said so, and what.
    pub fn sample(&self) -> Result<(Instant, Sample), BenchError> {
        self.wait("of its memory", |at, line| match line {
            Line::Sample(sample) => Some((at, sample)),
            _ => None,
        })
    }

    /// Asks the guest `workload` for its report. What it tells of the clock begins anew with that.
    pub fn ask(&mut self) -> Result<Said, BenchError> {
        while self.lines.try_recv().is_ok() {}
        self.keys.write_all(b"s").map_err(BenchError::io("cannot type at a guest's console"))?;
        let mut clock = None;
        self.wait("when it was asked", |_, line| match line {
            Line::Clock(said) if said.cpu == 0 => {
                clock = Some(said);
                None
            }
            Line::Work(work) => clock.map(|clock| Said { clock, work }),
            _ => None,
        })
    }
}
