//! What can go wrong with a connection.

use crate::Address;
use state::Code;
use std::io;
use std::time::Duration;

/// Why a connection could not be made or accepted. Errors of I/O on a [`crate::Stream`] are
/// [`io::Error`]s that carry the same sort of sentence.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A host name has no address.
    #[error(
        "cannot find the address of {address}: {source}; check the name, or give an IP address"
    )]
    Resolve {
        /// Who was to be reached.
        address: Address,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nobody took the connection.
    #[error("cannot connect to {address}: {source}; {}", connect_advice(source))]
    Connect {
        /// Who was to be reached.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nobody answered in time.
    #[error(
        "cannot connect to {address}: no answer within {timeout:?}; check that the host is up and \
         no firewall drops the port"
    )]
    NoAnswer {
        /// Who was to be reached.
        address: Address,
        /// How long was waited.
        timeout: Duration,
    },
    /// A listener could not be set up.
    #[error("cannot listen on {address}: {source}; {}", listen_advice(source))]
    Listen {
        /// Where.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
    /// A connection could not be accepted.
    #[error("cannot accept a connection on {address}: {source}")]
    Accept {
        /// Where.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
    /// `fd:NAME` names nothing.
    #[error("no descriptor is named `{name}`; give one with `getfd` first")]
    NoDescriptor {
        /// The name.
        name: String,
    },
    /// A descriptor that was given is not a connected or listening stream socket.
    #[error("descriptor `{name}` cannot carry a motion: {why}; give a connected stream socket")]
    UnfitDescriptor {
        /// The name.
        name: String,
        /// What it lacks.
        why: String,
    },
    /// The address is not one that connections are made to.
    #[error("{address} cannot be used here: {why}")]
    Unfit {
        /// The address.
        address: Address,
        /// Why not.
        why: &'static str,
    },
    /// The listener was closed from another thread.
    #[error("listening on {address} was ended")]
    Closed {
        /// Where.
        address: Address,
    },
}

impl LinkError {
    /// The machine-readable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::NoAnswer { .. } => {
                Code::ConnectFailed
            }
            Self::Listen { .. } | Self::Accept { .. } => Code::HostIo,
            Self::NoDescriptor { .. } | Self::UnfitDescriptor { .. } => Code::InvalidArgument,
            Self::Unfit { .. } => Code::Unsupported,
            Self::Closed { .. } => Code::Cancelled,
        }
    }
}

fn connect_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ConnectionRefused => "start the destination with --incoming first",
        io::ErrorKind::NotFound => {
            "there is no such socket: start the destination with --incoming first"
        }
        io::ErrorKind::PermissionDenied => "check the permissions, or the firewall",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "check the address and the route to it"
        }
        _ => "check the address, and that the destination waits there",
    }
}

fn listen_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "somebody listens there already: use another address",
        io::ErrorKind::AddrNotAvailable => "this host does not have that address",
        io::ErrorKind::PermissionDenied => "use a port above 1023, or a folder that you may write",
        io::ErrorKind::NotFound => "the folder does not exist: create it",
        _ => "use another address",
    }
}
