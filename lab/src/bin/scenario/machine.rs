//! Whimbrel processes that hold the guest, and the commands that are given to them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::consoles::Consoles;
use crate::findings::Move;
use crate::programs::Programs;

const CMDLINE: &str = "console=ttyS0 quiet panic=-1 lab_hot=8 lab_cold=32";
/// Under emulation a page costs a hundred times what it costs elsewhere, so no promise is asked
/// for that only real hardware could keep.
const BLACKOUT: &str = "10s";
/// A move that is not over by then is given up.
const TIMEOUT: &str = "120s";
/// While a guest is in a file the host's clocks go on, and so are the guest's to do.
pub const WITH_THE_HOST: [&str; 2] = ["--clock", "realtime"];
const STEP: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(90);

/// What a machine's console is connected with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// A file that it writes itself; the guest hears nothing.
    File,
    /// Its standard input and output; the guest hears us.
    Stdio,
    /// Nothing.
    Off,
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
    /// Boots the guest, with what else there is to be said of its RAM.
    pub fn boot<'a>(
        programs: &'p Programs,
        name: &'static str,
        more: impl IntoIterator<Item = &'a OsStr>,
    ) -> Result<Self> {
        let mut command = programs.whimbrel("run");
        command
            .args([Path::new("--kernel"), &programs.kernel])
            .args([Path::new("--initrd"), &programs.initramfs])
            .args(["--cmdline", CMDLINE, "--cpus", "2"])
            .args(more);
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
        more: &[&str],
    ) -> Result<Self> {
        let mut command = match place {
            Place::Here => programs.whimbrel("run"),
            Place::Elsewhere => programs.whimbrel_elsewhere("run")?,
        };
        command.args(["--incoming", address]).args(more);
        let mut machine = Self::start(programs, name, command, console)?;
        machine.address = Some(address);
        machine.wait_until("inmigrate")?;
        Ok(machine)
    }

    /// Starts a process whose guest comes out of a file.
    pub fn restored(
        programs: &'p Programs,
        name: &'static str,
        file: &Path,
        console: Console,
        more: &[&str],
    ) -> Result<Self> {
        let mut command = programs.whimbrel("restore");
        command.arg(file).args(more);
        Self::start(programs, name, command, console)
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
            Console::Off => command.arg("off").stdout(Stdio::null()),
        };
        let mut child = command.stderr(log).spawn().context("cannot start whimbrel run")?;
        let input = child.stdin.take();
        Ok(Self { programs, name, address: None, console: path, child, input })
    }

    /// Waits until this is the status that it answers with.
    pub fn wait_until(&mut self, status: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.status()?;
            if said.pointer("/machine/status") == Some(&Value::from(status)) {
                return Ok(());
            }
            if let Some(ended) = self.child.try_wait()? {
                bail!("{} was to become `{status}` and ended with {ended}", self.name);
            }
            if Instant::now() > deadline {
                bail!("{} does not become `{status}`: {said}", self.name);
            }
            std::thread::sleep(STEP);
        }
    }

    /// What it answers when it is asked how it is; null while it does not answer.
    pub fn status(&self) -> Result<Value> {
        let answer = self.programs.ask("status", &[self.name, "--json"])?;
        Ok(serde_json::from_slice(&answer.stdout).unwrap_or_default())
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.name
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

    /// Writes the guest to a file in `folder`, with this verb, while it is followed.
    pub fn write(
        &self,
        verb: &str,
        folder: &Path,
        more: &[&str],
        consoles: &mut Consoles,
    ) -> Result<PathBuf> {
        let file = folder.join(format!("{}.{verb}", self.name));
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

    /// Saves the guest in a file in `folder`, which ends this process.
    pub fn save(&mut self, folder: &Path, consoles: &mut Consoles) -> Result<PathBuf> {
        let file = self.write("save", folder, &[], consoles)?;
        self.must_end_well("was saved")?;
        Ok(file)
    }

    /// Leaves the guest in its memory file, which ends this process, and has another go on with it on the
    /// same console, as after a reboot of the host.
    pub fn reboot(&mut self, consoles: &mut Consoles) -> Result<()> {
        let state = self.programs.folder.join(format!("{}.state", self.name));
        let mut command = self.programs.whimbrel("update");
        command.args([self.name, "--mode", "reboot", "--state"]).arg(&state);
        self.carry_out("update", command, consoles)?;
        self.must_end_well("was left in its memory file")?;
        *self = Self::restored(self.programs, self.name, &state, Console::File, &WITH_THE_HOST)?;
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

    /// Has the guest check all of its memory and print its kernel's log.
    pub fn report(&mut self, consoles: &mut Consoles) -> Result<()> {
        self.say("report")?;
        consoles.wait("the guest's report", |seen| seen.here("report") == 1)?;
        println!("guest: {}", consoles.last("report").unwrap_or_default());
        Ok(())
    }

    /// Presses the guest's power button, and waits until it has powered off.
    pub fn power_off(&mut self, consoles: &mut Consoles) -> Result<()> {
        self.press_power_button()?;
        let status = self.wait_for_end(PATIENCE)?;
        consoles.drain()?;
        if !status.success() {
            bail!("the guest was to power off, and its process ended with {status}");
        }
        if consoles.last("end").as_deref() != Some("end button") {
            bail!("the guest does not say that its power button was pressed");
        }
        println!("the guest has powered off, and its process ended with {status}");
        Ok(())
    }

    /// Presses the guest's power button.
    fn press_power_button(&self) -> Result<()> {
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
    fn wait_for_end(&mut self, patience: Duration) -> Result<ExitStatus> {
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
