//! The messages. Bodies are CBOR maps with numbered fields: a newer peer may add optional ones.

use crate::{FrameError, Header, Hello, Kind, Welcome};
use minicbor::{Decode, Encode};
use state::{Code, Refusal};

/// Names one handover: random, chosen by the source.
pub type Token = [u8; 16];

/// What machine is to come, and how.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Describe {
    /// The machine's description: a [`state::Bundle`], encoded.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub description: Vec<u8>,
    /// How many data connections will come.
    #[n(1)]
    pub connections: u16,
    /// Only a question: nothing will come.
    #[n(2)]
    pub check_only: bool,
    /// Names the handover that the motion will end in.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub token: Token,
}

/// Everything of the machine but its RAM.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct State {
    /// The machine's state: a [`state::Bundle`], encoded.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub state: Vec<u8>,
    /// Whether the guest is to run after the move; otherwise it was stopped before and stays so.
    #[n(1)]
    pub run: bool,
    /// Pages sent with contents in all passes: what the destination must have received.
    #[n(2)]
    pub data_pages: u64,
    /// Pages sent as zero in all passes.
    #[n(3)]
    pub zero_pages: u64,
}

/// The end of a pass on one connection, with what was sent there in this pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PassEnd {
    /// Which pass, from 1.
    #[n(0)]
    pub pass: u32,
    /// Pages sent with contents.
    #[n(1)]
    pub data_pages: u64,
    /// Pages sent as zero.
    #[n(2)]
    pub zero_pages: u64,
}

/// The destination could run the guest: everything was loaded and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ready {
    /// The handover.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub token: Token,
    /// What loading the state took, in nanoseconds of the destination's clock.
    #[n(1)]
    pub restore: u64,
}

/// The destination runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Running {
    /// The handover.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub token: Token,
    /// From COMMIT's arrival to the vCPUs running, in nanoseconds of the destination's clock.
    #[n(1)]
    pub start: u64,
    /// From COMMIT's arrival to this message's departure, by the same clock. The vCPUs run in part of
    /// it: a processor may be theirs before this is said.
    #[n(2)]
    pub held: u64,
}

/// What became of a token, as far as the one who is asked knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Verdict {
    /// The destination owns the guest.
    #[n(0)]
    Committed,
    /// It never did and never will.
    #[n(1)]
    Refused,
    /// No record decides it.
    #[n(2)]
    Unknown,
}

/// The messages of the handover that are only a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Handover {
    /// The handover.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub token: Token,
    /// Only in answers.
    #[n(1)]
    pub verdict: Option<Verdict>,
}

/// The sender's side failed; the guest is the source's.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Failed {
    /// The machine-readable reason.
    #[n(0)]
    pub code: Code,
    /// The reason for a person.
    #[n(1)]
    pub why: String,
}

/// Everything that is said, apart from pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// [`Kind::Hello`].
    Hello(Hello),
    /// [`Kind::Welcome`].
    Welcome(Welcome),
    /// [`Kind::Refused`].
    Refused(Vec<Refusal>),
    /// [`Kind::Describe`].
    Describe(Describe),
    /// [`Kind::Accepted`], with what saving and loading the state took in the destination's
    /// rehearsal, in nanoseconds.
    Accepted {
        /// Saving it.
        save: u64,
        /// Loading it.
        restore: u64,
    },
    /// [`Kind::PassEnd`].
    PassEnd(PassEnd),
    /// [`Kind::PassDone`].
    PassDone(u32),
    /// [`Kind::State`].
    State(State),
    /// [`Kind::Ready`].
    Ready(Ready),
    /// [`Kind::Commit`].
    Commit(Token),
    /// [`Kind::Running`].
    Running(Running),
    /// [`Kind::Abort`].
    Abort(Token),
    /// [`Kind::Query`].
    Query(Token),
    /// [`Kind::Answer`].
    Answer(Token, Verdict),
    /// [`Kind::Ping`], numbered.
    Ping(u64),
    /// [`Kind::Pong`], with the number of the ping and the bytes of pages received so far.
    Pong(u64, u64),
    /// [`Kind::Failed`].
    Failed(Failed),
}

