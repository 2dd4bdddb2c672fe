//! Descriptors that were given by name.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// Descriptors that were given by name, each to be taken once by whoever resolves `fd:NAME`.
#[derive(Debug, Default)]
pub struct Descriptors(Mutex<HashMap<String, OwnedFd>>);

impl Descriptors {
    /// None at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Just one.
    #[must_use]
    pub fn one(name: impl Into<String>, fd: OwnedFd) -> Self {
        let descriptors = Self::none();
        descriptors.give(name, fd);
        descriptors
    }

    /// Adds one; another one of that name is closed.
    pub fn give(&self, name: impl Into<String>, fd: OwnedFd) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), fd);
    }

    /// Takes a descriptor away, so that it has one owner.
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }
}
