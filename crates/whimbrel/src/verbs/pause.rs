//! `whimbrel pause`

use crate::exit::Exit;
use crate::machine::Machine;
use crate::output::print_json;
use monitor::MachineName;
use qmp::command::Command;
use serde_json::json;

/// Stop a guest's processors until `resume`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  whimbrel pause web")]
pub struct Pause {
    /// Which machine
    name: MachineName,
    /// Answer with a JSON object
    #[arg(long)]
    pub json: bool,
}

impl Pause {
    pub fn run(self) -> anyhow::Result<Exit> {
        Machine::find(&self.name)?.run(&Command::Stop)?;
        if self.json {
            print_json(&json!({ "name": self.name.as_str(), "paused": true }))?;
        }
        Ok(Exit::Done)
    }
}
