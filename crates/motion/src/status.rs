//! Where a motion stands, in the words of QEMU's `MigrationStatus`.

/// The status of a motion, as `query-migrate` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// There is none.
    None,
    /// Connecting, checking, building.
    Setup,
    /// RAM travels; the guest runs (or was stopped before).
    Active,
    /// Ready to stop the guest, and waiting for the word to.
    PreSwitchover,
    /// The guest is stopped; last pages and state travel.
    Device,
    /// The guest runs at the destination.
    Completed,
    /// It failed and the source is being put back.
    Failing,
    /// It failed; the guest is the source's.
    Failed,
    /// It is being cancelled.
    Cancelling,
    /// It was cancelled; the guest is the source's.
    Cancelled,
}

impl Status {
    /// Whether the motion has ended.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::None | Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Setup => "setup",
            Self::Active => "active",
            Self::PreSwitchover => "pre-switchover",
            Self::Device => "device",
            Self::Completed => "completed",
            Self::Failing => "failing",
            Self::Failed => "failed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