fn cbor<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("writing to a Vec does not fail")
}

fn parse<'b, T: Decode<'b, ()>>(kind: Kind, body: &'b [u8]) -> Result<T, FrameError> {
    let malformed = |reason: String| FrameError::Malformed { kind, reason };
    let mut decoder = minicbor::Decoder::new(body);
    let value = decoder.decode().map_err(|e| malformed(e.to_string()))?;
    if decoder.position() == body.len() {
        Ok(value)
    } else {
        Err(malformed("bytes after its end".to_owned()))
    }
}

impl Message {
    /// The kind of frame that carries it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Welcome(_) => Kind::Welcome,
            Self::Refused(_) => Kind::Refused,
            Self::Describe(_) => Kind::Describe,
            Self::Accepted { .. } => Kind::Accepted,
            Self::PassEnd(_) => Kind::PassEnd,
            Self::PassDone(_) => Kind::PassDone,
            Self::State(_) => Kind::State,
            Self::Ready(_) => Kind::Ready,
            Self::Commit(_) => Kind::Commit,
            Self::Running(_) => Kind::Running,
            Self::Abort(_) => Kind::Abort,
            Self::Query(_) => Kind::Query,
            Self::Answer(..) => Kind::Answer,
            Self::Ping(_) => Kind::Ping,
            Self::Pong(..) => Kind::Pong,
            Self::Failed(_) => Kind::Failed,
        }
    }

    /// The whole frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let token = |token: &Token, verdict| cbor(&Handover { token: *token, verdict });
        let body = match self {
            Self::Hello(m) => cbor(m),
            Self::Welcome(m) => cbor(m),
            Self::Refused(m) => cbor(m),
            Self::Describe(m) => cbor(m),
            Self::Accepted { save, restore } => cbor(&(save, restore)),
            Self::PassEnd(m) => cbor(m),
            Self::PassDone(pass) => cbor(pass),
            Self::State(m) => cbor(m),
            Self::Ready(m) => cbor(m),
            Self::Running(m) => cbor(m),
            Self::Commit(t) | Self::Abort(t) | Self::Query(t) => token(t, None),
            Self::Answer(t, verdict) => token(t, Some(*verdict)),
            Self::Ping(n) => cbor(n),
            Self::Pong(n, bytes) => cbor(&(n, bytes)),
            Self::Failed(m) => cbor(m),
        };
        frame(self.kind(), &body)
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when it is not what its kind says, or a [`Kind::Pages`] frame,
    /// which is no message.
    pub fn decode(kind: Kind, body: &[u8]) -> Result<Self, FrameError> {
        let token = || parse::<Handover>(kind, body);
        let malformed = |reason: &str| FrameError::Malformed { kind, reason: reason.to_owned() };
        Ok(match kind {
            Kind::Hello => Self::Hello(parse(kind, body)?),
            Kind::Welcome => Self::Welcome(parse(kind, body)?),
            Kind::Refused => Self::Refused(parse(kind, body)?),
            Kind::Describe => Self::Describe(parse(kind, body)?),
            Kind::Accepted => {
                let (save, restore) = parse(kind, body)?;
                Self::Accepted { save, restore }
            }
            Kind::Pages => return Err(malformed("pages are no message")),
            Kind::PassEnd => Self::PassEnd(parse(kind, body)?),
            Kind::PassDone => Self::PassDone(parse(kind, body)?),
            Kind::State => Self::State(parse(kind, body)?),
            Kind::Ready => Self::Ready(parse(kind, body)?),
            Kind::Running => Self::Running(parse(kind, body)?),
            Kind::Commit => Self::Commit(token()?.token),
            Kind::Abort => Self::Abort(token()?.token),
            Kind::Query => Self::Query(token()?.token),
            Kind::Answer => {
                let m = token()?;
                Self::Answer(m.token, m.verdict.ok_or_else(|| malformed("it has no verdict"))?)
            }
            Kind::Ping => Self::Ping(parse(kind, body)?),
            Kind::Pong => {
                let (n, bytes) = parse(kind, body)?;
                Self::Pong(n, bytes)
            }
            Kind::Failed => Self::Failed(parse(kind, body)?),
        })
    }
}

fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    debug_assert!(length <= kind.longest(), "a {kind:?} frame of {length} bytes");
    let mut frame = Vec::with_capacity(Header::SIZE + body.len());
    frame.extend_from_slice(&Header { kind, length }.encode());
    frame.extend_from_slice(body);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Role, read_message};
    use proptest::prelude::*;

    pub fn any_message() -> impl Strategy<Value = Message> {
        let token = any::<[u8; 16]>();
        let verdict =
            prop_oneof![Just(Verdict::Committed), Just(Verdict::Refused), Just(Verdict::Unknown)];
        let role = prop_oneof![Just(Role::Control), Just(Role::Data), Just(Role::Question)];
        prop_oneof![
            (token, any::<[u8; 16]>(), role, any::<u16>())
                .prop_map(|(s, m, r, i)| Message::Hello(Hello::new(s, m, r, i))),
            any::<i64>().prop_map(|wall_clock| Message::Welcome(Welcome {
                version: 1,
                features: crate::Features(3),
                wall_clock
            })),
            proptest::collection::vec(any::<(String, String, String)>(), 0..4).prop_map(|v| {
                let refusal = |(a, b, c)| Refusal::new(Code::IncompatibleCpu, a, b, c);
                Message::Refused(v.into_iter().map(refusal).collect())
            }),
            (proptest::collection::vec(any::<u8>(), 0..99), any::<u16>(), any::<bool>(), token)
                .prop_map(|(description, connections, check_only, token)| {
                    Message::Describe(Describe { description, connections, check_only, token })
                }),
            any::<(u64, u64)>().prop_map(|(save, restore)| Message::Accepted { save, restore }),
            any::<(u32, u64, u64)>().prop_map(|(pass, data_pages, zero_pages)| {
                Message::PassEnd(PassEnd { pass, data_pages, zero_pages })
            }),
            any::<u32>().prop_map(Message::PassDone),
            (proptest::collection::vec(any::<u8>(), 0..99), any::<(bool, u64, u64)>()).prop_map(
                |(state, (run, data_pages, zero_pages))| {
                    Message::State(State { state, run, data_pages, zero_pages })
                }
            ),
            (token, any::<u64>())
                .prop_map(|(token, restore)| Message::Ready(Ready { token, restore })),
            token.prop_map(Message::Commit),
            (token, any::<u64>(), any::<u64>())
                .prop_map(|(token, start, held)| Message::Running(Running { token, start, held })),
            token.prop_map(Message::Abort),
            token.prop_map(Message::Query),
            (token, verdict).prop_map(|(t, v)| Message::Answer(t, v)),
            any::<u64>().prop_map(Message::Ping),
            any::<(u64, u64)>().prop_map(|(n, b)| Message::Pong(n, b)),
            any::<String>().prop_map(|why| Message::Failed(Failed { code: Code::PeerFailed, why })),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in any_message()) {
            let bytes = message.encode();
            let mut rest = &bytes[..];
            prop_assert_eq!(read_message(&mut rest).unwrap(), message);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn every_truncation_is_an_error(message in any_message()) {
            let bytes = message.encode();
            for len in 0..bytes.len() {
                prop_assert!(read_message(&mut &bytes[..len]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_message(&mut &bytes[..]);
        }

        #[test]
        fn a_flipped_bit_never_panics(message in any_message(), at in any::<prop::sample::Index>()) {
            let mut bytes = message.encode();
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = read_message(&mut &bytes[..]);
        }
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        let mut bytes = Message::Ping(1).encode();
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read_message(&mut &bytes[..]), Err(FrameError::TooLong { .. })));
    }
}
