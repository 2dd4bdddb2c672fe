//! `whimbrel kill`

use crate::exit::Exit;
use crate::machine::Machine;
use crate::output::print_json;
use monitor::{MachineName, RuntimeDir};
use qmp::command::Command;
use serde_json::json;

/// End a machine at once
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  whimbrel kill web\n\nA machine that may hold the only complete \
                        copy of a guest is not ended without --force; see `whimbrel handover`."
)]
pub struct Kill {
    /// Which machine
    name: MachineName,
    /// End its process even if it does not answer, or if a guest may be lost with it
    #[arg(long)]
    force: bool,
    /// Answer with a JSON object
    #[arg(long)]
    pub json: bool,
}

impl Kill {
    pub fn run(self) -> anyhow::Result<Exit> {
        if self.force {
            RuntimeDir::from_environment()?.kill(&self.name)?;
        } else {
            let mut machine = Machine::find(&self.name)?;
            machine.run(&Command::Quit)?;
            RuntimeDir::from_environment()?.wait_gone(&self.name)?;
        }
        if self.json {
            print_json(&json!({ "name": self.name.as_str(), "ended": true }))?;
        }
        Ok(Exit::Done)
    }
}
