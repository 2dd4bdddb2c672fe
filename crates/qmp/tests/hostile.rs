//! Clients that do not behave, and what they cost the others: nothing.
#![allow(clippy::unwrap_used, reason = "clippy knows tests only by their attribute")]

mod machine;
mod raw;

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use machine::Pretender;
use qmp::{Client, Event, Limits};
use raw::Raw;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::json;

/// Long enough for any machine; reached only when something is broken.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

/// Asks a question that has one answer, so that a server that is stuck is noticed.
fn assert_alive(client: &mut Client) {
    let name = client.execute("query-name", None, PATIENCE).expect("it is alive");
    assert_eq!(name, json!({"name": "pretender"}));
}

fn send_with_descriptors(raw: &Raw, text: &str, descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    let sent =
        sendmsg(raw.stream(), &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(text.len()));
}

/// Two ends, of which the reading one does not wait for ever for the other to be closed.
fn pipe() -> (UnixStream, UnixStream) {
    let (reader, writer) = UnixStream::pair().unwrap();
    reader.set_read_timeout(PATIENCE).unwrap();
    (reader, writer)
}

#[test]
fn nothing_is_carried_out_or_told_before_negotiation() {
    let pretender = Pretender::new();
    let mut raw = Raw::new(&pretender.path);
    assert!(raw.message().get("QMP").is_some());
    for line in [
        r#"{"execute": "stop"}"#,
        r#"{"exec-oob": "query-status"}"#,
        r#"{"execute": "no-such-command"}"#,
    ] {
        raw.send(line);
        assert_eq!(raw.message()["error"]["class"], "CommandNotFound", "{line}");
    }
    for line in [
        r#"{"execute": "qmp_capabilities", "arguments": {"enable": ["time-travel"]}}"#,
        r#"{"execute": "qmp_capabilities", "arguments": {"enable": "oob"}}"#,
        "[]\n",
    ] {
        raw.send(line);
        assert_eq!(raw.message()["error"]["class"], "GenericError", "{line}");
    }
    let mut other = Client::connect(&pretender.path).unwrap();
    other.execute("system_powerdown", None, PATIENCE).unwrap();
    assert_eq!(other.next_event(PATIENCE).unwrap().unwrap().event, "POWERDOWN");
    raw.send(r#"{"execute": "qmp_capabilities"}"#);
    assert_eq!(raw.message(), json!({"return": {}}));
    raw.send(r#"{"execute": "query-status"}"#);
    assert_eq!(raw.message()["return"]["running"], true);
}

#[test]
fn capabilities_are_negotiated_once_and_count_as_negotiated() {
    let pretender = Pretender::new();
    let mut raw = Raw::new(&pretender.path);
    raw.message();
    raw.send(r#"{"execute": "qmp_capabilities", "arguments": {"enable": []}}"#);
    assert_eq!(raw.message(), json!({"return": {}}));
    raw.send(r#"{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}, "id": 1}"#);
    let refused = raw.message();
    assert_eq!(
        (&refused["error"]["class"], &refused["id"]),
        (&json!("CommandNotFound"), &json!(1))
    );
    raw.send(r#"{"exec-oob": "query-status"}"#);
    assert_eq!(raw.error(), "invalid-argument");
}

#[test]
fn a_line_that_is_no_command_is_answered_and_the_next_one_counts() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let deep = "[".repeat(500_000);
    let lines: [&[u8]; 11] = [
        b"hello\n",
        b"{\n",
        b"}\n",
        b"{]\n",
        b"{\"execute\": \"stop\"\n",
        b"{\"execute\": \"sto\xffp\"}\n",
        b"\xff\xfe\n",
        b"{\"execute\": \"stop\", \"arguments\": {\"now\": true}}\n",
        b"{\"execute\": \"getfd\", \"arguments\": {}}\n",
        b"{\"execute\": \"getfd\", \"arguments\": {\"fdname\": 7}}\n",
        deep.as_bytes(),
    ];
    for line in lines {
        raw.send(line);
        raw.send("\n");
        assert_eq!(raw.error(), "invalid-argument");
        raw.send(r#"{"execute": "query-status"}"#);
        assert_eq!(raw.answer()["return"]["running"], true);
    }
}

#[test]
fn answers_come_in_the_order_of_the_commands_whether_good_or_bad() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let kinds = [
        r#"{"execute": "query-status", "id": N}"#,
        r#"{"execute": "no-such-command", "id": N}"#,
        r#"{"execute": "stop", "arguments": 5, "id": N}"#,
        "{\"id\": N, \"execute\": }\n{\"execute\": \"query-version\", \"id\": N}",
    ];
    let mut text = String::new();
    let mut want = Vec::new();
    for n in 0..400 {
        text += &kinds[n % kinds.len()].replace('N', &n.to_string());
        if n % kinds.len() == 3 {
            want.push(json!(null));
        }
        want.push(json!(n));
    }
    raw.send(text);
    let got: Vec<_> = want.iter().map(|_| raw.answer()["id"].clone()).collect();
    assert_eq!(got, want);
}

#[test]
fn a_conversation_sent_byte_by_byte_has_the_same_answers() {
    let pretender = Pretender::new();
    let text = "{\"execute\": \"query-status\", \"id\": \"é}\"}\r\n nonsense\n{\"execute\":\"stop\"}\
                {\"execute\": \"query-status\"}\n{\"execute\": \"cont\", \"id\": [1, {}]}";
    let mut at_once = Raw::negotiated(&pretender.path);
    at_once.send(text);
    let want: Vec<_> = (0..5).map(|_| at_once.answer()).collect();
    let mut in_bytes = Raw::negotiated(&pretender.path);
    for byte in text.as_bytes() {
        in_bytes.send([*byte]);
    }
    let got: Vec<_> = (0..5).map(|_| in_bytes.answer()).collect();
    assert_eq!(got, want);
}

#[test]
fn a_command_that_is_too_long_ends_its_client_and_no_other() {
    let pretender = Pretender::new();
    let mut other = Client::connect(&pretender.path).unwrap();
    for byte in ["a", "{", "[", "\"", "\\"] {
        let mut raw = Raw::negotiated(&pretender.path);
        raw.send(byte.repeat((1 << 20) + 1));
        assert_eq!(raw.error(), "invalid-argument");
        assert!(raw.closed());
        assert_alive(&mut other);
    }
    // The longest that is allowed is carried out.
    let mut raw = Raw::negotiated(&pretender.path);
    let (head, tail) = (r#"{"execute": "query-status", "id": ""#, r#""}"#);
    let id = "x".repeat((1 << 20) - head.len() - tail.len());
    raw.send([head, &id, tail].concat());
    assert_eq!(raw.answer()["id"], json!(id));
}

#[test]
fn half_a_command_before_the_end_of_input_is_an_error() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    raw.send(r#"{"execute": "query-status", "id": 1}{"execute": "stop""#);
    raw.end_input();
    assert_eq!(raw.answer()["id"], 1);
    assert_eq!(raw.error(), "invalid-argument");
    assert!(raw.closed());
}

#[test]
fn what_was_sent_before_hanging_up_is_carried_out_and_half_a_command_is_not() {
    let pretender = Pretender::new();
    let mut other = Client::connect(&pretender.path).unwrap();
    let mut raw = Raw::negotiated(&pretender.path);
    raw.send(r#"{"execute": "system_powerdown"}{"execute": "stop""#);
    drop(raw);
    assert_eq!(other.next_event(PATIENCE).unwrap().unwrap().event, "POWERDOWN");
    let status = other.execute("query-status", None, PATIENCE).unwrap();
    assert_eq!(status["running"], true);
}

#[test]
fn whoever_does_not_read_events_is_closed_and_the_others_miss_none() {
    let limits = Limits { unread: 100 << 10, ..Limits::default() };
    let pretender = Pretender::within(limits);
    let mut slow = Raw::negotiated(&pretender.path);
    let mut other = Client::connect(&pretender.path).unwrap();
    let count = 20_000;
    for token in 0..count {
        let event = Event::Handover { token: token.to_string(), state: "x".repeat(100) };
        pretender.events.send(&event);
        let event = other.next_event(PATIENCE).unwrap().unwrap();
        assert_eq!(event.data["token"], token.to_string());
    }
    let mut text = Vec::new();
    let mut stream = slow.stream();
    match stream.read_to_end(&mut text) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    let read = text.iter().filter(|byte| **byte == b'\n').count();
    assert!(read < count, "all {count} events were kept for a client that never read");
    slow.send(r#"{"execute": "stop"}"#);
    assert_alive(&mut other);
}

#[test]
fn whoever_does_not_read_answers_is_not_read_either_and_loses_none() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let command = r#"{"execute": "query-commands"}"#;
    raw.stream().set_nonblocking(true).unwrap();
    let mut sent = 0;
    // Until the server has taken nothing for a while.
    let mut idle = 0;
    while idle < 20 {
        match raw.stream().write(command.as_bytes()) {
            Ok(bytes) => {
                assert_eq!(bytes, command.len(), "the kernel cut a small write");
                sent += 1;
                idle = 0;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                idle += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    assert_alive(&mut Client::connect(&pretender.path).unwrap());
    raw.stream().set_nonblocking(false).unwrap();
    for _ in 0..sent {
        assert!(raw.answer()["return"].is_array());
    }
    raw.end_input();
    assert!(raw.closed());
}

#[test]
fn one_answer_may_be_longer_than_what_may_be_left_unread() {
    let limits = Limits { unread: 100 << 10, ..Limits::default() };
    let pretender = Pretender::within(limits);
    let mut raw = Raw::negotiated(&pretender.path);
    // Longer than the socket's own buffer, too.
    let id = "x".repeat(900 << 10);
    raw.send(format!(r#"{{"execute": "query-status", "id": "{id}"}}"#));
    assert_eq!(raw.answer()["id"], id);
    raw.send(r#"{"execute": "query-status"}"#);
    assert_eq!(raw.answer()["return"]["running"], true);
}

#[test]
fn one_client_too_many_is_told_so_and_finds_room_when_another_goes() {
    let limits = Limits { clients: 3, ..Limits::default() };
    let pretender = Pretender::within(limits);
    let mut clients: Vec<Raw> = (0..3).map(|_| Raw::negotiated(&pretender.path)).collect();
    let mut refused = Raw::new(&pretender.path);
    assert_eq!(refused.error(), "busy");
    assert!(refused.closed());
    clients.pop();
    // The server learns of it in its own time.
    while Client::connect(&pretender.path).is_err() {}
}

#[test]
fn many_clients_at_once_are_each_answered_their_own() {
    let pretender = Pretender::new();
    std::thread::scope(|scope| {
        for client in 0..40 {
            let path = &pretender.path;
            scope.spawn(move || {
                let mut raw = Raw::negotiated(path);
                for n in 0..50 {
                    let id = client * 1000 + n;
                    raw.send(format!(r#"{{"execute": "query-cpus-fast", "id": {id}}}"#));
                    assert_eq!(raw.answer()["id"], id);
                }
            });
        }
    });
}

#[test]
fn a_descriptor_belongs_to_the_command_that_it_came_with() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let closed = |reader: &mut UnixStream| reader.read(&mut [0]).unwrap() == 0;
    // None of these takes what comes with it, and none leaves it to the next.
    for line in [
        "{\"execute\": \"query-status\"}\r\n",
        "{\"execute\": \"getfd\"}\n",
        "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"7up\"}}",
        "{\n",
    ] {
        let (mut stray, stray_writer) = pipe();
        let (mut reader, writer) = pipe();
        send_with_descriptors(&raw, line, &[stray_writer.as_fd()]);
        drop(stray_writer);
        raw.answer();
        let getfd = r#"{"execute": "getfd", "arguments": {"fdname": "way"}}"#;
        send_with_descriptors(&raw, getfd, &[writer.as_fd()]);
        drop(writer);
        assert_eq!(raw.answer(), json!({"return": {}}), "after {line}");
        assert!(closed(&mut stray));
        raw.send(r#"{"execute": "migrate", "arguments": {"uri": "fd:way"}}"#);
        assert_eq!(raw.answer(), json!({"return": {}}));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "moved");
    }
}

#[test]
fn a_descriptor_may_come_with_a_blank_before_its_command() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let (_reader, writer) = pipe();
    raw.send("{\"execute\": \"query-status\"}\n");
    send_with_descriptors(&raw, " ", &[writer.as_fd()]);
    raw.send("{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"way\"}}\n");
    assert!(raw.answer().get("return").is_some());
    assert_eq!(raw.answer(), json!({"return": {}}));
}

#[test]
fn too_many_descriptors_end_their_client_and_are_closed() {
    let pretender = Pretender::new();
    let mut other = Client::connect(&pretender.path).unwrap();
    for (at_once, times) in [(17, 1), (64, 1), (1, 17), (4, 5)] {
        let mut raw = Raw::negotiated(&pretender.path);
        let (mut reader, writer) = pipe();
        for _ in 0..times {
            send_with_descriptors(&raw, " ", &vec![writer.as_fd(); at_once]);
        }
        drop(writer);
        assert_eq!(raw.error(), "invalid-argument");
        assert!(raw.closed());
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "a descriptor is still open");
        assert_alive(&mut other);
    }
}

#[test]
fn a_client_can_name_only_so_many_descriptors() {
    let limits = Limits { named_descriptors: 2, ..Limits::default() };
    let pretender = Pretender::within(limits);
    let mut client = Client::connect(&pretender.path).unwrap();
    let (_reader, writer) = pipe();
    for name in ["a", "b", "a"] {
        client.pass_descriptor(name, writer.as_fd(), PATIENCE).unwrap();
    }
    client.pass_descriptor("c", writer.as_fd(), PATIENCE).unwrap_err();
    client.execute("closefd", Some(json!({"fdname": "b"})), PATIENCE).unwrap();
    client.pass_descriptor("c", writer.as_fd(), PATIENCE).unwrap();
}

#[test]
fn neither_a_command_that_never_ends_nor_a_client_that_never_reads_keeps_the_server_up() {
    let limits = Limits {
        running_grace: Duration::from_millis(100),
        flush_grace: Duration::from_millis(100),
        ..Limits::default()
    };
    let pretender = Pretender::within(limits);
    let deaf = Raw::negotiated(&pretender.path);
    // More than a socket holds, less than the limit at which the client would be closed.
    for _ in 0..1500 {
        let event = Event::Handover { token: "t".into(), state: "x".repeat(1000) };
        pretender.events.send(&event);
    }
    let mut asker = Raw::negotiated(&pretender.path);
    let machine = pretender.machine.clone();
    machine.gate.close();
    asker.send(r#"{"execute": "system_reset"}"#);
    machine.gate.await_waiting();
    pretender.server.shutdown();
    assert!(asker.closed());
    machine.gate.open();
    drop(deaf);
}
