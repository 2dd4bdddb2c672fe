//! Carrying a server into another process: what leaves one, and what another makes of it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;
use std::vec;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

use crate::saved::{Identity, Role, SavedServer};

/// Why a server could not be suspended. It goes on as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuspendError {
    /// Commands that clients had sent before were not finished in time.
    #[error(
        "suspending the QMP server: a command that is being carried out was not finished within \
         {limit:?}; the server goes on, try again once the command has been answered"
    )]
    TimedOut {
        /// How long it was waited.
        limit: Duration,
    },
    /// It is suspended, or is about to be.
    #[error("suspending the QMP server: it is suspended already")]
    Already,
    /// It is ending or has ended.
    #[error("suspending the QMP server: it is ending")]
    Ending,
    /// A command asked for it while it was carried out, and would have waited for itself.
    #[error(
        "suspending the QMP server: it waits for all commands to be finished, so none of them can \
         ask for it; leave it to another thread"
    )]
    InCommand,
    /// The descriptors could not be duplicated.
    #[error("suspending the QMP server: duplicating its descriptors: {0}; the server goes on")]
    System(#[source] io::Error),
}

/// Why a server could not be adopted. Whoever suspended it has it still.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// There are more or fewer descriptors than the server has.
    #[error("adopting the QMP server: it has {expected} descriptors, and {found} have come")]
    Count {
        /// How many it has.
        expected: usize,
        /// How many have come.
        found: usize,
    },
    /// A descriptor is open on another file than the one that was sent.
    #[error("adopting the QMP server: what came as {role} is something else")]
    Foreign {
        /// What it should have been.
        role: Role,
    },
    /// A descriptor cannot be what it should be.
    #[error("adopting the QMP server: what came as {role} {reason}")]
    Unfit {
        /// What it should have been.
        role: Role,
        /// Why it cannot be.
        reason: &'static str,
    },
    /// No server can have been in this state.
    #[error("adopting the QMP server: no server can be in this state: {reason}")]
    Invalid {
        /// Which rule the state breaks.
        reason: String,
    },
    /// The system refused.
    #[error("adopting the QMP server: looking at {role}: {source}")]
    System {
        /// What was looked at.
        role: Role,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no descriptor left to be woken by.
    #[error("adopting the QMP server: creating an event descriptor: {0}")]
    Resources(#[source] io::Error),
}

impl AdoptError {
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }
}

/// A server that neither accepts, reads nor writes: what it is, and duplicates of its descriptors.
///
/// Dropping it changes nothing of the server.
#[derive(Debug)]
pub struct Suspended {
    saved: SavedServer,
    descriptors: Vec<OwnedFd>,
}

impl Suspended {
    /// `descriptors` in the order of [`SavedServer::descriptors`].
    pub(crate) fn new(saved: SavedServer, packer: Packer) -> Self {
        Self { saved, descriptors: packer.descriptors }
    }

    /// What another process needs to [adopt](crate::Server::adopt) it: the descriptors are to come
    /// there in this order.
    #[must_use]
    pub fn into_parts(self) -> (SavedServer, Vec<(Role, OwnedFd)>) {
        let Self { saved, descriptors } = self;
        let roles = saved.descriptors().into_iter().map(|(role, _)| role);
        let descriptors = roles.zip(descriptors).collect();
        (saved, descriptors)
    }
}

/// Collects duplicates of descriptors. The order is that of [`SavedServer::descriptors`].
#[derive(Debug, Default)]
pub(crate) struct Packer {
    descriptors: Vec<OwnedFd>,
}

impl Packer {
    pub(crate) fn pack(&mut self, fd: BorrowedFd<'_>) -> io::Result<Identity> {
        let identity = Identity::of(fd)?;
        self.descriptors.push(fcntl_dupfd_cloexec(fd, 0)?);
        Ok(identity)
    }
}

/// Hands out the descriptors that came, each after a look at it, in the same order.
#[derive(Debug)]
pub(crate) struct Unpacker {
    descriptors: vec::IntoIter<OwnedFd>,
    sockets: BTreeSet<Identity>,
}

impl Unpacker {
    pub(crate) fn new(saved: &SavedServer, descriptors: Vec<OwnedFd>) -> Result<Self, AdoptError> {
        let (expected, found) = (saved.descriptors().len(), descriptors.len());
        if expected != found {
            return Err(AdoptError::Count { expected, found });
        }
        Ok(Self { descriptors: descriptors.into_iter(), sockets: BTreeSet::new() })
    }

    /// The next one, which should be this.
    pub(crate) fn unpack(&mut self, role: Role, identity: Identity) -> Result<OwnedFd, AdoptError> {
        let Some(fd) = self.descriptors.next() else {
            return Err(AdoptError::Unfit { role, reason: "did not come" });
        };
        // The flag belongs to this process alone, so whoever has the server still is not affected.
        let looked = Identity::of(&fd).and_then(|is| {
            fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
            Ok(is)
        });
        match looked {
            Ok(is) if is == identity => Ok(fd),
            Ok(_) => Err(AdoptError::Foreign { role }),
            Err(source) => Err(AdoptError::System { role, source }),
        }
    }

    /// The same for a Unix stream socket, which listens or does not.
    pub(crate) fn unpack_socket(
        &mut self,
        role: Role,
        identity: Identity,
        listens: bool,
    ) -> Result<OwnedFd, AdoptError> {
        let fd = self.unpack(role.clone(), identity)?;
        let is_stream = socket_domain(&fd) == Ok(AddressFamily::UNIX)
            && socket_type(&fd) == Ok(SocketType::STREAM);
        let reason = if !is_stream {
            "is no Unix stream socket"
        } else if socket_acceptconn(&fd) != Ok(listens) {
            if listens { "does not listen" } else { "listens" }
        } else if !self.sockets.insert(identity) {
            "came twice"
        } else {
            return Ok(fd);
        };
        Err(AdoptError::Unfit { role, reason })
    }
}
