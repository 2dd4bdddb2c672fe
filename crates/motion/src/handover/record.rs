//! What a process writes down about a handover. The format is specified in `docs/handover.md`.

use super::{Side, Token, TokenError};
use serde::Serialize;
use std::fmt::Write;
use uuid::Uuid;

/// The longest that a record can be, in bytes. A reader need not look further.
pub const MAX_RECORD_LEN: usize = 8192;
/// The longest name of a machine and address of a peer, in bytes before escaping.
const MAX_TEXT_LEN: usize = 1024;
const MAGIC: &str = "whimbrel-handover ";
const VERSION: &str = "1";
const CHECK: &str = "crc32 ";

/// Which side of a handover a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The guest leaves here.
    Source,
    /// The guest arrives here.
    Destination,
}

/// What a process had decided when it wrote its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Source: COMMIT goes out now. Destination: READY was said, and nothing since.
    Open,
    /// The destination owns the guest.
    Committed,
    /// The source has the guest; the destination never will.
    Refused,
}

/// What a record is filed under. Both sides of one handover can be on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The handover.
    pub token: Token,
    /// Whose record it is.
    pub role: Role,
}

/// Which handover, of which machine, with whom, since when.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Particulars {
    token: Token,
    machine: Uuid,
    name: String,
    peer: String,
    since: u64,
}

/// What a process writes down.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Which side it is.
    pub role: Role,
    /// What it had decided.
    pub decision: Decision,
    /// About what.
    pub particulars: Particulars,
}

/// Why something is no handover record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A text is longer than a record may hold.
    #[error("the {what} is {len} bytes long; a handover record holds at most {MAX_TEXT_LEN}")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// Written by another version.
    #[error("it has version {0}; this build reads version {VERSION}")]
    Version(String),
    /// Not a record, or damaged.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

impl Particulars {
    /// Describes a handover. `peer` is the address under which the other side can be asked, or what
    /// is known of it; `since` is when the handover began, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`RecordError::TooLong`] for a name or address above 1024 bytes.
    pub fn new(
        token: Token,
        machine: Uuid,
        name: impl Into<String>,
        peer: impl Into<String>,
        since: u64,
    ) -> Result<Self, RecordError> {
        let (name, peer) = (name.into(), peer.into());
        for (what, text) in [("machine's name", &name), ("peer's address", &peer)] {
            if text.len() > MAX_TEXT_LEN {
                return Err(RecordError::TooLong { what, len: text.len() });
            }
        }
        Ok(Self { token, machine, name, peer, since })
    }

    /// The handover.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// The machine that is handed over.
    #[must_use]
    pub fn machine(&self) -> Uuid {
        self.machine
    }

    /// The machine's name on this side.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address under which the other side can be asked, or what is known of it.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// When the handover began, in milliseconds since 1970 by this host's clock.
    #[must_use]
    pub fn since(&self) -> u64 {
        self.since
    }
}

impl Role {
    /// The role in one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Source, Self::Destination].into_iter().find(|role| role.name() == name)
    }
}

impl Decision {
    /// The decision in one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Committed => "committed",
            Self::Refused => "refused",
        }
    }

    /// Who owns the guest, seen from the side that has decided so; `None` while that is open.
    #[must_use]
    pub fn owner(self, role: Role) -> Option<Side> {
        match (role, self) {
            (_, Self::Open) => None,
            (Role::Source, Self::Committed) | (Role::Destination, Self::Refused) => {
                Some(Side::Peer)
            }
            (Role::Source, Self::Refused) | (Role::Destination, Self::Committed) => {
                Some(Side::Here)
            }
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Committed, Self::Refused].into_iter().find(|d| d.name() == name)
    }
}

