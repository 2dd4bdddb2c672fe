//! Whatever happens to the server and whenever, what clients hear is the same.
#![allow(clippy::unwrap_used, reason = "clippy knows tests only by their attribute")]

mod machine;
mod raw;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use machine::Pretender;
use proptest::prelude::*;
use qmp::Event;
use raw::Raw;
use serde_json::{Value, json};

/// Commands that the busy client sends.
const COMMANDS: usize = 400;

/// What is done to the server.
#[derive(Debug, Clone)]
struct Step {
    then: Then,
    /// Events that are sent before, while it is suspended, and after.
    events: [u8; 3],
    /// Whether a client comes, or goes, while it is suspended.
    comes: bool,
}

/// How it goes on after it was suspended.
#[derive(Debug, Clone)]
enum Then {
    /// By itself.
    Resumed,
    /// Another takes its place.
    Replaced,
    /// By itself, perhaps because it was not suspended within so many microseconds.
    Impatient(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let then = prop_oneof![
        Just(Then::Resumed),
        Just(Then::Replaced),
        (0u64..300).prop_map(Then::Impatient),
    ];
    let step = (then, prop::array::uniform3(0u8..4), any::<bool>())
        .prop_map(|(then, events, comes)| Step { then, events, comes });
    prop::collection::vec(step, 1..24)
}

/// A command, and how its answer is recognised.
fn command(n: usize) -> (String, Value) {
    match n % 5 {
        0 => (format!(r#"{{"execute": "query-commands", "id": {n}}}"#), json!(n)),
        1 => (format!("{{\"execute\": \"no-such\", \"id\": {n}}}\n"), json!(n)),
        2 => (
            format!("{{\"exec-oob\": \"query-status\", \"id\": \"{n}\"}}\r\n"),
            json!(n.to_string()),
        ),
        3 => (format!("\n {{\"id\": {n}, \"execute\": \"query-name\"}} "), json!(n)),
        _ => (format!(r#"{{"execute": "query-status", "id": {n}}}"#), json!(n)),
    }
}

/// Sends all commands in pieces of these sizes.
fn hammer(mut stream: &UnixStream, pieces: &[usize]) {
    let text: String = (0..COMMANDS).map(|n| command(n).0).collect();
    let mut rest = text.as_bytes();
    for size in pieces.iter().cycle() {
        if rest.is_empty() {
            return;
        }
        let (piece, behind) = rest.split_at((*size).min(rest.len()));
        stream.write_all(piece).unwrap();
        rest = behind;
    }
}

fn carry_out(steps: Vec<Step>, pretender: Pretender, sent: &mut u64) -> Pretender {
    let mut send = |pretender: &Pretender, count: u8| {
        for _ in 0..count {
            *sent += 1;
            pretender.events.send(&Event::MigrationPass { pass: *sent });
        }
    };
    let mut guest = None;
    steps.into_iter().fold(pretender, |pretender, Step { then, events, comes }| {
        send(&pretender, events[0]);
        let parts = match then {
            Then::Resumed | Then::Replaced => Some(pretender.suspend()),
            Then::Impatient(limit) => {
                let _ = pretender.server.suspend(Duration::from_micros(limit));
                None
            }
        };
        send(&pretender, events[1]);
        guest = comes.then(|| Raw::new(&pretender.path));
        let pretender = match (then, parts) {
            (Then::Replaced, Some(parts)) => pretender.replaced(parts),
            _ => {
                pretender.server.resume();
                pretender
            }
        };
        send(&pretender, events[2]);
        if let Some(guest) = &mut guest {
            assert!(guest.message().get("QMP").is_some());
        }
        pretender
    })
}

/// The numbers of the passes among what a client was told, which are to be all.
fn assert_all_passes(passes: &[Value], sent: u64) {
    let passes: Vec<_> = passes.iter().map(|event| event["data"]["pass"].as_u64()).collect();
    assert_eq!(passes, (1..=sent).map(Some).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_time: 30_000, ..ProptestConfig::default() })]

    #[test]
    fn every_command_is_answered_once_and_every_event_told_once_in_order(
        steps in steps(),
        pieces in prop::collection::vec(1usize..200, 1..20),
    ) {
        let pretender = Pretender::new();
        let mut busy = Raw::negotiated(&pretender.path);
        let mut listener = Raw::negotiated(&pretender.path);
        let stream = busy.stream().try_clone().unwrap();
        let mut sent = 0;
        let (pretender, heard) = thread::scope(|scope| {
            scope.spawn(|| hammer(&stream, &pieces));
            let reader = scope.spawn(move || {
                let (mut answers, mut events) = (Vec::new(), Vec::new());
                while answers.len() < COMMANDS {
                    let message = busy.message();
                    if message.get("event").is_some() {
                        events.push(message);
                    } else {
                        answers.push(message["id"].clone());
                    }
                }
                (busy, answers, events)
            });
            let pretender = carry_out(steps, pretender, &mut sent);
            (pretender, reader.join().unwrap())
        });
        let (mut busy, answers, mut events) = heard;
        // The end of it, for both: nothing else comes in between.
        sent += 1;
        pretender.events.send(&Event::MigrationPass { pass: sent });
        while events.last().is_none_or(|event| event["data"]["pass"] != sent) {
            events.push(busy.message());
        }
        assert_all_passes(&events, sent);
        let events: Vec<_> = (0..sent).map(|_| listener.message()).collect();
        assert_all_passes(&events, sent);
        // Out of band is a sequence of its own.
        let (oob, ordinary): (Vec<_>, Vec<_>) = answers.into_iter().partition(Value::is_string);
        let want: Vec<_> = (0..COMMANDS).map(|n| command(n).1).collect();
        let (want_oob, want): (Vec<_>, Vec<_>) = want.into_iter().partition(Value::is_string);
        prop_assert_eq!(oob, want_oob);
        prop_assert_eq!(ordinary, want);
        pretender.server.shutdown();
        prop_assert!(busy.closed() && listener.closed());
    }
}
