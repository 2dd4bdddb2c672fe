//! `whimbrel shutdown`

use crate::exit::Exit;
use crate::machine::Machine;
use crate::output::print_json;
use monitor::MachineName;
use qmp::command::Command;
use serde_json::json;

/// Ask a guest to power off, as its power button would
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  whimbrel shutdown web\n\nThe guest may take its time, or not \
                        listen at all; `whimbrel kill` ends it at once.")]
pub struct Shutdown {
    /// Which machine
    name: MachineName,
    /// Answer with a JSON object
    #[arg(long)]
    pub json: bool,
}

impl Shutdown {
    pub fn run(self) -> anyhow::Result<Exit> {
        Machine::find(&self.name)?.run(&Command::SystemPowerdown)?;
        if self.json {
            print_json(&json!({ "name": self.name.as_str(), "asked": true }))?;
        }
        Ok(Exit::Done)
    }
}
