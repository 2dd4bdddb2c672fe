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
    /// Only ask whether it would take the machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
}

impl Arguments for Update {
    fn check(&self) -> Result<(), Error> {
        if self.binary.is_some() && self.to.is_some() {
            return Err(Error::invalid(
                "`binary` is started, and `to` was started: give one of them",
            ));
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
