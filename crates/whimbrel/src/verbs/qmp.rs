//! `whimbrel qmp`

use crate::exit::Exit;
use crate::machine::Machine;
use crate::output::print_line;
use monitor::{Error, MachineName};
use serde_json::Value;
use state::Code;

/// Send one QMP command to a machine and print the answer
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  whimbrel qmp web query-status\n  whimbrel qmp web \
                        migrate-set-parameters '{\"max-bandwidth\": 104857600}'")]
pub struct Qmp {
    /// Which machine
    name: MachineName,
    /// The command, such as query-status
    command: String,
    /// Its arguments, a JSON object
    arguments: Option<String>,
}

impl Qmp {
    pub fn run(self) -> anyhow::Result<Exit> {
        let arguments = self.arguments.as_deref().map(object).transpose()?;
        let answer = Machine::find(&self.name)?.run_raw(&self.command, arguments)?;
        print_line(&serde_json::to_string_pretty(&answer)?);
        Ok(Exit::Done)
    }
}

fn object(text: &str) -> anyhow::Result<Value> {
    let wrong = |why: String| Error::new(Code::InvalidArgument, why);
    let value: Value = serde_json::from_str(text)
        .map_err(|error| wrong(format!("the arguments are no JSON object: {error}")))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(wrong("the arguments are JSON, but no object".into()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_one_object() {
        assert!(object("{\"a\": 1}").is_ok());
        for text in ["", "[]", "{", "1", "{} {}"] {
            let error = object(text).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage, "{text}");
        }
    }
}
