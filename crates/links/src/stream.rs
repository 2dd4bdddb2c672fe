//! One connection.

use crate::{Address, LinkError};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketType, recv, send, shutdown,
};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice, WriteVolatile};

/// After this long without traffic the kernel asks whether the peer's host is still there, so that
/// an idle connection to a host that vanished ends.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// Bytes that the peer's host does not acknowledge for this long end the connection, in
/// milliseconds (tcp(7), `TCP_USER_TIMEOUT`). The engine's own stall limit comes long before.
const USER_TIMEOUT_MS: u32 = 30_000;

/// One connection: a byte stream in both directions.
///
/// I/O blocks. It ends with [`io::ErrorKind::TimedOut`] when nothing at all has moved for the
/// limit set, and with [`io::ErrorKind::ConnectionAborted`] once a [`Closer`] of this stream was
/// used. Clones are the same connection and share the limits; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Stream {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: OwnedFd,
    peer: Address,
    closed: AtomicBool,
    /// For messages only, in nanoseconds; 0 is none.
    read_limit: AtomicU64,
    write_limit: AtomicU64,
}

/// Ends a [`Stream`] from another thread.
#[derive(Debug, Clone)]
pub struct Closer(Arc<Shared>);

impl Closer {
    /// Shuts the connection down in both directions: I/O that waits ends with an error, and the
    /// peer sees the end of the stream.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        // A connection that is gone already needs no shutting down.
        let _ = shutdown(&self.0.socket, Shutdown::Both);
    }
}

impl Stream {
    fn new(peer: Address, socket: OwnedFd) -> Self {
        let shared = Shared {
            socket,
            peer,
            closed: AtomicBool::new(false),
            read_limit: AtomicU64::new(0),
            write_limit: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A connected TCP socket.
    pub(crate) fn tcp(peer: Address, socket: OwnedFd) -> Result<Self, LinkError> {
        let tune = || -> rustix::io::Result<()> {
            sockopt::set_tcp_nodelay(&socket, true)?;
            sockopt::set_socket_keepalive(&socket, true)?;
            sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
            sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
            sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
            sockopt::set_tcp_user_timeout(&socket, USER_TIMEOUT_MS)
        };
        match tune() {
            Ok(()) => Ok(Self::new(peer, socket)),
            Err(errno) => Err(LinkError::Connect { address: peer, source: errno.into() }),
        }
    }

    /// A connected Unix stream socket.
    pub(crate) fn unix(peer: Address, socket: OwnedFd) -> Self {
        Self::new(peer, socket)
    }

    /// A descriptor that somebody gave: it must be a connected stream socket.
    pub(crate) fn given(peer: Address, name: &str, socket: OwnedFd) -> Result<Self, LinkError> {
        let unfit =
            |why: &str| LinkError::UnfitDescriptor { name: name.to_owned(), why: why.to_owned() };
        if sockopt::socket_type(&socket).map_err(|_| unfit("it is no socket"))?
            != SocketType::STREAM
        {
            return Err(unfit("it is no stream socket"));
        }
        rustix::net::getpeername(&socket).map_err(|_| unfit("it is not connected"))?;
        // The limits rely on I/O that waits.
        rustix::io::ioctl_fionbio(&socket, false)
            .map_err(|errno| unfit(&format!("it cannot be made to wait: {errno}")))?;
        match sockopt::socket_domain(&socket) {
            Ok(AddressFamily::INET | AddressFamily::INET6) => Self::tcp(peer, socket),
            _ => Ok(Self::unix(peer, socket)),
        }
    }

    /// Two ends of one connection within this process.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = std::os::unix::net::UnixStream::pair()?;
        let here = |end: &str| Address::Fd(end.to_owned());
        Ok((Self::unix(here("pair-a"), a.into()), Self::unix(here("pair-b"), b.into())))
    }

    /// The other end, as far as it has a name.
    #[must_use]
    pub fn peer(&self) -> &Address {
        &self.shared.peer
    }

    /// Sets how long a read or write may go without moving a single byte. The limit holds for each
    /// wait; none is set on a new stream.
    ///
    /// # Errors
    /// When the limit is zero or the kernel cannot count so far.
    pub fn set_stall_limit(&self, limit: Duration) -> io::Result<()> {
        self.set_read_limit(Some(limit))?;
        self.set_write_limit(Some(limit))
    }

    /// The same for reads alone: some connections are idle by nature. `None` waits for ever.
    ///
    /// # Errors
    /// As of [`Stream::set_stall_limit`].
    pub fn set_read_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        set_limit(&self.shared.socket, Timeout::Recv, limit, &self.shared.read_limit)
    }

