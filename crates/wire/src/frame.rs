//! Framing: every message is a header of eight bytes and a body.

use crate::Message;
use std::io::{self, Read, Write};

/// What a frame holds. The numbers are on the wire and never used again for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// First frame of a connection, from the source.
    Hello = 1,
    /// Its answer.
    Welcome = 2,
    /// Its other answer, and that to a description.
    Refused = 3,
    /// What machine is to come.
    Describe = 4,
    /// The machine can be had here.
    Accepted = 5,
    /// Pages of RAM; their contents follow the frame.
    Pages = 6,
    /// No more pages of this pass on this connection.
    PassEnd = 7,
    /// All pages of the pass, from all connections, are in RAM.
    PassDone = 8,
    /// Everything of the machine but its RAM.
    State = 9,
    /// The destination could run the guest.
    Ready = 10,
    /// The guest is the destination's.
    Commit = 11,
    /// The destination runs the guest.
    Running = 12,
    /// The source keeps the guest.
    Abort = 13,
    /// What became of a token?
    Query = 14,
    /// The answer to it.
    Answer = 15,
    /// Are you there?
    Ping = 16,
    /// The answer to it.
    Pong = 17,
    /// The sender's side of the motion failed.
    Failed = 18,
}

impl Kind {
    const ALL: [Self; 18] = [
        Self::Hello,
        Self::Welcome,
        Self::Refused,
        Self::Describe,
        Self::Accepted,
        Self::Pages,
        Self::PassEnd,
        Self::PassDone,
        Self::State,
        Self::Ready,
        Self::Commit,
        Self::Running,
        Self::Abort,
        Self::Query,
        Self::Answer,
        Self::Ping,
        Self::Pong,
        Self::Failed,
    ];

    /// The longest body that a frame of this kind may have, in bytes.
    #[must_use]
    pub const fn longest(self) -> u32 {
        match self {
            // CPUID, MSRs and XSAVE areas of 64 vCPUs stay below 2 MiB.
            Self::Describe | Self::State => 16 << 20,
            Self::Refused => 1 << 20,
            Self::Pages => crate::pages::LONGEST_HEADER,
            Self::Hello | Self::Welcome | Self::Accepted | Self::Failed => 64 << 10,
            _ => 256,
        }
    }
}

/// What is read of a body at once, in bytes: a length that lies costs no more.
const PIECE: usize = 64 << 10;

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection was closed between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// The connection failed or was closed within a frame.
    #[error("reading from the peer: {0}")]
    Io(#[from] io::Error),
    /// The peer does not speak this protocol.
    #[error("the peer does not speak Whimbrel's protocol")]
    NotWhimbrel,
    /// A kind of frame that this build does not know.
    #[error("the peer sent a frame of kind {0}, which this version does not know")]
    UnknownKind(u16),
    /// Reserved bytes that are not zero.
    #[error("the peer sent a frame with reserved bits set")]
    Reserved,
    /// Longer than such a frame can be.
    #[error("the peer announced a {kind:?} frame of {length} bytes; at most {longest} are allowed")]
    TooLong {
        /// What it was to be.
        kind: Kind,
        /// Its announced length in bytes.
        length: u32,
        /// What is allowed, in bytes.
        longest: u32,
    },
    /// The body is not what its kind says.
    #[error("the peer sent a malformed {kind:?} frame: {reason}")]
    Malformed {
        /// What it was to be.
        kind: Kind,
        /// What is wrong with it.
        reason: String,
    },
    /// A sound frame in the wrong place.
    #[error("the peer sent {got:?} where {expected} was expected")]
    Unexpected {
        /// What came.
        got: Kind,
        /// What should have come.
        expected: &'static str,
    },
}

impl FrameError {
    /// Whether the peer was silent for too long, rather than gone or wrong.
    #[must_use]
    pub fn is_stall(&self) -> bool {
        matches!(self, Self::Io(e)
            if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock))
    }

    /// Whether the connection is at fault, and not what came over it.
    #[must_use]
    pub fn is_link(&self) -> bool {
        matches!(self, Self::Closed | Self::Io(_))
    }
}

/// The header of a frame: length of the body (4 bytes), kind (2), reserved (2), little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the body holds.
    pub kind: Kind,
    /// Length of the body in bytes.
    pub length: u32,
}

impl Header {
    /// Length of a header in bytes.
    pub const SIZE: usize = 8;

