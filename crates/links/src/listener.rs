//! Accepting connections.

use crate::connect::take;
use crate::wake::poll_until;
use crate::{Address, Descriptors, LinkError, Stream, Waker};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, fchmod, lstat, unlink};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with, sockopt,
};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Accepts connections.
#[derive(Debug)]
pub struct Listener {
    address: Address,
    source: Source,
    closed: Waker,
    /// The file of a Unix socket that was bound here.
    file: Option<Arc<SocketFile>>,
}

#[derive(Debug)]
enum Source {
    Tcp(OwnedFd),
    Unix(OwnedFd),
    /// Connections that were given are accepted once each; the waker stays readable until then.
    Given {
        streams: Mutex<VecDeque<Stream>>,
        waiting: Waker,
    },
}

impl Listener {
    /// Listens on `address`, or on what the descriptor that it names out of `given` is: a listening
    /// socket, or one that is connected already. Beside a connected one, `NAME-0`, `NAME-1`, … are
    /// further connections, as far as they were given.
    ///
    /// A Unix socket is made readable and writable for its owner only, removed again with the
    /// listener, and takes the place of one that a dead process has left behind.
    ///
    /// # Errors
    /// [`LinkError`]; nothing is left behind.
    pub fn bind(address: &Address, given: &Descriptors) -> Result<Self, LinkError> {
        let failed = |source| LinkError::Listen { address: address.clone(), source };
        let closed = Waker::new().map_err(failed)?;
        let mut file = None;
        let (address, source) = match address {
            Address::Tcp { host, port } => {
                let targets: Vec<SocketAddr> = (host.as_str(), *port)
                    .to_socket_addrs()
                    .map_err(|source| LinkError::Resolve { address: address.clone(), source })?
                    .collect();
                // Sets SO_REUSEADDR, so that an old connection in TIME_WAIT does not matter.
                let socket = TcpListener::bind(&targets[..]).map_err(failed)?;
                // Else a client that hangs up between poll and accept would leave us waiting.
                socket.set_nonblocking(true).map_err(failed)?;
                let bound = socket.local_addr().map_err(failed)?;
                (bound.into(), Source::Tcp(socket.into()))
            }
            Address::Unix(path) => {
                let socket = bind_unix(path).map_err(failed)?;
                file = Some(Arc::new(SocketFile::of(path).map_err(failed)?));
                (address.clone(), Source::Unix(socket))
            }
            Address::Fd(name) => (address.clone(), adopt(address, name, given)?),
            Address::File(_) => {
                let why = "a file has no other end that could connect";
                return Err(LinkError::Unfit { address: address.clone(), why });
            }
        };
        Ok(Self { address, source, closed, file })
    }

    /// Where it listens, with the port that the kernel chose.
    #[must_use]
    pub fn local_address(&self) -> &Address {
        &self.address
    }

    /// The file of the Unix socket that it listens on, if it has made one. It goes with the listener;
    /// who ends a process in which the listener lives on has to remove it.
    #[must_use]
    pub fn file(&self) -> Option<Arc<SocketFile>> {
        self.file.clone()
    }

