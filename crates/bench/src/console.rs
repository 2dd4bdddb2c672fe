//! What a guest says, read from the file that its console is written to.

use guest::report::{Clock, Line};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Follows a console's file from its beginning.
pub(crate) struct Follower {
    file: File,
    rest: Vec<u8>,
}

impl Follower {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, rest: Vec::new() })
    }

    /// The lines that have come since the last call, as far as they are a guest's.
    pub(crate) fn lines(&mut self) -> io::Result<Vec<Line>> {
        self.file.read_to_end(&mut self.rest)?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        let text = String::from_utf8_lossy(&whole);
        Ok(text.lines().filter_map(|line| line.trim_end().parse().ok()).collect())
    }

    /// Waits for a line that `wanted` takes.
    pub(crate) fn wait<T>(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&Line) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = self.lines()?.iter().find_map(&mut wanted) {
                return Ok(Some(found));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for a clock line of the first vCPU.
    pub(crate) fn clock(&mut self, limit: Duration) -> io::Result<Option<Clock>> {
        self.wait(limit, |line| match line {
            Line::Clock(clock) if clock.cpu == 0 => Some(*clock),
            _ => None,
        })
    }
}
