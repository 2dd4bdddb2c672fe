//! One machine's process.

use super::guest::Guest;
use super::stage::Stage;
use crate::machine::Machine;
use anyhow::{Context, bail};
use monitor::{MachineName, RUNTIME_DIR};
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take until it answers.
const START_TIME: Duration = Duration::from_secs(20);

/// A machine in a process of its own, which is killed when this is dropped.
pub struct Process {
    pub name: MachineName,
    child: Child,
    pub machine: Machine,
    /// What the guest says here, once it runs here.
    console: std::path::PathBuf,
}

impl Process {
    /// Starts `whimbrel` with this verb and these words, and waits until it answers.
    pub fn start(stage: &Stage, name: &str, verb: &str, words: &[&str]) -> anyhow::Result<Self> {
        let name: MachineName = name.parse()?;
        let log = stage.file(&format!("{name}.stderr"));
        let console = stage.file(&format!("{name}.console"));
        let doing = || format!("cannot start the process of `{name}`");
        let mut child = Command::new(std::env::current_exe().with_context(doing)?)
            .args([verb, "--name", name.as_str(), "--console"])
            .arg(format!("unix:{}", console.display()))
            .args(words)
            .env(RUNTIME_DIR, stage.runtime.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).with_context(doing)?)
            .spawn()
            .with_context(doing)?;
        let deadline = Instant::now() + START_TIME;
        loop {
            if let Ok(machine) = Machine::find_in(&stage.runtime, &name) {
                return Ok(Self { name, child, machine, console });
            }
            if child.try_wait().with_context(doing)?.is_some() {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("{}", said.trim().trim_start_matches("whimbrel: "));
            }
            if Instant::now() > deadline {
                // It hangs, and is of no use.
                let _ = child.kill();
                bail!("{}: it does not answer", doing());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Listens to the guest, which runs here.
    pub fn guest(&self) -> anyhow::Result<Guest> {
        Guest::listen(&self.console)
    }

    /// Ends it as a host that fails would.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().context("cannot kill a process")?;
        self.child.wait().context("cannot kill a process")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
