//! What is said of a handover, as it is on the wire and as the handover takes it.

use super::{Message, Token, Verdict, Word};
use wire::Kind;

/// The messages that say something of a handover.
pub(crate) const KINDS: [Kind; 6] =
    [Kind::Ready, Kind::Commit, Kind::Running, Kind::Abort, Kind::Query, Kind::Answer];

/// What a message says of a handover, if it does.
#[must_use]
pub fn from_wire(message: &wire::Message) -> Option<Message> {
    let (token, word) = match message {
        wire::Message::Ready(ready) => (ready.token, Word::Ready),
        wire::Message::Commit(token) => (*token, Word::Commit),
        wire::Message::Running(running) => (running.token, Word::Running),
        wire::Message::Abort(token) => (*token, Word::Abort),
        wire::Message::Query(token) => (*token, Word::Query),
        wire::Message::Answer(token, verdict) => {
            let verdict = match verdict {
                wire::Verdict::Committed => Verdict::Committed,
                wire::Verdict::Refused => Verdict::Refused,
                wire::Verdict::Unknown => Verdict::Unknown,
            };
            (*token, Word::Answer(verdict))
        }
        _ => return None,
    };
    Some(Token(token).says(word))
}

/// A message of a handover, for the wire. Times that READY and RUNNING carry are added by the
/// destination.
#[must_use]
pub fn to_wire(message: Message) -> wire::Message {
    let token = message.token.0;
    match message.word {
        Word::Ready => wire::Message::Ready(wire::Ready { token, restore: 0 }),
        Word::Commit => wire::Message::Commit(token),
        Word::Running => wire::Message::Running(wire::Running { token, start: 0, held: 0 }),
        Word::Abort => wire::Message::Abort(token),
        Word::Query => wire::Message::Query(token),
        Word::Answer(verdict) => wire::Message::Answer(
            token,
            match verdict {
                Verdict::Committed => wire::Verdict::Committed,
                Verdict::Refused => wire::Verdict::Refused,
                Verdict::Unknown => wire::Verdict::Unknown,
            },
        ),
    }
}
