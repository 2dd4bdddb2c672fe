//! Going to the background.
//!
//! The process that was called starts another with the same words, which reports with one line on
//! its stdout when the machine runs, and the reason when it cannot. It makes itself the leader of
//! a session of its own first, so that it outlives the terminal.

use crate::exit::Exit;
use crate::output::{print_json, print_line};
use anyhow::{Context, bail};
use monitor::{Machine, RuntimeDir};
use rustix::stdio::{dup2_stderr, dup2_stdout};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Report {
    Runs { name: String, pid: u32, greeting: Vec<String> },
    Failed { code: Option<String>, message: String },
}

/// Starts the process in the background and passes on what it reports.
pub fn start(json: bool) -> anyhow::Result<Exit> {
    let doing = "cannot start the machine in the background";
    let words = std::env::args_os().skip(1).filter(|word| word != "--detach" && word != "--json");
    let mut child = Command::new(std::env::current_exe().context(doing)?)
        .args(words)
        .arg("--background")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(doing)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).context(doing)?;
    }
    match serde_json::from_str(&line) {
        Ok(Report::Runs { name, pid, .. }) if json => {
            print_json(&answer(&name, pid))?;
            Ok(Exit::Done)
        }
        Ok(Report::Runs { greeting, .. }) => {
            greeting.iter().for_each(|line| print_line(line));
            Ok(Exit::Done)
        }
        Ok(Report::Failed { code, message }) => {
            // It is as good as over; its status is in its words.
            let _ = child.wait();
            let code = code.and_then(|code| code.parse().ok()).unwrap_or(state::Code::Internal);
            Err(monitor::Error::new(code, message).into())
        }
        Err(_) => match child.wait() {
            Ok(status) => bail!("{doing}: it ended with {status}"),
            Err(error) => bail!("{doing}: {error}"),
        },
    }
}

/// What scripts are told of a machine that runs, or waits.
pub fn answer(name: &str, pid: u32) -> serde_json::Value {
    serde_json::json!({ "name": name, "pid": pid })
}

/// Tells the process in the foreground that the machine runs, and lets go of its terminal.
pub fn report_success(machine: &Machine, runtime: &RuntimeDir) -> anyhow::Result<()> {
    let doing = "cannot go to the background";
    // Only fails for a process that leads a group already: then it has what it needs.
    let _ = rustix::process::setsid();
    report(&Report::Runs {
        name: machine.name().to_string(),
        pid: std::process::id(),
        greeting: machine.greeting(),
    });
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(runtime.log(machine.name()))
        .context(doing)?;
    dup2_stderr(&log).context(doing)?;
    dup2_stdout(&log).context(doing)
}

/// Tells the process in the foreground why the machine does not run.
pub fn report_failure(error: &anyhow::Error) {
    let code = crate::exit::code_of(error).map(|code| code.to_string());
    report(&Report::Failed { code, message: format!("{error:#}") });
}

fn report(report: &Report) {
    let mut stdout = std::io::stdout().lock();
    // Whoever started us may be gone; the machine is what counts.
    if let Ok(line) = serde_json::to_string(report) {
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }
}
