//! A machine driven by the client library that QEMU's users have.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::step::Tally;
use crate::places;
use crate::process::{cargo, run as run_command};

const LIBRARY: &str = "qemu.qmp==0.0.6";
const SCRIPT: &str = "tests/qmp_client.py";
const NAME: &str = "driven";
const PATIENCE: Duration = Duration::from_secs(30);

/// What tests find the interpreter by that has the library.
const VARIABLE: &str = "WHIMBREL_QMP_PYTHON";

/// Starts a machine and runs the script against its control socket.
pub fn run() -> Result<Tally> {
    let folder = places::target().join("lab");
    let python = install()?;
    run_command(&mut cargo(&["build", "--locked", "--package", "whimbrel"]))?;
    let machine = Machine::start(&folder)?;
    let script = places::workspace().join(SCRIPT);
    run_command(Command::new(python).arg(script).arg(&machine.socket))?;
    Ok(Tally::passed(1))
}

/// Where the client is, or is to be.
fn environment() -> PathBuf {
    places::target().join("lab/venv")
}

/// What tells tests where the interpreter is that has the client, if it was [installed](install).
pub fn told() -> Option<(&'static str, PathBuf)> {
    let environment = environment();
    environment.join(LIBRARY).exists().then(|| (VARIABLE, environment.join("bin/python")))
}

/// Installs the client; gives the interpreter that has it.
pub fn install() -> Result<PathBuf> {
    let environment = environment();
    let python = environment.join("bin/python");
    let installed = environment.join(LIBRARY);
    if !installed.exists() {
        run_command(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", LIBRARY];
        run_command(Command::new(&python).args(pip))?;
        std::fs::write(installed, "")?;
    }
    Ok(python)
}

/// The program, which finds its machines in this folder.
fn whimbrel(runtime: &Path) -> Command {
    let mut command = Command::new(places::target().join("debug/whimbrel"));
    command.env("XDG_RUNTIME_DIR", runtime);
    command
}

/// A running machine with a built-in guest.
struct Machine {
    /// The first one: an update has another take its place.
    process: Child,
    socket: PathBuf,
    runtime: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // All of it fails when it has ended already.
        let _ = whimbrel(&self.runtime).args(["kill", "--force", NAME]).output();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Machine {
    fn start(folder: &Path) -> Result<Self> {
        let (socket, runtime) = (folder.join("qmp.sock"), folder.join("runtime"));
        let _ = std::fs::remove_file(&socket);
        std::fs::create_dir_all(&runtime)?;
        let process = whimbrel(&runtime)
            .args(["run", "--name", NAME, "--guest", "workload", "--console", "off"])
            .arg("--qmp")
            .arg(format!("unix:{}", socket.display()))
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start whimbrel")?;
        let mut machine = Self { process, socket, runtime };
        let deadline = Instant::now() + PATIENCE;
        while !machine.socket.exists() {
            if let Some(status) = machine.process.try_wait()? {
                bail!("the machine to be driven ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("the machine to be driven has no control socket after {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(machine)
    }
}
