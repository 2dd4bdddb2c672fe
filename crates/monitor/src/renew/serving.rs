//! Who serves the people that hold on to a machine: this process, or another.

use crate::Error;
use crate::monitor::Monitor;
use devices::lock;
use qmp::SavedServer;
use qmp::command::{Capabilities, CapabilityState, Parameters, SetCapabilities};
use serde_json::{Map, Value};
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

    /// Goes on with what was set in the process before this one.
    pub fn adopt_settings(&self, parameters: &str, capabilities: &str) {
        let (parameters, capabilities) = (known(parameters), switches(capabilities));
        let mut state = self.state();
        state.parameters = parameters;
        state.capabilities = capabilities;
    }
}

/// Parameters as another version has them: those that it does not have, and those whose values nobody here
/// has heard of, are at their defaults.
fn known(parameters: &str) -> Parameters {
    let named = serde_json::from_str::<Map<String, Value>>(parameters);
    let named = named.inspect_err(|error| tracing::warn!(%error, "reading parameters"));
    let mut set = Map::new();
    let mut known = Parameters::default();
    for (name, value) in named.unwrap_or_default() {
        let mut with = set.clone();
        with.insert(name, value);
        match serde_json::from_value(Value::Object(with.clone())) {
            Ok(parameters) => (set, known) = (with, parameters),
            Err(error) => tracing::warn!(%error, "a parameter is at its default"),
        }
    }
    known
}

/// Capabilities as another version has them: those that are none here, or no switches, are left out.
fn switches(capabilities: &str) -> Capabilities {
    let states = serde_json::from_str::<Vec<Value>>(capabilities);
    let states = states.inspect_err(|error| tracing::warn!(%error, "reading capabilities"));
    let mut set = Capabilities::default();
    for state in states.unwrap_or_default() {
        let state = serde_json::from_value::<CapabilityState>(state).map_err(|e| e.to_string());
        let one = state.map(|state| SetCapabilities { capabilities: vec![state] });
        if let Err(error) = one.and_then(|one| set.set(&one).map_err(|e| e.to_string())) {
            tracing::warn!(error, "a capability is left out");
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_another_version_are_taken_as_far_as_they_are_known() {
        let mine = Parameters { max_bandwidth: 7, stall_limit: 9000, ..Parameters::default() };
        assert_eq!(known(&serde_json::to_string(&mine).unwrap()), mine);
        // An older one has fewer, a newer one more, and more that they can be.
        let fewer = r#"{"max-bandwidth": 7, "x-whimbrel-stall-limit": 9000}"#;
        assert_eq!(known(fewer), mine);
        let more = r#"{"mode": "cpr-moon", "phase": {}, "max-bandwidth": 7,
            "x-whimbrel-stall-limit": 9000, "downtime-limit": [300]}"#;
        assert_eq!(known(more), mine);
        assert_eq!(known("no object"), Parameters::default());
    }

    #[test]
    fn switches_of_another_version_are_set_as_far_as_they_are_switches_here() {
        let mine = Capabilities { postcopy_ram: true, ..Capabilities::default() };
        assert_eq!(switches(&serde_json::to_string(&mine.list()).unwrap()), mine);
        let more = r#"[{"capability": "moon", "state": true}, {"capability": "xbzrle", "state": true},
            {"capability": "postcopy-ram", "state": true, "since": 2}, 5,
            {"capability": "postcopy-ram", "state": true}, {"capability": "events", "state": false}]"#;
        assert_eq!(switches(more), mine);
        assert_eq!(switches("no list"), Capabilities::default());
    }
}
