//! How much a client may ask of the server.

use std::time::Duration;

/// Bounds that keep any client, hostile or merely slow, from costing the machine more than a
/// known amount of memory and descriptors.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Clients connected at the same time, over all sockets; further ones get an error line and
    /// are closed.
    pub clients: usize,
    /// Longest command, in bytes; a longer one is answered with an error and the client closed.
    pub line: usize,
    /// Commands of one client that wait for their turn; the socket is not read beyond that.
    pub in_flight: usize,
    /// Bytes of such commands, in the same sense.
    pub in_flight_bytes: usize,
    /// Bytes of answers not yet taken by the client beyond which no further command of it is
    /// read.
    pub unread_answers: usize,
    /// Bytes of answers and events not yet taken by the client beyond which it is closed.
    pub unread: usize,
    /// Descriptors received with `SCM_RIGHTS` that no `getfd` or `add-fd` has claimed.
    pub unclaimed_descriptors: usize,
    /// Descriptors that one client has named with `getfd`.
    pub named_descriptors: usize,
    /// Descriptors in all sets of the machine together.
    pub set_descriptors: usize,
    /// How long a shutdown waits for the command that is running.
    pub running_grace: Duration,
    /// How long a shutdown waits for clients to take their last answers.
    pub flush_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 64,
            line: 1 << 20,
            in_flight: 16,
            in_flight_bytes: 1 << 20,
            unread_answers: 64 << 10,
            unread: 4 << 20,
            unclaimed_descriptors: 16,
            named_descriptors: 64,
            set_descriptors: 64,
            running_grace: Duration::from_secs(2),
            flush_grace: Duration::from_millis(500),
        }
    }
}
