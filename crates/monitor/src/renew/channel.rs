//! The way on which a process gives its descriptors to another.
//!
//! A Unix stream socket. Each message is a header (kind, length and number of descriptors, as `u32` in
//! little-endian order), then the descriptors in groups of up to [`AT_ONCE`], each group with one byte
//! of zero, then the content. Specified in `docs/live-update.md`.

use rustix::io::Errno;
use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, recvmsg, sendmsg, socket_with, socketpair,
};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Descriptors that go with one byte; the kernel takes no more than 253.
const AT_ONCE: usize = 64;
/// Descriptors of one message: more than a process has by default.
const MOST_DESCRIPTORS: u32 = 4096;
/// A process may be seen to have made its socket, and listens there so much later at the latest.
const LISTENING: Duration = Duration::from_millis(500);
/// Bytes of one message.
const MOST_BYTES: u32 = 64 << 20;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Old to new: what machine it is, and what is needed to build it.
    Outset = 1,
    /// New to old: who it is; it goes on with the motion.
    Welcome = 2,
    /// New to old: it cannot, and why.
    Refused = 3,
    /// Old to new, right before the guest stops: everything else.
    Ahead = 4,
    /// New to old: it has all of that.
    Prepared = 5,
    /// Old to new, when the guest runs there: how it went.
    Report = 6,
    /// New to old: it serves everybody, and whoever supervises has been told.
    Taken = 7,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Outset,
        Self::Welcome,
        Self::Refused,
        Self::Ahead,
        Self::Prepared,
        Self::Report,
        Self::Taken,
    ];
}

/// One message.
#[derive(Debug)]
pub(super) struct Letter {
    pub kind: Kind,
    pub content: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

/// The channel to the other process.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Both ends of one.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (here, there) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok((Self(here), there))
    }

    /// The one of a process that waits there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let until = Instant::now() + LISTENING;
        loop {
            match retry(|| connect(&socket, &address)) {
                Err(e)
                    if e.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < until =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result.map(|()| Self(socket)),
            }
        }
    }

    /// One that is connected already.
    pub fn over(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Its socket.
    pub fn into_inner(self) -> OwnedFd {
        self.0
    }

    /// Sends a message, which may wait for the other process no longer than this.
    pub fn send(
        &self,
        kind: Kind,
        content: &[u8],
        descriptors: &[impl AsFd],
        limit: Duration,
    ) -> io::Result<()> {
        set_socket_timeout(&self.0, Timeout::Send, Some(limit))?;
        let too_much = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let length = u32::try_from(content.len()).ok().filter(|length| *length <= MOST_BYTES);
        let length = length.ok_or_else(|| too_much("more bytes than a message may have"))?;
        let count = u32::try_from(descriptors.len()).ok().filter(|n| *n <= MOST_DESCRIPTORS);
        let count = count.ok_or_else(|| too_much("more descriptors than a message may have"))?;
        let mut header = Vec::with_capacity(12);
        for number in [kind as u32, length, count] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        self.write(&header)?;
        for group in descriptors.chunks(AT_ONCE) {
            let group: Vec<_> = group.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&group)) {
                return Err(too_much("descriptors do not fit into a message"));
            }
            retry(|| sendmsg(&self.0, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL))?;
        }
        self.write(content)
    }

    /// The next message, which may take no longer than this. `None` when the other process has closed
    /// its end.
    pub fn receive(&self, limit: Duration) -> io::Result<Option<Letter>> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(limit))?;
        let mut header = [0; 12];
        if !self.read(&mut header)? {
            return Ok(None);
        }
        let number = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_le_bytes(bytes)
        };
        let (kind, length, count) = (number(0), number(4), number(8));
        let kind = Kind::ALL
            .into_iter()
            .find(|known| *known as u32 == kind)
            .ok_or_else(|| wrong(format!("a message of an unknown kind, {kind}")))?;
        if length > MOST_BYTES || count > MOST_DESCRIPTORS {
            return Err(wrong(format!("a message of {length} bytes and {count} descriptors")));
        }
        let mut descriptors = Vec::new();
        let mut left = usize::try_from(count).map_err(io::Error::other)?;
        while left > 0 {
            let group = left.min(AT_ONCE);
            descriptors.extend(self.take(group)?);
            left -= group;
        }
        let mut content = Vec::new();
        let mut left = usize::try_from(length).map_err(io::Error::other)?;
        let mut buffer = vec![0; left.min(64 << 10)];
        while left > 0 {
            let part = left.min(buffer.len());
            if !self.read(&mut buffer[..part])? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            content.extend_from_slice(&buffer[..part]);
            left -= part;
        }
        Ok(Some(Letter { kind, content, descriptors }))
    }

    /// Exactly so many descriptors, which came with one byte.
    fn take(&self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = retry(|| {
            let flags = RecvFlags::CMSG_CLOEXEC;
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)
        })?;
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            let why = "this process may open no more descriptors";
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
        }
        match (received.bytes, descriptors.len()) {
            (1, found) if found == count => Ok(descriptors),
            (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
            (_, found) => Err(wrong(format!("{found} descriptors where there should be {count}"))),
        }
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = retry(|| rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL))?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Fills `bytes`. `false` when there was nothing at all, and nothing will come.
    fn read(&self, bytes: &mut [u8]) -> io::Result<bool> {
        let mut at = 0;
        while at < bytes.len() {
            match retry(|| rustix::io::read(&self.0, &mut bytes[at..]))? {
                0 if at == 0 => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => at += read,
            }
        }
        Ok(true)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let why = "the other process has not answered in time";
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            result => return result.map_err(Into::into),
        }
    }
}

