//! A machine driven by the client library that QEMU's users have.

use std::process::Command;

use anyhow::Result;

use super::step::Tally;
use crate::places;
use crate::process::{cargo, run as run_command};

const LIBRARY: &str = "qemu.qmp==0.0.6";
const SCRIPT: &str = "xtask/src/test/qmp_client.py";

/// Installs the client in an environment of its own and runs the script with it.
pub fn run() -> Result<Tally> {
    let environment = places::target().join("lab").join("venv");
    let python = environment.join("bin/python");
    if !environment.join(LIBRARY).exists() {
        run_command(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", LIBRARY];
        run_command(Command::new(&python).args(pip))?;
        std::fs::write(environment.join(LIBRARY), "installed\n")?;
    }
    run_command(&mut cargo(&["build", "--locked", "--package", "whimbrel"]))?;
    run_command(
        Command::new(&python)
            .current_dir(places::workspace())
            .arg(SCRIPT)
            .arg(places::target().join("debug/whimbrel")),
    )?;
    Ok(Tally::passed(1))
}
