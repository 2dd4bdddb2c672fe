//! Arguments of the handover commands.

use serde::{Deserialize, Serialize};

use super::Arguments;

/// Arguments of `x-whimbrel-handover-query`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandoverQuery {
    /// Only this handover; all that are recorded if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Arguments for HandoverQuery {}

/// Arguments of `x-whimbrel-handover-resolve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandoverResolve {
    /// Which handover.
    pub token: String,
    /// Who is to own the guest from now on.
    pub owner: Owner,
    /// The caller's word that the other side can no longer run the guest.
    #[serde(default)]
    pub fenced: bool,
}

impl Arguments for HandoverResolve {}

/// A side of a handover, seen from the process that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// This process.
    Here,
    /// The other one.
    Peer,
}