fn wrong(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the other process sent {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Seek, Write};

    const SOON: Duration = Duration::from_secs(20);

    fn pair() -> (Channel, Channel) {
        let (here, there) = Channel::pair().unwrap();
        (here, Channel::over(there))
    }

    #[test]
    fn messages_come_whole_and_in_order_with_their_descriptors() {
        let (old, new) = pair();
        let files: Vec<File> = (0..150u64)
            .map(|number| {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&vec![0; usize::try_from(number).unwrap()]).unwrap();
                file
            })
            .collect();
        let long = vec![7; 3 << 20];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                old.send(Kind::Outset, b"first", &files, SOON).unwrap();
                old.send(Kind::Ahead, &long, &files[..1], SOON).unwrap();
                old.send(Kind::Report, b"", &[] as &[File], SOON).unwrap();
            });
            let first = new.receive(SOON).unwrap().unwrap();
            assert_eq!((first.kind, &first.content[..]), (Kind::Outset, &b"first"[..]));
            assert_eq!(first.descriptors.len(), 150);
            for (number, file) in first.descriptors.into_iter().enumerate() {
                let mut file = File::from(file);
                assert_eq!(file.seek(io::SeekFrom::End(0)).unwrap(), number as u64);
            }
            let second = new.receive(SOON).unwrap().unwrap();
            assert_eq!((second.kind, second.descriptors.len()), (Kind::Ahead, 1));
            assert!(second.content == long);
            assert_eq!(new.receive(SOON).unwrap().unwrap().kind, Kind::Report);
        });
        drop(old);
        assert!(new.receive(SOON).unwrap().is_none());
    }

    #[test]
    fn silence_and_nonsense_are_errors() {
        let (old, new) = pair();
        let error = new.receive(Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        for (kind, length, count) in [(99, 0, 0), (1, u32::MAX, 0), (1, 0, u32::MAX), (1, 0, 1)] {
            let (old, new) = pair();
            for number in [kind, length, count] {
                old.write(&u32::to_le_bytes(number)).unwrap();
            }
            old.write(&[0]).unwrap();
            assert_eq!(new.receive(SOON).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        old.write(&[1, 0]).unwrap();
        drop(old);
        assert_eq!(new.receive(SOON).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