impl Record {
    /// What it is filed under.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { token: self.particulars.token, role: self.role }
    }

    /// Who owns the guest, seen from its side; `None` while that is open.
    #[must_use]
    pub fn owner(&self) -> Option<Side> {
        self.decision.owner(self.role)
    }

    /// The bytes of the record, at most [`MAX_RECORD_LEN`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Particulars { token, machine, name, peer, since } = &self.particulars;
        let (role, decision) = (self.role.name(), self.decision.name());
        let (name, peer) = (escape(name), escape(peer));
        let mut text = format!(
            "{MAGIC}{VERSION}\ntoken {token}\nrole {role}\ndecision {decision}\n\
             machine {machine}\nsince {since}\nname {name}\npeer {peer}\n"
        );
        let check = crc32(text.as_bytes());
        writeln!(text, "{CHECK}{check:08x}").expect("a String takes what it is given");
        text.into_bytes()
    }

    /// Reads a record. There is one way to write each record; anything else is damage.
    ///
    /// # Errors
    /// [`RecordError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        const SHAPE: RecordError = RecordError::Damaged("it is not laid out as a record");
        if bytes.len() > MAX_RECORD_LEN {
            return Err(RecordError::Damaged("it is too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| RecordError::Damaged("it is no text"))?;
        let mut lines = text.split_inclusive('\n');
        let mut value = |key: &str| {
            let line = lines.next()?.strip_suffix('\n')?;
            line.strip_prefix(key)
        };
        match value(MAGIC).ok_or(SHAPE)? {
            VERSION => {}
            other => return Err(RecordError::Version(escape(other).chars().take(20).collect())),
        }
        let token = value("token ").ok_or(SHAPE)?;
        let role = value("role ").ok_or(SHAPE)?;
        let decision = value("decision ").ok_or(SHAPE)?;
        let machine = value("machine ").ok_or(SHAPE)?;
        let since = value("since ").ok_or(SHAPE)?;
        let name = value("name ").ok_or(SHAPE)?;
        let peer = value("peer ").ok_or(SHAPE)?;
        value(CHECK).ok_or(SHAPE)?;

        let record = Self {
            role: Role::from_name(role).ok_or(SHAPE)?,
            decision: Decision::from_name(decision).ok_or(SHAPE)?,
            particulars: Particulars::new(
                token.parse().map_err(|TokenError| SHAPE)?,
                Uuid::try_parse(machine).map_err(|_| SHAPE)?,
                unescape(name).ok_or(SHAPE)?,
                unescape(peer).ok_or(SHAPE)?,
                since.parse().map_err(|_| SHAPE)?,
            )?,
        };
        // One comparison for the checksum, for what follows it, and for every second way to write
        // the same thing.
        if record.encode() != bytes {
            return Err(RecordError::Damaged("its checksum does not match"));
        }
        Ok(record)
    }
}

/// Replaces `%` and control characters, so that a value is one line.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '%' || c.is_ascii_control() {
            write!(escaped, "%{:02x}", u32::from(c)).expect("a String takes what it is given");
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        let code = u8::from_str_radix(after.get(..2)?, 16).ok().filter(u8::is_ascii)?;
        plain.push_str(before);
        plain.push(char::from(code));
        rest = &after[2..];
    }
    plain.push_str(rest);
    Some(plain)
}