    /// Waits for the next connection. `None` when none came within `timeout`; without a timeout it
    /// waits until it is closed.
    ///
    /// # Errors
    /// [`LinkError::Closed`] after [`Listener::close`], [`LinkError::Accept`] when the process is
    /// short of something; later calls may then succeed.
    pub fn accept(&self, timeout: Option<Duration>) -> Result<Option<Stream>, LinkError> {
        let failed = |source| LinkError::Accept { address: self.address.clone(), source };
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let mut polled = [self.closed.as_fd(), self.as_fd()]
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            poll_until(&mut polled, deadline).map_err(failed)?;
            if !polled[0].revents().is_empty() {
                return Err(LinkError::Closed { address: self.address.clone() });
            }
            if polled[1].revents().is_empty() {
                return Ok(None);
            }
            match self.take_next() {
                // It hung up again before it was accepted, or another thread was faster.
                Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
                Ok(stream) => return stream.map(Some),
            }
        }
    }

    /// Ends all waiting in [`Listener::accept`], now and later.
    pub fn close(&self) {
        self.closed.wake();
    }

    fn take_next(&self) -> rustix::io::Result<Result<Stream, LinkError>> {
        match &self.source {
            Source::Tcp(socket) => {
                let (connected, peer) = rustix::net::acceptfrom_with(socket, SocketFlags::CLOEXEC)?;
                let peer = peer
                    .and_then(|peer| SocketAddr::try_from(peer).ok())
                    .map_or_else(|| self.address.clone(), Address::from);
                Ok(Stream::tcp(peer, connected))
            }
            Source::Unix(socket) => {
                let connected = accept_with(socket, SocketFlags::CLOEXEC)?;
                Ok(Ok(Stream::unix(self.address.clone(), connected)))
            }
            Source::Given { streams, waiting } => {
                let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
                let next = streams.pop_front();
                if streams.is_empty() {
                    waiting.reset();
                }
                next.map(Ok).ok_or(Errno::AGAIN)
            }
        }
    }
}

impl AsFd for Listener {
    /// Readable when a connection waits to be accepted.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Tcp(socket) | Source::Unix(socket) => socket.as_fd(),
            Source::Given { waiting, .. } => waiting.as_fd(),
        }
    }
}

fn adopt(address: &Address, name: &str, given: &Descriptors) -> Result<Source, LinkError> {
    let failed = |source: io::Error| LinkError::Listen { address: address.clone(), source };
    let socket = take(name, given)?;
    if !sockopt::socket_acceptconn(&socket).unwrap_or(false) {
        let mut streams = VecDeque::from([Stream::given(address.clone(), name, socket)?]);
        for index in 0.. {
            let name = format!("{name}-{index}");
            let Some(socket) = given.take(&name) else { break };
            streams.push_back(Stream::given(Address::Fd(name.clone()), &name, socket)?);
        }
        let waiting = Waker::new().map_err(failed)?;
        waiting.wake();
        return Ok(Source::Given { streams: Mutex::new(streams), waiting });
    }
    rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| failed(errno.into()))?;
    match sockopt::socket_domain(&socket) {
        Ok(AddressFamily::INET | AddressFamily::INET6) => Ok(Source::Tcp(socket)),
        Ok(AddressFamily::UNIX) => Ok(Source::Unix(socket)),
        _ => Err(LinkError::UnfitDescriptor {
            name: name.to_owned(),
            why: "it listens, but neither for TCP nor on a Unix socket".into(),
        }),
    }
}

fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    let at = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before it is bound this is the mode that its file gets, so there is no moment at which
    // others could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    match bind(&socket, &at) {
        Err(Errno::ADDRINUSE) if is_stale(path)? => {
            tracing::info!(path = %path.display(), "removing the socket of a dead process");
            unlink(path)?;
            bind(&socket, &at)?;
        }
        other => other?,
    }
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether `path` is a socket that nobody listens on. A listener that is alive sees a connection
/// that ends at once.
fn is_stale(path: &Path) -> io::Result<bool> {
    if FileType::from_raw_mode(lstat(path)?.st_mode) != FileType::Socket {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file of that name that is no socket",
        ));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(connect(&probe, &SocketAddrUnix::new(path)?) == Err(Errno::CONNREFUSED))
}

/// The file of a Unix socket, removed when dropped unless another one has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let stat = lstat(path)?;
        // The process may change its folder before the file is removed.
        Ok(Self { path: std::path::absolute(path)?, device: stat.st_dev, inode: stat.st_ino })
    }
}

impl SocketFile {
    /// Removes it, unless another one has taken its place.
    pub fn remove(&self) {
        let ours = lstat(&self.path)
            .is_ok_and(|stat| stat.st_dev == self.device && stat.st_ino == self.inode);
        if ours && let Err(errno) = unlink(&self.path) {
            tracing::warn!(path = %self.path.display(), %errno, "cannot remove a socket");
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests;
