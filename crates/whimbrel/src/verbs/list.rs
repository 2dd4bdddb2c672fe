//! `whimbrel list`

use crate::exit::{Exit, code_of};
use crate::machine::Machine;
use crate::output::{bytes, print_json, print_line, table};
use monitor::{MachineName, MachineView, RuntimeDir};
use serde::Serialize;
use state::Code;

/// Show the machines that run here
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  whimbrel list --json")]
pub struct List {
    /// One JSON object per machine and line
    #[arg(long)]
    pub json: bool,
}

/// A machine that runs, as far as it can be asked.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Row {
    Answers(Box<MachineView>),
    Silent { name: String, error: String },
}

impl List {
    pub fn run(self) -> anyhow::Result<Exit> {
        let names = RuntimeDir::from_environment()?.names()?;
        let rows: Vec<Row> = names.iter().filter_map(ask).collect();
        if self.json {
            for row in &rows {
                print_json(row)?;
            }
            return Ok(Exit::Done);
        }
        let head = ["NAME", "STATE", "CPUS", "MEMORY", "PID", "NOTE"].map(String::from).to_vec();
        let lines = std::iter::once(head).chain(rows.iter().map(cells)).collect::<Vec<_>>();
        for line in table(&lines) {
            print_line(&line);
        }
        Ok(Exit::Done)
    }
}

/// One machine that hangs must not hide the others; one that has ended meanwhile is none.
fn ask(name: &MachineName) -> Option<Row> {
    match Machine::find(name).and_then(|mut machine| machine.view()) {
        Ok(view) => Some(Row::Answers(Box::new(view))),
        Err(error) if code_of(&error) == Some(Code::NoSuchMachine) => None,
        Err(error) => Some(Row::Silent { name: name.to_string(), error: format!("{error:#}") }),
    }
}

fn cells(row: &Row) -> Vec<String> {
    match row {
        Row::Answers(view) => vec![
            view.name.clone(),
            view.status_word(),
            view.cpus.to_string(),
            view.memory.as_ref().map_or_else(|| "-".into(), |memory| bytes(memory.size)),
            view.pid.to_string(),
            view.note(),
        ],
        Row::Silent { name, error } => {
            let dash = || "-".to_owned();
            vec![name.clone(), "silent".into(), dash(), dash(), dash(), error.clone()]
        }
    }
}
