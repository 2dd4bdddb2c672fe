//! Messages of a handover, as they are on the wire and as the engine takes them.

use motion::handover::{self, Token, Verdict, Word};
use wire::Message;

pub fn from_wire(message: &Message) -> Option<handover::Message> {
    let (token, word) = match message {
        Message::Ready(ready) => (ready.token, Word::Ready),
        Message::Commit(token) => (*token, Word::Commit),
        Message::Running(running) => (running.token, Word::Running),
        Message::Abort(token) => (*token, Word::Abort),
        Message::Query(token) => (*token, Word::Query),
        Message::Answer(token, verdict) => {
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

pub fn to_wire(message: handover::Message) -> Message {
    let token = message.token.0;
    match message.word {
        Word::Ready => Message::Ready(wire::Ready { token, restore: 0 }),
        Word::Commit => Message::Commit(token),
        Word::Running => Message::Running(wire::Running { token, start: 0, held: 0 }),
        Word::Abort => Message::Abort(token),
        Word::Query => Message::Query(token),
        Word::Answer(verdict) => {
            let verdict = match verdict {
                Verdict::Committed => wire::Verdict::Committed,
                Verdict::Refused => wire::Verdict::Refused,
                Verdict::Unknown => wire::Verdict::Unknown,
            };
            Message::Answer(token, verdict)
        }
    }
}
