//! `whimbrel resume`

use crate::exit::Exit;
use crate::machine::Machine;
use crate::output::print_json;
use monitor::MachineName;
use qmp::command::Command;
use serde_json::json;

/// Let a guest's processors run again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  whimbrel resume web")]
pub struct Resume {
    /// Which machine
    name: MachineName,
    /// Answer with a JSON object
    #[arg(long)]
    pub json: bool,
}

impl Resume {
    pub fn run(self) -> anyhow::Result<Exit> {
        Machine::find(&self.name)?.run(&Command::Cont)?;
        if self.json {
            print_json(&json!({ "name": self.name.as_str(), "running": true }))?;
        }
        Ok(Exit::Done)
    }
}
