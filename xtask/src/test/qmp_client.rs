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
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a machine and runs the script against its control socket.
pub fn run() -> Result<Tally> {
    let folder = places::target().join("lab");
    let python = install(&folder.join("venv"))?;
    run_command(&mut cargo(&["build", "--locked", "--package", "whimbrel"]))?;
    let machine = Machine::start(&folder)?;
    run_command(Command::new(python).arg(places::workspace().join(SCRIPT)).arg(&machine.socket))?;
    Ok(Tally::passed(1))
}

/// An environment with the client in it; its interpreter.
fn install(environment: &Path) -> Result<PathBuf> {
    let python = environment.join("bin/python");
    let installed = environment.join(LIBRARY);
    if !installed.exists() {
        run_command(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", LIBRARY];
        run_command(Command::new(&python).args(pip))?;
        std::fs::write(installed, "")?;
    }
    Ok(python)
}

/// A running machine with a built-in guest.
struct Machine {
    process: Child,
    socket: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Machine {
    fn start(folder: &Path) -> Result<Self> {
        let (socket, runtime) = (folder.join("qmp.sock"), folder.join("runtime"));
        let _ = std::fs::remove_file(&socket);
        std::fs::create_dir_all(&runtime)?;
        let process = Command::new(places::target().join("debug/whimbrel"))
            .args(["run", "--name", "driven", "--guest", "workload", "--console", "off"])
            .arg("--qmp")
            .arg(format!("unix:{}", socket.display()))
            .env("XDG_RUNTIME_DIR", &runtime)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start whimbrel")?;
        let mut machine = Self { process, socket };
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
