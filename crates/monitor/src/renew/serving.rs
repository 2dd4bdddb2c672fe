//! Who serves the people that hold on to a machine: this process, or another.

use crate::Error;
use crate::monitor::Monitor;
use devices::lock;
use qmp::SavedServer;
use qmp::command::{Capabilities, CapabilityState, Parameters, SetCapabilities};
use state::Code;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

impl Monitor {
    /// Stops serving clients, and gives all that another process needs to go on with them.
    pub fn suspend_server(&self, limit: Duration) -> Result<(SavedServer, Vec<OwnedFd>), Error> {
        let server = lock(&self.server);
        let none = || Error::new(Code::InvalidState, "the control sockets are not served here");
        let suspended = server
            .as_ref()
            .ok_or_else(none)?
            .suspend(limit)
            .map_err(|e| Error::new(Code::Busy, e.to_string()))?;
        let (saved, table) = suspended.into_parts();
        Ok((saved, table.into_iter().map(|(_, descriptor)| descriptor).collect()))
    }

    /// Goes on serving clients.
    pub fn serve_again(&self) {
        if let Some(server) = lock(&self.server).as_ref() {
            server.resume();
        }
    }

    /// What clients have to be told that happened since they were not served any more.
    pub fn late_events(&self) -> Vec<String> {
        lock(&self.server).as_ref().map(|server| server.late_events()).unwrap_or_default()
    }

    /// The lock that makes the name this process's, once more.
    pub fn lock_of_name(&self) -> io::Result<OwnedFd> {
        match lock(&self.claim).as_ref() {
            Some(claim) => claim.duplicate(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Another process has all that people hold on to: this one lets go of it.
    pub fn release(&self) {
        if let Some(server) = lock(&self.server).take() {
            server.release();
        }
        if let Some(claim) = lock(&self.claim).take() {
            claim.leave();
        }
        if let Some(console) = lock(&self.console).take() {
            console.leave();
        }
    }

    /// Goes on with what was set in the process before this one. A newer or older version may know
    /// other settings: those that it does not know are at their defaults.
    pub fn adopt_settings(&self, parameters: &str, capabilities: &str) {
        let mut state = self.state();
        match serde_json::from_str::<Parameters>(parameters) {
            Ok(parameters) => state.parameters = parameters,
            Err(error) => tracing::warn!(%error, "the parameters are at their defaults"),
        }
        let capabilities = serde_json::from_str::<Vec<CapabilityState>>(capabilities)
            .map_err(|e| e.to_string())
            .and_then(|list| {
                let mut set = Capabilities::default();
                set.set(&SetCapabilities { capabilities: list }).map_err(|e| e.to_string())?;
                Ok(set)
            });
        match capabilities {
            Ok(capabilities) => state.capabilities = capabilities,
            Err(error) => tracing::warn!(%error, "the capabilities are at their defaults"),
        }
    }
}
