//! Follows the console files of one process after the other.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use whimbrel_lab::clocks::Clocks;
use whimbrel_lab::transcript::Transcript;

const INTERVAL: Duration = Duration::from_millis(5);
/// Lines that the guest writes on each console before it is moved on.
const TICKS: usize = 25;
/// Ends a run that hangs; nothing is concluded from how long anything takes.
const PATIENCE: Duration = Duration::from_secs(150);

/// The consoles so far; the last one is being followed.
#[derive(Default)]
pub struct Consoles {
    transcript: Transcript,
    files: Vec<Followed>,
}

struct Followed {
    path: PathBuf,
    file: File,
    read: u64,
}

/// The host's clocks now.
fn now() -> Clocks {
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    Clocks { uptime: read(ClockId::Boottime), wall: read(ClockId::Realtime) }
}

impl Consoles {
    /// Follows the first console.
    fn begin(&mut self, path: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let file = loop {
            match File::open(path) {
                Ok(file) => break file,
                Err(error) if error.kind() == ErrorKind::NotFound && Instant::now() < deadline => {
                    std::thread::sleep(INTERVAL);
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot read console {}", path.display()));
                }
            }
        };
        self.files.push(Followed { path: path.to_path_buf(), file, read: 0 });
        Ok(())
    }

    /// Reads what is left of the current console and goes on with that at `path`.
    pub fn next(&mut self, path: &Path) -> Result<()> {
        self.drain()?;
        self.transcript.next_console();
        self.begin(path)
    }

    /// Reads what is there.
    pub fn drain(&mut self) -> Result<()> {
        let Some(followed) = self.files.last_mut() else { return Ok(()) };
        let mut buffer = [0; 16384];
        loop {
            let length = followed
                .file
                .read(&mut buffer)
                .with_context(|| format!("cannot read console {}", followed.path.display()))?;
            if length == 0 {
                return Ok(());
            }
            followed.read += length as u64;
            self.transcript.feed(&buffer[..length], now());
        }
    }

    /// One step of following.
    pub fn follow(&mut self) -> Result<()> {
        self.drain()?;
        std::thread::sleep(INTERVAL);
        Ok(())
    }

    /// Follows until `enough`.
    pub fn wait(&mut self, what: &str, enough: impl Fn(&Transcript) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.transcript) {
            self.follow()?;
            if Instant::now() > deadline {
                let seen = self.transcript.arrivals().last();
                let seen = seen.map_or("nothing".to_string(), |last| last.line.to_string());
                bail!("{what} has not come within {PATIENCE:?}; last seen: {seen}");
            }
        }
        Ok(())
    }

    /// Follows the guest's boot on the first console, and its first lines.
    pub fn watch_boot(&mut self, path: &Path) -> Result<()> {
        let started = Instant::now();
        self.begin(path)?;
        self.wait("the guest's first line", |seen| seen.boots() == 1)?;
        println!("first line of the guest after {:.1} s", started.elapsed().as_secs_f64());
        self.work()
    }

    /// Lets the guest go on where it is, for some lines.
    pub fn go_on(&mut self) -> Result<()> {
        let before = self.transcript.here("tick");
        self.wait("the guest to go on", |seen| seen.here("tick") > before + TICKS / 2)
    }

    /// Lets the guest work where it has come to, for some lines.
    pub fn work(&mut self) -> Result<()> {
        self.wait("the guest at work", |seen| seen.here("tick") >= TICKS)
    }

    /// The last line of `kind`.
    pub fn last(&self, kind: &str) -> Option<String> {
        let mut lines = self.transcript.arrivals().iter().rev();
        lines.find(|arrival| arrival.line.kind() == kind).map(|arrival| arrival.line.text.clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// What was read.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// Checks that no console has grown after the guest had left it.
    pub fn check_all_read(&self) -> Result<()> {
        for followed in &self.files {
            let length = followed.file.metadata()?.len();
            if length != followed.read {
                bail!(
                    "{} bytes came on {} after the guest had left",
                    length.abs_diff(followed.read),
                    followed.path.display()
                );
            }
        }
        Ok(())
    }
}
