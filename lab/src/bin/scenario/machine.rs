//! Whimbrel processes, and the commands that are given to them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::consoles::Consoles;
use crate::findings::Move;

const CMDLINE: &str = "console=ttyS0 quiet panic=-1 lab_hot=8 lab_cold=32";
/// Under emulation a page costs a hundred times what it costs elsewhere, so no promise is asked
/// for that only real hardware could keep.
const BLACKOUT: &str = "10s";
/// What the kernel says of its boot on the other host.
const OTHER_BOOT: &str = "5aff1e55-0000-4000-8000-000000000001\n";
/// A move that is not over by then is given up.
const TIMEOUT: &str = "120s";
const STEP: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(90);

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

    /// A command of Whimbrel's.
    fn whimbrel(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.whimbrel);
        command.arg(verb).stdin(Stdio::null());
        command
    }

    /// The same on a host that is another one by its boot id, which is what tells hosts apart whose clocks have
    /// nothing to do with each other.
    fn whimbrel_elsewhere(&self, verb: &str) -> Result<Command> {
        let id = self.folder.join("boot_id");
        std::fs::write(&id, OTHER_BOOT)?;
        let mounted = "mount -o bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", mounted]).arg(id).arg(&self.whimbrel).arg(verb);
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command to its end.
    fn ask(&self, verb: &str, arguments: &[&str]) -> Result<Output> {
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
        ["a", "b", "c", "d", "e"].iter().flat_map(lines).collect()
    }
}

/// What a machine's console is connected with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// A file that it writes itself; the guest hears nothing.
    File,
    /// Its standard input and output; the guest hears us.
    Stdio,
}

/// Where a process waits for the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the host that the guest was booted on.
    Here,
    /// On one that is another for all that it can know.
    Elsewhere,
}

/// How a guest is moved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// While it works.
    Live,
    /// Stopped before anything is sent: for so long that a clock that stood still shows.
    Frozen,
}

