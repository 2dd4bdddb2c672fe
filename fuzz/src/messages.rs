//! Sound messages with any contents, in any order.

use crate::input::Input;
use motion::handover::{self, Token, Word};
use state::{Code, Refusal};
use wire::{
    Describe, Failed, Features, Hello, Message, PassEnd, Ready, Role, Running, State, Verdict,
    Welcome,
};

/// The handover that inputs are about, most of the time.
pub const TOKEN: Token = Token([7; 16]);
/// The motion that they are about.
pub const SESSION: [u8; 16] = [3; 16];
/// The machine that they are about.
pub const MACHINE: [u8; 16] = [5; 16];

/// A name of 16 bytes: the right one, unless the input wants another.
fn name(input: &mut Input<'_>, right: [u8; 16]) -> [u8; 16] {
    match input.byte() {
        0..=250 => right,
        other => [other; 16],
    }
}

/// A token, most often the right one.
pub fn token(input: &mut Input<'_>) -> Token {
    Token(name(input, TOKEN.0))
}

/// A greeting.
pub fn hello(input: &mut Input<'_>) -> Hello {
    let role = match input.byte() % 4 {
        0 | 1 => Role::Control,
        2 => Role::Data,
        _ => Role::Question,
    };
    let (session, machine) = (name(input, SESSION), name(input, MACHINE));
    let mut hello = Hello::new(session, machine, role, u16::from(input.byte()));
    if input.byte() > 240 {
        hello.least_version = input.short();
        hello.version = input.short();
        hello.required = Features(input.number());
        hello.features = Features(input.number());
        hello.page_size = input.number32();
    }
    hello
}

fn verdict(input: &mut Input<'_>) -> Verdict {
    match input.byte() % 3 {
        0 => Verdict::Committed,
        1 => Verdict::Refused,
        _ => Verdict::Unknown,
    }
}

/// The end of a pass.
pub fn pass_end(input: &mut Input<'_>) -> PassEnd {
    PassEnd { pass: input.number32(), data_pages: input.number(), zero_pages: input.number() }
}

/// What is said about a handover.
pub fn handover(input: &mut Input<'_>) -> handover::Message {
    let token = token(input);
    token.says(match input.byte() % 8 {
        0 => Word::Ready,
        1 => Word::Commit,
        2 => Word::Running,
        3 => Word::Abort,
        4 => Word::Query,
        5 => Word::Answer(handover::Verdict::Committed),
        6 => Word::Answer(handover::Verdict::Refused),
        _ => Word::Answer(handover::Verdict::Unknown),
    })
}

/// Any message.
pub fn message(input: &mut Input<'_>) -> Message {
    match input.byte() % 18 {
        0 => Message::Hello(hello(input)),
        1 => Message::Welcome(Welcome {
            version: input.short(),
            features: Features(input.number()),
            wall_clock: input.number().cast_signed(),
        }),
        2 => Message::Refused(refusals(input)),
        3 | 16 => Message::Describe(Describe {
            // An empty bundle is what the machines here take.
            description: if input.flag() { input.bytes().to_vec() } else { vec![0x80] },
            connections: input.short() % 70,
            check_only: input.byte() == 1,
            token: token(input).0,
        }),
        4 => Message::Accepted { save: input.number(), restore: input.number() },
        5 => Message::PassEnd(pass_end(input)),
        6 => Message::PassDone(input.number32()),
        7 | 17 => Message::State(State {
            state: if input.flag() { input.bytes().to_vec() } else { vec![0x80] },
            run: !input.flag(),
            data_pages: input.number(),
            zero_pages: input.number(),
        }),
        8 => Message::Ready(Ready { token: token(input).0, restore: input.number() }),
        9 => Message::Commit(token(input).0),
        10 => Message::Running(Running {
            token: token(input).0,
            start: input.number(),
            held: input.number(),
        }),
        11 => Message::Abort(token(input).0),
        12 => Message::Query(token(input).0),
        13 => Message::Answer(token(input).0, verdict(input)),
        14 => Message::Ping(input.number()),
        15 if input.flag() => Message::Failed(Failed { code: Code::PeerFailed, why: input.text() }),
        _ => Message::Pong(input.number(), input.number()),
    }
}

/// Reasons that a peer gives.
pub fn refusals(input: &mut Input<'_>) -> Vec<Refusal> {
    let refusal = |input: &mut Input<'_>| {
        Refusal::new(Code::IncompatibleCpu, input.text(), input.text(), input.text())
    };
    (0..input.byte() % 3).map(|_| refusal(input)).collect()
}
