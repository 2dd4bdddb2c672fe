//! Arguments of `x-whimbrel-update`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Arguments;
use crate::error::Error;

/// Arguments of `x-whimbrel-update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Update {
    /// The program that is to go on; the one that this process was started from, as it lies on disk
    /// now, if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
    /// The Unix socket at which a process waits that somebody else has started to go on, instead of a
    /// program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<PathBuf>,
    /// How; where the process is the first of its PID namespace or holds a controlling terminal it is `exec`
    /// if it is left out, else `transfer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<UpdateMode>,
    /// Only ask whether it would take the machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
}

/// How the process of a machine is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateMode {
    /// A new process takes the machine over, and the old one ends.
    Transfer,
    /// The same process runs the new program, with the same PID. The guest is with a child meanwhile.
    Exec,
}

impl Arguments for Update {
    fn check(&self) -> Result<(), Error> {
        if self.binary.is_some() && self.to.is_some() {
            return Err(Error::invalid(
                "`binary` is started, and `to` was started: give one of them",
            ));
        }
        if self.to.is_some() && self.mode == Some(UpdateMode::Exec) {
            return Err(Error::invalid("`exec` stays in this process, and `to` is another"));
        }
        for (name, path) in [("binary", &self.binary), ("to", &self.to)] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(Error::invalid(format!(
                    "`{name}` is an absolute path: the machine's process runs in a folder of its own"
                )));
            }
        }
        Ok(())
    }
}