    /// The header as it stands on the wire.
    #[must_use]
    pub fn encode(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..6].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes
    }

    /// Reads a header and checks that such a frame may exist.
    ///
    /// # Errors
    /// [`FrameError`] for an unknown kind, reserved bits, or a body that is too long.
    pub fn decode(bytes: [u8; Self::SIZE]) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, k0, k1, reserved @ ..] = bytes;
        let number = u16::from_le_bytes([k0, k1]);
        let kind = Kind::ALL
            .into_iter()
            .find(|k| *k as u16 == number)
            .ok_or(FrameError::UnknownKind(number))?;
        if reserved != [0; 2] {
            return Err(FrameError::Reserved);
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let longest = kind.longest();
        if length > longest {
            return Err(FrameError::TooLong { kind, length, longest });
        }
        Ok(Self { kind, length })
    }

    /// Reads a header from a stream.
    ///
    /// # Errors
    /// [`FrameError::Closed`] when the stream ends before its first byte, or what is wrong.
    pub fn read(from: &mut impl Read) -> Result<Self, FrameError> {
        let mut bytes = [0; Self::SIZE];
        let mut filled = 0;
        while filled < bytes.len() {
            match from.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return Err(FrameError::Closed),
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Self::decode(bytes)
    }

    /// Reads the body that belongs to this header. What is allocated follows what has come, and is
    /// bounded by [`Kind::longest`].
    ///
    /// # Errors
    /// [`FrameError::Io`] when the stream ends or fails.
    pub fn read_body(self, from: &mut impl Read) -> Result<Vec<u8>, FrameError> {
        let length = usize::try_from(self.length).map_err(io::Error::other)?;
        let mut body = Vec::new();
        while body.len() < length {
            let come = body.len();
            body.resize(length.min(come + PIECE), 0);
            from.read_exact(&mut body[come..])?;
        }
        Ok(body)
    }
}

/// Reads one message of one of these kinds. The body of any other is not even looked at.
///
/// # Errors
/// [`FrameError`]; its `Unexpected` says `expected`.
pub fn read_expected(
    from: &mut impl Read,
    kinds: &[Kind],
    expected: &'static str,
) -> Result<Message, FrameError> {
    let header = Header::read(from)?;
    if !kinds.contains(&header.kind) {
        return Err(FrameError::Unexpected { got: header.kind, expected });
    }
    let body = header.read_body(from)?;
    Message::decode(header.kind, &body)
}

/// Reads one message. Pages are not a message: who expects them reads the header itself.
///
/// # Errors
/// [`FrameError`].
pub fn read_message(from: &mut impl Read) -> Result<Message, FrameError> {
    let header = Header::read(from)?;
    if header.kind == Kind::Pages {
        return Err(FrameError::Unexpected { got: Kind::Pages, expected: "a message" });
    }
    let body = header.read_body(from)?;
    Message::decode(header.kind, &body)
}

/// Writes one message, as a single write.
///
/// # Errors
/// What the stream said.
pub fn write_message(to: &mut impl Write, message: &Message) -> io::Result<()> {
    to.write_all(&message.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_is_read_as_it_is_specified() {
        for number in 0..=u16::MAX {
            let kind = Kind::ALL.into_iter().find(|kind| *kind as u16 == number);
            let longest = kind.map_or(0, Kind::longest);
            for length in [0, 1, longest, longest.wrapping_add(1), 1 << 31, u32::MAX] {
                for reserved in [0u16, 1, 0x8000, u16::MAX] {
                    let mut bytes = [0; Header::SIZE];
                    bytes[..4].copy_from_slice(&length.to_le_bytes());
                    bytes[4..6].copy_from_slice(&number.to_le_bytes());
                    bytes[6..].copy_from_slice(&reserved.to_le_bytes());
                    let sound = kind.filter(|_| length <= longest && reserved == 0);
                    let read = Header::decode(bytes);
                    assert_eq!(read.as_ref().ok().map(|header| header.kind), sound);
                    if let Ok(header) = read {
                        assert_eq!(header.encode(), bytes);
                    }
                }
            }
        }
    }

    #[test]
    fn a_message_that_is_not_expected_is_not_read() {
        let bytes = Message::Ping(1).encode();
        let mut rest = &bytes[..];
        let read = read_expected(&mut rest, &[Kind::Hello, Kind::Pong], "a greeting");
        let got = Kind::Ping;
        assert!(matches!(read, Err(FrameError::Unexpected { got: g, .. }) if g == got));
        assert_eq!(rest.len(), bytes.len() - Header::SIZE, "its body stays where it is");
        let read = read_expected(&mut &bytes[..], &[Kind::Ping], "a ping");
        assert_eq!(read.unwrap(), Message::Ping(1));
    }
}
