//! What every restoring constructor may answer.

/// A saved state that no device can have been in. Nothing was restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {device} can be in this state: {reason}")]
pub struct InvalidState {
    /// The device that was to be restored.
    pub device: &'static str,
    /// Which rule the state breaks.
    pub reason: String,
}

/// Checks one rule of a saved state.
pub(crate) fn require(
    device: &'static str,
    holds: bool,
    reason: impl FnOnce() -> String,
) -> Result<(), InvalidState> {
    if holds { Ok(()) } else { Err(InvalidState { device, reason: reason() }) }
}
