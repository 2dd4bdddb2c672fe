//! What the guest says.

use anyhow::{Context, bail};
use guest::report::{Check, Clock, Line, Scope};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long the guest may be silent. It reports every second.
const PATIENCE: Duration = Duration::from_secs(20);

/// The console of a guest that runs.
pub struct Guest {
    input: UnixStream,
    lines: Receiver<Line>,
}

impl Guest {
    /// Connects to its console.
    pub fn listen(console: &Path) -> anyhow::Result<Self> {
        let doing = "cannot listen to the guest";
        let input = UnixStream::connect(console).context(doing)?;
        let output = input.try_clone().context(doing)?;
        let (send, lines) = mpsc::channel();
        std::thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                let lines = BufReader::new(output).lines().map_while(Result::ok);
                for line in lines.filter_map(|line| line.parse().ok()) {
                    if matches!(line, Line::Fault(_) | Line::Panic(_)) {
                        tracing::error!("the guest says: {line}");
                    }
                    if send.send(line).is_err() {
                        break;
                    }
                }
            })
            .context(doing)?;
        Ok(Self { input, lines })
    }

    /// Has every processor report, and gives the longest gap in what each has seen since its last
    /// report, in nanoseconds.
    pub fn longest_gap(&mut self, cpus: u64) -> anyhow::Result<u64> {
        let mut gap = self.gaps_so_far();
        self.ask(b"s")?;
        let mut silent: Vec<u64> = (0..cpus).collect();
        self.hear(|line| {
            if let Line::Clock(clock) = line {
                gap = gap.max(clock.gap);
                silent.retain(|cpu| *cpu != clock.cpu);
            }
            silent.is_empty()
        })?;
        Ok(gap)
    }

    /// The longest gap in the reports that have come and were not taken yet, in nanoseconds.
    pub fn gaps_so_far(&mut self) -> u64 {
        let gap = |line| if let Line::Clock(Clock { gap, .. }) = line { gap } else { 0 };
        self.lines.try_iter().map(gap).max().unwrap_or(0)
    }

    /// Waits until the guest has written all of its memory once and checked it in passing.
    pub fn wait_for_a_round(&mut self) -> anyhow::Result<Check> {
        self.wait_for_check(|check| check.rounds > 0)
    }

    /// Has the guest check every page now.
    pub fn check_everything(&mut self) -> anyhow::Result<Check> {
        self.ask(b"c")?;
        self.wait_for_check(|check| check.scope == Scope::Full)
    }

    /// Waits until the guest has got further than it was.
    pub fn wait_for_progress(&mut self) -> anyhow::Result<Check> {
        while self.lines.try_recv().is_ok() {}
        let first = self.wait_for_check(|_| true)?;
        self.wait_for_check(|check| check.pages > first.pages)
    }

    fn wait_for_check(&mut self, enough: impl Fn(&Check) -> bool) -> anyhow::Result<Check> {
        let mut found = None;
        self.hear(|line| {
            if let Line::Check(check) = line
                && enough(&check)
            {
                found = Some(check);
            }
            found.is_some()
        })?;
        found.context("the guest did not answer")
    }

    fn ask(&mut self, what: &[u8]) -> anyhow::Result<()> {
        self.input.write_all(what).context("cannot talk to the guest")
    }

    /// Takes what the guest says until it is enough.
    fn hear(&mut self, mut enough: impl FnMut(Line) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if enough(line) => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest has said nothing of use for {PATIENCE:?}")
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the guest's console was closed"),
            }
        }
    }
}
