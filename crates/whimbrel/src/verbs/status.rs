//! `whimbrel status`

use crate::exit::Exit;
use crate::machine::Machine;
use crate::motion::motion_lines;
use crate::output::{bytes, print_json, print_line, table};
use crate::terminal::{Ink, Line, Style, wrap};
use monitor::{MachineName, MachineView};
use qmp::reply::HandoverInfo;
use serde_json::json;
use std::io::stdout;
use std::time::Duration;

/// Show how a machine is: one screen
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  whimbrel status web")]
pub struct Status {
    /// Which machine
    name: MachineName,
    /// Answer with one JSON object: `machine` and `migration`
    #[arg(long)]
    pub json: bool,
}

impl Status {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut machine = Machine::find(&self.name)?;
        let view = machine.view()?;
        let migration = machine.migration()?;
        if self.json {
            print_json(&json!({ "machine": view, "migration": migration }))?;
            return Ok(Exit::Done);
        }
        for line in table(&machine_rows(&view)) {
            print_line(&line);
        }
        let style = Style::of(&stdout());
        let undecided = view.undecided.iter();
        let undecided = undecided.flat_map(|about| undecided_lines(&self.name, about, &style));
        for line in undecided.chain(motion_lines(&self.name, &migration, &style)) {
            print_line(&line.whole(&style));
        }
        Ok(Exit::Done)
    }
}

fn machine_rows(view: &MachineView) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |what: &str, value: String| {
        if !value.is_empty() {
            rows.push(vec![what.to_owned(), value]);
        }
    };
    let because = view.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    row("name", view.name.clone());
    row("state", view.status_word() + &because);
    row("uuid", view.uuid.clone().unwrap_or_default());
    row("process", view.pid.to_string());
    row("up", view.uptime_seconds.map(uptime).unwrap_or_default());
    if let Some(memory) = &view.memory {
        let (size, touched) = (bytes(memory.size), bytes(memory.touched));
        let pages = match memory.backing.as_str() {
            "off" => "pages of 4 KiB",
            "thp" => "transparent huge pages",
            "2M" => "pages of 2 MiB",
            "1G" => "pages of 1 GiB",
            other => other,
        };
        row("memory", format!("{size} in {pages}, {touched} of it touched"));
        row("processors", view.cpus.to_string());
    }
    row("devices", view.devices.join(", "));
    row("console", view.console.clone());
    row("control", view.qmp.join(", "));
    row("waits on", view.incoming.clone().unwrap_or_default());
    rows
}

fn uptime(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn undecided_lines(name: &MachineName, handover: &HandoverInfo, style: &Style) -> Vec<Line> {
    let text = format!(
        "It is not known which side owns the guest: handover {} is {}. See `whimbrel handover \
         query {name}`, and docs/operating.md before you resolve it.",
        handover.token, handover.state
    );
    let lines = wrap(&text, style.width).into_iter();
    lines.map(|line| Line::default().ink(Ink::Red, line)).collect()
}
