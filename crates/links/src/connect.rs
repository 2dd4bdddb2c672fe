//! Making a connection.

use crate::{Address, Descriptors, LinkError, Stream};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_socket, socket_with,
    sockopt,
};
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Connects to `address`, or takes the descriptor that it names out of `given`. Name resolution is
/// the resolver's own affair and not covered by `timeout`.
///
/// # Errors
/// [`LinkError`]; nothing is left behind.
pub fn connect(
    address: &Address,
    timeout: Duration,
    given: &Descriptors,
) -> Result<Stream, LinkError> {
    match address {
        Address::Tcp { host, port } => tcp(address, host, *port, timeout),
        Address::Unix(path) => unix(address, path, timeout),
        Address::Fd(name) => Stream::given(address.clone(), name, take(name, given)?),
        Address::File(_) => Err(LinkError::Unfit {
            address: address.clone(),
            why: "a file has no other end to connect to",
        }),
    }
}

pub(crate) fn take(name: &str, given: &Descriptors) -> Result<OwnedFd, LinkError> {
    given.take(name).ok_or_else(|| LinkError::NoDescriptor { name: name.to_owned() })
}

fn tcp(address: &Address, host: &str, port: u16, timeout: Duration) -> Result<Stream, LinkError> {
    let resolve = |source| LinkError::Resolve { address: address.clone(), source };
    let deadline = Instant::now() + timeout;
    let mut last = None;
    // A name may stand for several addresses, and not all of them for somebody who listens.
    for target in (host, port).to_socket_addrs().map_err(resolve)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&target, left) {
            Ok(socket) => return Stream::tcp(address.clone(), socket.into()),
            Err(source) => last = Some(source),
        }
    }
    Err(match last {
        Some(source) if source.kind() != io::ErrorKind::TimedOut => {
            LinkError::Connect { address: address.clone(), source }
        }
        _ => LinkError::NoAnswer { address: address.clone(), timeout },
    })
}

fn unix(address: &Address, path: &Path, timeout: Duration) -> Result<Stream, LinkError> {
    let open = || -> rustix::io::Result<OwnedFd> {
        let to = SocketAddrUnix::new(path)?;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Where the listener's queue is full, this is how long connect(2) waits (unix(7)).
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(timeout))?;
        connect_socket(&socket, &to)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
        Ok(socket)
    };
    match open() {
        Ok(socket) => Ok(Stream::unix(address.clone(), socket)),
        Err(rustix::io::Errno::AGAIN) => {
            Err(LinkError::NoAnswer { address: address.clone(), timeout })
        }
        Err(errno) => Err(LinkError::Connect { address: address.clone(), source: errno.into() }),
    }
}
