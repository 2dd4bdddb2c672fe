//! The frames in `docs/protocol.md` are what this code writes and reads.

use memory::PageRange;
use state::{Code, Refusal};
use std::collections::BTreeMap;
use whimbrel_wire::{
    Content, Describe, Failed, Features, Hello, Inbox, Item, Message, PagesHeader, PassEnd, Ready,
    Role, Run, Running, State, Verdict, Welcome,
};

const TOKEN: [u8; 16] = *b"0123456789abcdef";

/// One example of each message.
fn messages() -> Vec<Message> {
    vec![
        Message::Hello(Hello::new([1; 16], [2; 16], Role::Data, 3)),
        Message::Welcome(Welcome { version: 1, features: Features(0), wall_clock: 1_000_000_000 }),
        Message::Refused(vec![Refusal::new(Code::InsufficientMemory, "ram", "too much", "")]),
        Message::Describe(Describe {
            description: vec![0x80],
            connections: 4,
            check_only: false,
            token: TOKEN,
        }),
        Message::Accepted { save: 90_000, restore: 70_000 },
        Message::PassEnd(PassEnd { pass: 2, data_pages: 300, zero_pages: 5 }),
        Message::PassDone(2),
        Message::State(State { state: vec![0x80], run: true, data_pages: 300, zero_pages: 5 }),
        Message::Ready(Ready { token: TOKEN, restore: 70_000 }),
        Message::Commit(TOKEN),
        Message::Running(Running { token: TOKEN, start: 30_000, held: 45_000 }),
        Message::Abort(TOKEN),
        Message::Query(TOKEN),
        Message::Answer(TOKEN, Verdict::Refused),
        Message::Ping(7),
        Message::Pong(7, 4096),
        Message::Failed(Failed { code: Code::LinkLost, why: "gone".to_owned() }),
    ]
}

fn pages() -> PagesHeader {
    let run = |start, count, content| Run { range: PageRange::new(start, count), content };
    PagesHeader { pass: 1, runs: vec![run(256, 1, Content::Data), run(512, 16, Content::Zero)] }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The examples as they stand in the document: kind and hexadecimal digits.
fn documented() -> BTreeMap<String, String> {
    let text = include_str!("../../../docs/protocol.md");
    let block = text.split("```frames\n").nth(1).expect("the examples are there");
    let block = block.split("```").next().expect("the block ends");
    block
        .lines()
        .map(|line| {
            let (kind, bytes) = line.split_once(' ').expect("kind and bytes");
            (kind.to_owned(), bytes.replace(' ', ""))
        })
        .collect()
}

#[test]
fn the_documented_frames_are_those_that_are_written() {
    let mut written = BTreeMap::new();
    for message in messages() {
        written.insert(format!("{:?}", message.kind()), hex(&message.encode()));
    }
    let mut bytes = Vec::new();
    pages().encode_into(&mut bytes);
    written.insert("Pages".to_owned(), hex(&bytes));
    let documented = documented();
    for (kind, bytes) in &written {
        assert_eq!(documented.get(kind), Some(bytes), "docs/protocol.md, {kind}");
    }
    assert_eq!(documented.len(), written.len());
}

#[test]
fn the_documented_frames_are_read() {
    let documented = documented();
    for message in messages() {
        let digits = &documented[&format!("{:?}", message.kind())];
        let bytes: Vec<u8> = (0..digits.len() / 2)
            .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).expect("hexadecimal"))
            .collect();
        let mut inbox = Inbox::new();
        inbox.feed(&bytes);
        assert_eq!(inbox.next_item().expect("a frame"), Some(Item::Message(message)));
        assert!(inbox.is_empty());
    }
}