/// A process that holds the guest, or is to hold it.
pub struct Machine<'p> {
    programs: &'p Programs,
    name: &'static str,
    address: Option<&'static str>,
    console: PathBuf,
    child: Child,
    input: Option<ChildStdin>,
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // Nothing is left running behind a failure. Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'p> Machine<'p> {
    /// Boots the guest.
    pub fn boot(programs: &'p Programs, name: &'static str) -> Result<Self> {
        let mut command = programs.whimbrel("run");
        command
            .args([Path::new("--kernel"), &programs.kernel])
            .args([Path::new("--initrd"), &programs.initramfs])
            .args(["--cmdline", CMDLINE, "--memory", "256M", "--cpus", "2"])
            .arg("--memory-file")
            .arg(programs.memory_file());
        Self::start(programs, name, command, Console::File)
    }

    /// Starts a process that waits for the guest.
    ///
    /// One that has its guest goes on answering at that address to what became of the handover, so
    /// each needs an address of its own.
    pub fn awaiting(
        programs: &'p Programs,
        name: &'static str,
        address: &'static str,
        console: Console,
        place: Place,
    ) -> Result<Self> {
        let mut command = match place {
            Place::Here => programs.whimbrel("run"),
            Place::Elsewhere => programs.whimbrel_elsewhere("run")?,
        };
        command.args(["--incoming", address]);
        let mut machine = Self::start(programs, name, command, console)?;
        machine.address = Some(address);
        machine.wait_until_ready()?;
        Ok(machine)
    }

    fn start(
        programs: &'p Programs,
        name: &'static str,
        mut command: Command,
        console: Console,
    ) -> Result<Self> {
        let path = programs.folder.join(format!("{name}.console"));
        let log = programs.folder.join(format!("{name}.log"));
        let log = File::options().append(true).create(true).open(log)?;
        command.args(["--name", name, "--console"]);
        match console {
            Console::File => command.arg(format!("file:{}", path.display())).stdout(Stdio::null()),
            Console::Stdio => {
                command.arg("stdio").stdin(Stdio::piped()).stdout(File::create(&path)?)
            }
        };
        let mut child = command.stderr(log).spawn().context("cannot start whimbrel run")?;
        let input = child.stdin.take();
        Ok(Self { programs, name, address: None, console: path, child, input })
    }

    /// Waits until it answers that it waits for a guest.
    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.programs.ask("status", &[self.name, "--json"])?;
            let said = String::from_utf8_lossy(&answer.stdout).into_owned();
            let status = serde_json::from_str::<Value>(&said).unwrap_or_default();
            if status.pointer("/machine/status") == Some(&Value::from("inmigrate")) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} was to wait for a guest and ended with {status}", self.name);
            }
            if Instant::now() > deadline {
                let error = String::from_utf8_lossy(&answer.stderr).into_owned();
                bail!("{} does not wait for a guest: {said} {error}", self.name);
            }
            std::thread::sleep(STEP);
        }
    }

    /// Where the guest's output goes.
    pub fn console(&self) -> &Path {
        &self.console
    }

    /// Moves the guest, and follows it.
    pub fn move_to(
        &mut self,
        other: &Machine<'_>,
        how: How,
        consoles: &mut Consoles,
    ) -> Result<Move> {
        let address = other.address.context("this machine does not wait for a guest")?;
        let report = self.programs.folder.join(format!("{}-to-{}.json", self.name, other.name));
        let started = Instant::now();
        let mut migrate = self
            .programs
            .whimbrel("migrate")
            .args([self.name, address, "--json", "--timeout", TIMEOUT])
            .args(match how {
                How::Live => ["--max-blackout", BLACKOUT].as_slice(),
                How::Frozen => ["--max-blackout", "unlimited", "--frozen"].as_slice(),
            })
            .stdout(File::create(&report)?)
            .stderr(File::create(report.with_extension("err"))?)
            .spawn()
            .context("cannot run whimbrel migrate")?;
        let status = loop {
            if let Some(status) = migrate.try_wait()? {
                break status;
            }
            if started.elapsed() > 2 * PATIENCE {
                migrate.kill()?;
                bail!("the move from {} to {} does not end", self.name, other.name);
            }
            consoles.follow()?;
        };
        let said = std::fs::read_to_string(&report)?;
        if !status.success() {
            let error = std::fs::read_to_string(report.with_extension("err"))?;
            bail!("move from {} to {} failed, {status}: {said} {error}", self.name, other.name);
        }
        consoles.next(&other.console)?;
        let report = said
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .next_back()
            .with_context(|| format!("the report of the move is no JSON: {said:?}"))?;
        let took = started.elapsed();
        println!("{} to {}: moved in {:.1} s", self.name, other.name, took.as_secs_f64());
        Ok(Move { took, report })
    }

    /// Writes the guest to a file, with this verb, while it is followed.
    pub fn write(&self, verb: &str, more: &[&str], consoles: &mut Consoles) -> Result<PathBuf> {
        let file = self.programs.folder.join(format!("{}.{verb}", self.name));
        let mut command = self.programs.whimbrel(verb);
        command.arg(self.name).arg(&file).args(more);
        self.carry_out(verb, command, consoles)?;
        let answer = self.programs.whimbrel("inspect").arg(&file).arg("--verify").output()?;
        if !answer.status.success() {
            bail!("{} is damaged: {}", file.display(), String::from_utf8_lossy(&answer.stdout));
        }
        Ok(file)
    }

    /// Has another process take the guest over, or this one become the new program while the guest is in
    /// another.
    pub fn update(&mut self, mode: &str, consoles: &mut Consoles) -> Result<()> {
        let mut command = self.programs.whimbrel("update");
        command.args([self.name, "--mode", mode, "--max-blackout", BLACKOUT]);
        self.carry_out("update", command, consoles)?;
        if mode == "transfer" { self.must_end_well("was replaced") } else { Ok(()) }
    }

    /// Leaves the guest in its memory file, which ends this process, and has another go on with it on the
    /// same console, as after a reboot of the host.
    pub fn reboot(&mut self, consoles: &mut Consoles) -> Result<()> {
        let state = self.programs.folder.join(format!("{}.state", self.name));
        let mut command = self.programs.whimbrel("update");
        command.args([self.name, "--mode", "reboot", "--state"]).arg(&state);
        self.carry_out("update", command, consoles)?;
        self.must_end_well("was left in its memory file")?;
        let mut command = self.programs.whimbrel("restore");
        // The host's clocks went on meanwhile, and so are the guest's to do.
        command.arg(&state).args(["--clock", "realtime"]);
        *self = Self::start(self.programs, self.name, command, Console::File)?;
        Ok(())
    }

    /// Waits for the process to end, which has done all that it had to.
    fn must_end_well(&mut self, what: &str) -> Result<()> {
        let status = self.wait_for_end(PATIENCE)?;
        if !status.success() {
            bail!("{} {what}, and ended with {status}", self.name);
        }
        Ok(())
    }

    /// Carries out a verb while the guest is followed.
    fn carry_out(&self, verb: &str, mut command: Command, consoles: &mut Consoles) -> Result<()> {
        let started = Instant::now();
        let said = self.programs.folder.join(format!("{}-{verb}.err", self.name));
        let log = File::create(&said)?;
        let mut child = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if started.elapsed() > 2 * PATIENCE {
                child.kill()?;
                bail!("whimbrel {verb} {} does not end", self.name);
            }
            consoles.follow()?;
        };
        if !status.success() {
            let error = std::fs::read_to_string(&said)?;
            bail!("whimbrel {verb} {} failed, {status}: {error}", self.name);
        }
        println!("{}: {verb} in {:.1} s", self.name, started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Saves the guest, which ends this process, and lets it go on elsewhere while its RAM comes.
    pub fn save_and_restore(
        &mut self,
        name: &'static str,
        consoles: &mut Consoles,
    ) -> Result<Self> {
        let file = self.write("save", &[], consoles)?;
        self.must_end_well("was saved")?;
        let mut command = self.programs.whimbrel("restore");
        // The host's clocks went on meanwhile, and so are the guest's to do.
        command.arg(&file).args(["--lazy", "--clock", "realtime"]);
        let restored = Self::start(self.programs, name, command, Console::Stdio)?;
        consoles.next(&restored.console)?;
        println!("{} to {name}: saved and restored", self.name);
        Ok(restored)
    }

    /// Presses the guest's power button.
    pub fn press_power_button(&self) -> Result<()> {
        let answer = self.programs.ask("shutdown", &[self.name])?;
        if !answer.status.success() {
            let error = String::from_utf8_lossy(&answer.stderr).into_owned();
            bail!("cannot press the power button of {}: {error}", self.name);
        }
        Ok(())
    }

    /// Says a line to the guest.
    pub fn say(&mut self, order: &str) -> Result<()> {
        let input = self.input.as_mut().context("this guest's console has no input")?;
        writeln!(input, "{order}").with_context(|| format!("cannot say {order:?} to the guest"))
    }

    /// Ends the process, which the guest has left.
    pub fn kill(&mut self) -> Result<()> {
        let answer = self.programs.ask("kill", &[self.name])?;
        if !answer.status.success() {
            let error = String::from_utf8_lossy(&answer.stderr).into_owned();
            bail!("cannot end {}, which the guest has left: {error}", self.name);
        }
        self.must_end_well("was told to end")
    }

    /// Waits until the process has ended by itself.
    pub fn wait_for_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} has not ended within {patience:?}", self.name);
            }
            std::thread::sleep(STEP);
        }
    }
}
