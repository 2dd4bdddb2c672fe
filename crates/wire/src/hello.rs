//! The handshake that begins every connection.

use crate::FrameError;
use minicbor::{Decode, Encode};
use state::Refusal;
use std::io::Read;

/// The first bytes on every connection, in both directions.
pub const MAGIC: [u8; 8] = *b"WHIMBREL";

/// The protocol's version. A change that an older engine would misunderstand raises it.
pub const VERSION: u16 = 1;

/// Optional abilities, as bits. What both sides have is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Features(#[n(0)] pub u64);

impl Features {
    /// What this build is able to do.
    pub const OURS: Self = Self(0);

    /// What both have.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `wanted` is in it.
    #[must_use]
    pub fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Role {
    /// Messages of the motion; one for each session.
    #[n(0)]
    Control,
    /// Pages.
    #[n(1)]
    Data,
    /// Questions about tokens.
    #[n(2)]
    Question,
}

/// What the source says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// The lowest protocol version that it speaks.
    #[n(0)]
    pub least_version: u16,
    /// The highest.
    #[n(1)]
    pub version: u16,
    /// Abilities without which it cannot go on.
    #[n(2)]
    pub required: Features,
    /// Abilities that it has.
    #[n(3)]
    pub features: Features,
    /// The motion that the connection belongs to: random, the same on all its connections.
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub session: [u8; 16],
    /// UUID of the machine that moves.
    #[n(5)]
    #[cbor(with = "minicbor::bytes")]
    pub machine: [u8; 16],
    /// What the connection is for.
    #[n(6)]
    pub role: Role,
    /// Which of the data connections it is, from 0. 0 for other roles.
    #[n(7)]
    pub index: u16,
    /// The unit of RAM, in bytes.
    #[n(8)]
    pub page_size: u32,
}

impl Hello {
    /// A greeting from this build.
    #[must_use]
    pub fn new(session: [u8; 16], machine: [u8; 16], role: Role, index: u16) -> Self {
        Self {
            least_version: VERSION,
            version: VERSION,
            required: Features(0),
            features: Features::OURS,
            session,
            machine,
            role,
            index,
            page_size: 4096,
        }
    }

    /// What a destination of this build answers.
    ///
    /// # Errors
    /// All reasons for which the two engines cannot talk.
    pub fn answer(&self, wall_clock: i64) -> Result<Welcome, Vec<Refusal>> {
        let mut refusals = Vec::new();
        if self.least_version > VERSION || self.version < VERSION {
            refusals.push(Refusal::new(
                state::Code::IncompatibleVersion,
                "protocol",
                format!(
                    "the source speaks versions {} to {} of the protocol, the destination {VERSION}",
                    self.least_version, self.version
                ),
                "use builds that have a version in common",
            ));
        }
        if !Features::OURS.has(self.required) {
            refusals.push(Refusal::new(
                state::Code::IncompatibleVersion,
                "protocol",
                format!(
                    "the source needs features {:#x}, the destination has {:#x}",
                    self.required.0,
                    Features::OURS.0
                ),
                "use a newer destination",
            ));
        }
        if self.page_size != 4096 {
            refusals.push(Refusal::new(
                state::Code::IncompatibleVersion,
                "protocol",
                format!("the source counts RAM in pages of {} bytes, not 4096", self.page_size),
                "",
            ));
        }
        if refusals.is_empty() {
            Ok(Welcome {
                version: VERSION,
                features: Features::OURS.common(self.features),
                wall_clock,
            })
        } else {
            Err(refusals)
        }
    }
}

/// What the destination answers when the connection may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// The version that both speak from now on.
    #[n(0)]
    pub version: u16,
    /// The features that both use from now on.
    #[n(1)]
    pub features: Features,
    /// The destination's wall clock (`CLOCK_REALTIME`), in nanoseconds since the epoch.
    #[n(2)]
    pub wall_clock: i64,
}

/// Reads and checks the magic.
///
/// # Errors
/// [`FrameError::NotWhimbrel`] when something else came, or why nothing did.
pub fn read_magic(from: &mut impl Read) -> Result<(), FrameError> {
    let mut magic = [0; 8];
    from.read_exact(&mut magic)?;
    if magic == MAGIC { Ok(()) } else { Err(FrameError::NotWhimbrel) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello = Hello {
        least_version: VERSION,
        version: VERSION,
        required: Features(0),
        features: Features::OURS,
        session: [1; 16],
        machine: [2; 16],
        role: Role::Control,
        index: 0,
        page_size: 4096,
    };

    #[test]
    fn a_source_that_has_a_version_in_common_is_welcome() {
        let next = Features((1 << 63) | Features::OURS.0);
        for hello in [
            HELLO,
            Hello::new([1; 16], [2; 16], Role::Control, 0),
            Hello { least_version: 0, version: VERSION + 1, ..HELLO },
            Hello { features: next, ..HELLO },
        ] {
            let welcome = hello.answer(7).unwrap();
            assert_eq!(
                welcome,
                Welcome { version: VERSION, features: Features::OURS, wall_clock: 7 }
            );
        }
    }

    #[test]
    fn what_the_two_do_not_have_in_common_is_refused_all_at_once() {
        let unknown = Features(1 << 63);
        let newer = Hello { least_version: VERSION + 1, version: VERSION + 2, ..HELLO };
        let older = Hello { least_version: 0, version: VERSION - 1, ..HELLO };
        for (hello, words) in [
            (newer, &["versions 2 to 3"][..]),
            (older, &["versions 0 to 0"]),
            (Hello { required: unknown, features: unknown, ..HELLO }, &["0x8000000000000000"]),
            (Hello { page_size: 16384, ..HELLO }, &["16384"]),
            (
                Hello { required: unknown, page_size: 0, ..newer },
                &["versions 2 to 3", "0x8000000000000000", "pages of 0 bytes"],
            ),
        ] {
            let refusals = hello.answer(7).unwrap_err();
            assert_eq!(refusals.len(), words.len(), "{refusals:?}");
            for (refusal, word) in refusals.iter().zip(words) {
                assert_eq!(refusal.code, state::Code::IncompatibleVersion);
                assert!(refusal.to_string().contains(word), "{refusal}");
            }
        }
    }
}