    /// The same for writes alone.
    ///
    /// # Errors
    /// As of [`Stream::set_stall_limit`].
    pub fn set_write_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        set_limit(&self.shared.socket, Timeout::Send, limit, &self.shared.write_limit)
    }

    /// What ends this connection from another thread.
    #[must_use]
    pub fn closer(&self) -> Closer {
        Closer(self.shared.clone())
    }

    /// Sends bytes that belong to what is sent next: they may wait for it, so that both travel
    /// together. Returns how many were taken.
    ///
    /// # Errors
    /// As of writing.
    pub fn write_more(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::MORE;
        self.write_result(send(&self.shared.socket, bytes, flags))
    }

    /// Holds back what does not fill a packet, for at most 200 ms, until this is taken back (tcp(7),
    /// `TCP_CORK`), so that several small writes wake the peer once. No-op on other sockets than TCP's.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn hold_back(&self, hold: bool) -> io::Result<()> {
        match sockopt::set_tcp_cork(&self.shared.socket, hold) {
            Err(Errno::OPNOTSUPP | Errno::NOPROTOOPT) => Ok(()),
            result => result.map_err(io::Error::from),
        }
    }

    fn read_result(&self, result: rustix::io::Result<usize>) -> io::Result<usize> {
        match result {
            Ok(0) if self.is_closed() => Err(self.aborted()),
            Ok(count) => Ok(count),
            Err(errno) => Err(self.failed(errno, "receiving from", &self.shared.read_limit)),
        }
    }

    fn write_result(&self, result: rustix::io::Result<usize>) -> io::Result<usize> {
        result.map_err(|errno| self.failed(errno, "sending to", &self.shared.write_limit))
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    fn aborted(&self) -> io::Error {
        let what = format!("the connection to {} was ended from this side", self.peer());
        io::Error::new(io::ErrorKind::ConnectionAborted, what)
    }

    fn failed(&self, errno: Errno, doing: &str, limit: &AtomicU64) -> io::Error {
        match errno {
            // The caller tries again, as with every reader and writer.
            Errno::INTR => errno.into(),
            _ if self.is_closed() => self.aborted(),
            Errno::AGAIN => {
                let limit = Duration::from_nanos(limit.load(Ordering::Relaxed));
                let what = format!(
                    "{doing} {} stalled: not a byte moved in {limit:?}; the peer or the network \
                     hangs",
                    self.peer()
                );
                io::Error::new(io::ErrorKind::TimedOut, what)
            }
            _ => {
                let error = io::Error::from(errno);
                io::Error::new(error.kind(), format!("{doing} {} failed: {error}", self.peer()))
            }
        }
    }
}

fn set_limit(
    socket: &OwnedFd,
    which: Timeout,
    limit: Option<Duration>,
    shown: &AtomicU64,
) -> io::Result<()> {
    sockopt::set_socket_timeout(socket, which, limit)?;
    let nanos = limit.map_or(0, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    shown.store(nanos, Ordering::Relaxed);
    Ok(())
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.socket.as_fd()
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let result = recv(&self.shared.socket, buffer, RecvFlags::empty()).map(|(n, _)| n);
        self.read_result(result)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_result(send(&self.shared.socket, bytes, SendFlags::NOSIGNAL))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ReadVolatile for Stream {
    /// Receives straight into guest memory.
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buffer: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let result = system(self.as_fd().read_volatile(buffer))?;
        self.read_result(result).map_err(VolatileMemoryError::IOError)
    }
}

impl WriteVolatile for &Stream {
    /// Sends straight from guest memory. A peer that is gone is an error and no signal because the
    /// runtime of Rust ignores SIGPIPE.
    fn write_volatile<B: BitmapSlice>(
        &mut self,
        buffer: &VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        let result = system(self.as_fd().write_volatile(buffer))?;
        self.write_result(result).map_err(VolatileMemoryError::IOError)
    }
}

/// Takes what the system said apart from what went wrong before it was called.
fn system(
    result: Result<usize, VolatileMemoryError>,
) -> Result<rustix::io::Result<usize>, VolatileMemoryError> {
    match result {
        Ok(count) => Ok(Ok(count)),
        Err(VolatileMemoryError::IOError(error)) => match error.raw_os_error() {
            Some(raw) => Ok(Err(Errno::from_raw_os_error(raw))),
            None => Err(VolatileMemoryError::IOError(error)),
        },
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests;
