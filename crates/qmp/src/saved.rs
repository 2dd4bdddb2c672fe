//! What a server is while it is carried from one process to another.
//!
//! Beside it go descriptors, in the order of [`SavedServer::descriptors`].

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use minicbor::{Decode, Encode};

/// Which file a descriptor is open on, whatever its number and in whichever process: a descriptor
/// that took another's place is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct Identity {
    /// Device number of the file (`st_dev`).
    #[n(0)]
    pub device: u64,
    /// Its inode (`st_ino`).
    #[n(1)]
    pub inode: u64,
}

impl Identity {
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self::from(&rustix::fs::fstat(fd)?))
    }
}

impl From<&rustix::fs::Stat> for Identity {
    fn from(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// A server, its clients, and what they have passed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedServer {
    /// The sockets that it listens on.
    #[n(0)]
    pub listeners: Vec<SavedListener>,
    /// Its clients, in the order in which they came.
    #[n(1)]
    pub clients: Vec<SavedClient>,
    /// Sets of descriptors (`add-fd`), by number.
    #[n(2)]
    pub sets: Vec<SavedSet>,
}

impl state::Saved for SavedServer {
    const SCHEMA: &'static str = "whimbrel.qmp";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedListener {
    /// Where it was bound, as bytes.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub path: Vec<u8>,
    /// The file there, which is to be removed at the end unless another has taken its place.
    /// Absent if it was not there to be looked at.
    #[n(1)]
    pub file: Option<Identity>,
    /// The socket.
    #[n(2)]
    pub socket: Identity,
}

/// A client and how far its conversation has come.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedClient {
    /// Its socket.
    #[n(0)]
    pub socket: Identity,
    /// Whether capabilities were negotiated.
    #[n(1)]
    pub negotiated: bool,
    /// Whether `exec-oob` was.
    #[n(2)]
    pub oob: bool,
    /// What was read of it and not taken as a command.
    #[n(3)]
    pub input: SavedInput,
    /// What it is to be told and has not taken.
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub output: Vec<u8>,
    /// Whether it has said that it sends no more.
    #[n(5)]
    pub end_of_input: bool,
    /// Whether no more commands are taken from it.
    #[n(6)]
    pub input_done: bool,
    /// Whether it has said that it takes no more.
    #[n(7)]
    pub deaf: bool,
    /// Whether it left more unread than it may, and is to be closed.
    #[n(8)]
    pub overflowed: bool,
    /// Descriptors that it has sent and no command has claimed, oldest first.
    #[n(9)]
    pub unclaimed: Vec<SavedUnclaimed>,
    /// Descriptors that it has named with `getfd`, by name.
    #[n(10)]
    pub named: Vec<SavedNamed>,
}

/// Bytes that were read from a client: perhaps whole commands, perhaps the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedInput {
    /// The bytes.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
    /// How many bytes of the client came before them.
    #[n(1)]
    pub position: u64,
    /// How many bytes of the client came before the line that they belong to.
    #[n(2)]
    pub line: u64,
}

/// A descriptor that no command has claimed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedUnclaimed {
    /// How many bytes of the client had come when it had come.
    #[n(0)]
    pub end: u64,
    /// The descriptor.
    #[n(1)]
    pub descriptor: Identity,
}

/// A descriptor that a client has named.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedNamed {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// The descriptor.
    #[n(1)]
    pub descriptor: Identity,
}

/// A set of descriptors that stand for one file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedSet {
    /// Its number, as in `/dev/fdset/N`.
    #[n(0)]
    pub number: u32,
    /// What is in it, in the order in which it was added.
    #[n(1)]
    pub members: Vec<SavedMember>,
}

/// A descriptor in a set.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedMember {
    /// What clients call it by (`fd` in `remove-fd` and `query-fdsets`), whatever its number is in
    /// the process that has it.
    #[n(0)]
    pub number: i32,
    /// What the client wanted to remember.
    #[n(1)]
    pub opaque: Option<String>,
    /// The descriptor.
    #[n(2)]
    pub descriptor: Identity,
}

/// What a descriptor is to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Listens.
    Listener {
        /// Where.
        path: PathBuf,
    },
    /// The connection of a client.
    Client {
        /// Which of [`SavedServer::clients`].
        client: usize,
    },
    /// Was sent by a client, and has not been claimed by a command.
    Unclaimed {
        /// Which of [`SavedServer::clients`].
        client: usize,
    },
    /// Was named by a client.
    Named {
        /// Which of [`SavedServer::clients`].
        client: usize,
        /// Its name.
        name: String,
    },
    /// Is in a set.
    SetMember {
        /// The set's number.
        set: u32,
        /// What clients call the descriptor by.
        name: i32,
    },
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener { path } => write!(f, "the control socket {}", path.display()),
            Self::Client { client } => write!(f, "the connection of QMP client {client}"),
            Self::Unclaimed { client } => {
                write!(f, "a descriptor that QMP client {client} has sent")
            }
            Self::Named { client, name } => {
                write!(f, "the descriptor `{name}` of QMP client {client}")
            }
            Self::SetMember { set, name } => write!(f, "descriptor {name} of /dev/fdset/{set}"),
        }
    }
}

impl SavedListener {
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(&self.path))
    }
}

impl SavedServer {
    /// What each descriptor is that goes with it, in the order in which they go: the listeners; of
    /// each client its connection, what is unclaimed, and what is named; the sets.
    #[must_use]
    pub fn descriptors(&self) -> Vec<(Role, Identity)> {
        let Self { listeners, clients, sets } = self;
        let listeners = listeners
            .iter()
            .map(|listener| (Role::Listener { path: listener.path() }, listener.socket));
        let clients = clients.iter().enumerate().flat_map(|(client, saved)| {
            let unclaimed =
                saved.unclaimed.iter().map(move |one| (Role::Unclaimed { client }, one.descriptor));
            let named = saved
                .named
                .iter()
                .map(move |one| (Role::Named { client, name: one.name.clone() }, one.descriptor));
            std::iter::once((Role::Client { client }, saved.socket)).chain(unclaimed).chain(named)
        });
        let sets = sets.iter().flat_map(|set| {
            set.members.iter().map(|member| {
                (Role::SetMember { set: set.number, name: member.number }, member.descriptor)
            })
        });
        listeners.chain(clients).chain(sets).collect()
    }
}
