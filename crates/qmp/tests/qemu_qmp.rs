//! The client that QEMU's users have: `qemu.qmp` from PyPI.
#![allow(clippy::unwrap_used, reason = "clippy knows tests only by their attribute")]

mod machine;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use machine::Pretender;

/// Held to one version, so that a test that failed yesterday fails today.
const PACKAGE: &str = "qemu.qmp==0.0.6";

#[test]
fn the_client_of_qemu_works_unchanged() {
    let python = match client_python() {
        Ok(python) => python,
        Err(why) => {
            // Not with a macro: the test harness hides what those print while a test passes.
            let text = format!("\n*** SKIPPED: the_client_of_qemu_works_unchanged: {why}\n");
            std::io::stderr().write_all(text.as_bytes()).unwrap();
            return;
        }
    };
    let pretender = Pretender::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/qmp_client.py");
    let output = Command::new(python).arg(script).arg(&pretender.path).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("done"));
}

/// The interpreter of a virtual environment that has the package, made on first use; or why there
/// is none.
fn client_python() -> Result<PathBuf, String> {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-qmp");
    let python = environment.join("bin/python3");
    if run(Command::new(&python).args(["-c", "import qemu.qmp"])).is_ok() {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE];
    run(Command::new(&python).args(pip))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", said(&output))),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}
