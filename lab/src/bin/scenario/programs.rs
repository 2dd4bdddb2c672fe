//! Whimbrel's program, what is run with it, and its answers.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What the kernel says of its boot on the other host.
const OTHER_BOOT: &str = "5aff1e55-0000-4000-8000-000000000001\n";

/// Where everything lies.
pub struct Programs {
    /// The program under test.
    pub whimbrel: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initramfs.
    pub initramfs: PathBuf,
    /// Where consoles and logs go.
    pub folder: PathBuf,
}

impl Programs {
    /// The file that the RAM of the guest is in, where it is booted.
    pub fn memory_file(&self) -> PathBuf {
        self.folder.join("ram")
    }

    /// Runs a command that is to be refused, and gives what it said.
    pub fn refused(&self, verb: &str, arguments: &[&str]) -> Result<String> {
        let answer = self.ask(verb, arguments)?;
        let said = [answer.stdout, answer.stderr].concat();
        // Long lines are broken where the terminal ends.
        let said = String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" ");
        if answer.status.success() {
            bail!("whimbrel {verb} {arguments:?} was to be refused: {said}");
        }
        Ok(said)
    }

    /// Checks that two files have the same RAM in them, to the last byte.
    pub fn must_have_the_same_ram(&self, one: &Path, other: &Path) -> Result<()> {
        let mut command = self.whimbrel("inspect");
        let answer = command.arg(one).arg("--diff").arg(other).arg("--json").output()?;
        let said = String::from_utf8_lossy(&answer.stdout);
        let found: Value = serde_json::from_str(&said).unwrap_or_default();
        let (one, other) = (one.display(), other.display());
        if found["pages"] != 0 {
            let error = String::from_utf8_lossy(&answer.stderr);
            bail!("the RAM in {one} and in {other} is not the same: {said} {error}");
        }
        println!("the RAM in {one} and in {other} is the same");
        Ok(())
    }

    /// A command of Whimbrel's.
    pub fn whimbrel(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.whimbrel);
        command.arg(verb).stdin(Stdio::null());
        command
    }

    /// The same on a host that is another one by its boot id, which is what tells hosts apart whose clocks have
    /// nothing to do with each other.
    pub fn whimbrel_elsewhere(&self, verb: &str) -> Result<Command> {
        let id = self.folder.join("boot_id");
        std::fs::write(&id, OTHER_BOOT)?;
        let mounted = "mount -o bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", mounted]).arg(id).arg(&self.whimbrel).arg(verb);
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command to its end.
    pub fn ask(&self, verb: &str, arguments: &[&str]) -> Result<Output> {
        self.whimbrel(verb)
            .args(arguments)
            .output()
            .with_context(|| format!("cannot run whimbrel {verb}"))
    }

    /// What all processes have logged: each line with the name of its machine.
    pub fn logged(&self) -> Vec<String> {
        let lines = |name: &&str| {
            let log = std::fs::read_to_string(self.folder.join(format!("{name}.log")));
            let log = log.unwrap_or_default();
            log.lines().map(|line| format!("{name}: {line}")).collect::<Vec<_>>()
        };
        ["a", "b", "c", "d", "e", "f"].iter().flat_map(lines).collect()
    }
}
