//! Talking to a machine by its name.

use anyhow::Context;
use monitor::{Error, MachineName, MachineView, RuntimeDir};
use qmp::command::Command;
use qmp::reply::{HandoverInfo, MigrationInfo};
use qmp::{Client, ClientError};
use serde::de::DeserializeOwned;
use serde_json::Value;
use state::Code;
use std::time::Duration;

/// How long a machine may take to answer. No command waits for long work, so a machine that needs
/// longer hangs.
pub const ANSWER_TIME: Duration = Duration::from_secs(10);

/// A connection to a running machine.
#[derive(Debug)]
pub struct Machine {
    name: MachineName,
    client: Client,
}

impl Machine {
    /// Finds the machine of that name among those of this user.
    pub fn find(name: &MachineName) -> anyhow::Result<Self> {
        Self::find_in(&RuntimeDir::from_environment()?, name)
    }

    /// The same in another runtime folder.
    pub fn find_in(runtime: &RuntimeDir, name: &MachineName) -> anyhow::Result<Self> {
        let socket = runtime.socket(name);
        match Client::connect(&socket) {
            Ok(client) => Ok(Self { name: name.clone(), client }),
            Err(ClientError::Connect { .. }) if !runtime.names()?.contains(name) => {
                Err(Error::new(
                    Code::NoSuchMachine,
                    format!("no machine named `{name}` is running here; see `whimbrel list`"),
                )
                .into())
            }
            Err(error) => Err(error).with_context(|| hangs(name)),
        }
    }

    /// Has a command carried out.
    pub fn run(&mut self, command: &Command) -> anyhow::Result<Value> {
        match self.client.run(command, Some(ANSWER_TIME)) {
            Ok(value) => Ok(value),
            Err(ClientError::Command(error)) => Err(error.into()),
            Err(error) => Err(error).with_context(|| hangs(&self.name)),
        }
    }

    /// Has a command carried out that is not one of ours to know.
    pub fn run_raw(&mut self, command: &str, arguments: Option<Value>) -> anyhow::Result<Value> {
        match self.client.execute(command, arguments, Some(ANSWER_TIME)) {
            Ok(value) => Ok(value),
            Err(ClientError::Command(error)) => Err(error.into()),
            Err(error) => Err(error).with_context(|| hangs(&self.name)),
        }
    }

    /// Everything there is to say about it.
    pub fn view(&mut self) -> anyhow::Result<MachineView> {
        self.ask(&Command::QueryMachine)
    }

    /// How its present or last motion stands.
    pub fn migration(&mut self) -> anyhow::Result<MigrationInfo> {
        self.ask(&Command::QueryMigrate)
    }

    /// What is recorded of its handovers.
    pub fn handovers(&mut self, token: Option<String>) -> anyhow::Result<Vec<HandoverInfo>> {
        self.ask(&Command::HandoverQuery(qmp::command::HandoverQuery { token }))
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &Command) -> anyhow::Result<T> {
        let value = self.run(command)?;
        serde_json::from_value(value).with_context(|| {
            format!("the machine `{}` answers {} in words unknown here", self.name, command.name())
        })
    }
}

fn hangs(name: &MachineName) -> String {
    format!("cannot talk to the machine `{name}`; if it hangs, `whimbrel kill --force {name}`")
}