/// CRC-32 as in IEEE 802.3 (reflected, polynomial 0xEDB88320).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn record() -> impl Strategy<Value = Record> {
        let text = || prop_oneof!["[ -~]{0,40}", ".{0,40}", "[%\\x00-\\x1f\\x7f]{0,8}"];
        let decision =
            prop_oneof![Just(Decision::Open), Just(Decision::Committed), Just(Decision::Refused)];
        let role = prop_oneof![Just(Role::Source), Just(Role::Destination)];
        (role, decision, any::<[u8; 16]>(), any::<u128>(), any::<u64>(), text(), text()).prop_map(
            |(role, decision, token, machine, since, name, peer)| {
                let machine = Uuid::from_u128(machine);
                let particulars = Particulars::new(Token(token), machine, name, peer, since)
                    .expect("it is short");
                Record { role, decision, particulars }
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_reads_back(record in record()) {
            let bytes = record.encode();
            prop_assert!(bytes.len() <= MAX_RECORD_LEN);
            prop_assert_eq!(Record::decode(&bytes), Ok(record));
        }

        #[test]
        fn damage_is_never_read_as_a_record(
            record in record(), at: prop::sample::Index, flip in 1u8.., cut: prop::sample::Index,
        ) {
            let bytes = record.encode();
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= flip;
            prop_assert!(Record::decode(&flipped).is_err());
            prop_assert!(Record::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn anything_can_be_looked_at(
            bytes in prop::collection::vec(any::<u8>(), 0..300), mut record in record(),
            junk in "[ -~\\n%]{0,60}", at: prop::sample::Index,
        ) {
            let _ = Record::decode(&bytes);
            // Near misses get further than noise does.
            record.particulars.name.clear();
            let mut text = String::from_utf8(record.encode()).expect("it is text");
            let at = at.index(text.len());
            let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.insert_str(at, &junk);
            if let Ok(read) = Record::decode(text.as_bytes()) {
                prop_assert_eq!(read.encode(), text.as_bytes());
            }
        }
    }

    fn fixture(name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/handover");
        std::fs::read(folder.join(name)).expect("the fixture is there")
    }

    fn sample(role: Role, decision: Decision, since: u64, peer: &str) -> Record {
        let token = "0f1e2d3c4b5a69788796a5b4c3d2e1f0".parse().expect("a token");
        let machine = Uuid::from_u128(0x6c0e_8b1a_52d4_4f7e_9a33_0d7f_2b1c_4e5f);
        let particulars = Particulars::new(token, machine, "web-1", peer, since).expect("short");
        Record { role, decision, particulars }
    }

    #[test]
    fn records_are_the_bytes_that_they_always_were() {
        let zero = Particulars::new(Token([0; 16]), Uuid::nil(), "", "", 0).expect("short");
        let odd = Particulars::new(
            Token([0xff; 16]),
            sample(Role::Source, Decision::Open, 0, "").particulars.machine,
            "100 % Brachvögel\n",
            "unix:/run/odd\tname\x7f",
            u64::MAX,
        )
        .expect("short");
        let (source, destination) = (Role::Source, Role::Destination);
        for (name, record) in [
            (
                "source-open",
                sample(source, Decision::Open, 1_771_234_567_890, "tcp:192.0.2.7:7000"),
            ),
            (
                "destination-open",
                sample(destination, Decision::Open, 1_771_234_567_905, "192.0.2.3:52114"),
            ),
            (
                "destination-committed",
                Record { role: destination, decision: Decision::Committed, particulars: zero },
            ),
            (
                "source-refused",
                Record { role: source, decision: Decision::Refused, particulars: odd },
            ),
        ] {
            assert_eq!(Record::decode(&fixture(name)), Ok(record.clone()), "{name}");
            assert_eq!(record.encode(), fixture(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused_with_the_reason() {
        let shape = RecordError::Damaged("it is not laid out as a record");
        let check = RecordError::Damaged("its checksum does not match");
        for (name, why) in [
            ("bad-checksum", check.clone()),
            ("bad-version", RecordError::Version("2".into())),
            ("bad-truncated", shape.clone()),
            ("bad-trailing", check.clone()),
            ("bad-order", shape.clone()),
            ("bad-number", check.clone()),
            ("bad-escape", check),
            ("bad-long", RecordError::TooLong { what: "machine's name", len: 1025 }),
            ("bad-empty", shape),
        ] {
            assert_eq!(Record::decode(&fixture(name)), Err(why), "{name}");
        }
        let long = vec![b'\n'; MAX_RECORD_LEN + 1];
        assert_eq!(Record::decode(&long), Err(RecordError::Damaged("it is too long")));
    }

    #[test]
    fn the_longest_record_fits_into_what_a_reader_reads() {
        let long = "\n".repeat(MAX_TEXT_LEN);
        let particulars =
            Particulars::new(Token([1; 16]), Uuid::max(), long.clone(), long, u64::MAX);
        let record = Record {
            role: Role::Destination,
            decision: Decision::Committed,
            particulars: particulars.expect("it is just within the limit"),
        };
        assert!(record.encode().len() <= MAX_RECORD_LEN);
        assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn the_record_in_the_documentation_is_a_real_one() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/handover.md");
        let docs = std::fs::read_to_string(docs).expect("the documentation is there");
        let fixture = String::from_utf8(fixture("source-open")).expect("it is text");
        assert!(docs.contains(&fixture), "docs/handover.md does not show {fixture}");
    }
}
