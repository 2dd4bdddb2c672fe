//! Clients that behave.
#![allow(clippy::unwrap_used, reason = "clippy knows tests only by their attribute")]

mod machine;
mod raw;

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use machine::Pretender;
use qmp::command::{Command, Migrate};
use qmp::{Class, Client, ClientError, Error};
use raw::Raw;
use serde_json::{Value, json};
use state::Code;

/// Long enough for any machine; reached only when something is broken.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

fn client(pretender: &Pretender) -> Client {
    Client::connect(&pretender.path).unwrap()
}

fn refusal(result: Result<Value, ClientError>) -> Error {
    match result {
        Err(ClientError::Command(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

/// Two ends, of which the reading one does not wait for ever for the other to be closed.
fn pipe() -> (UnixStream, UnixStream) {
    let (reader, writer) = UnixStream::pair().unwrap();
    reader.set_read_timeout(PATIENCE).unwrap();
    (reader, writer)
}

#[test]
fn a_client_negotiates_asks_and_is_answered() {
    let pretender = Pretender::new();
    let mut client = client(&pretender);
    assert_eq!(client.greeting()["capabilities"], json!(["oob"]));
    let status = client.execute("query-status", None, PATIENCE).unwrap();
    assert_eq!(status, json!({"running": true, "status": "running"}));
    let version = client.execute("query-version", None, PATIENCE).unwrap();
    assert_eq!(version, client.greeting()["version"]);
    let commands = client.execute("query-commands", None, PATIENCE).unwrap();
    assert!(commands.as_array().unwrap().contains(&json!({"name": "migrate"})));
}

#[test]
fn an_error_has_its_class_and_code_and_the_connection_goes_on() {
    let pretender = Pretender::new();
    let mut client = client(&pretender);
    let error = refusal(client.execute("no-such-command", None, PATIENCE));
    assert_eq!((error.class, error.code), (Class::CommandNotFound, Code::InvalidArgument));
    let error = refusal(client.execute("migrate", Some(json!({"uri": "unix:/x"})), PATIENCE));
    assert_eq!((error.class, error.code), (Class::GenericError, Code::ConnectFailed));
    client.execute("query-status", None, PATIENCE).unwrap();
}

#[test]
fn a_command_that_panics_is_an_internal_error_and_ends_nothing() {
    let pretender = Pretender::new();
    let mut client = client(&pretender);
    let arguments = json!({"state": "pre-switchover"});
    let error = refusal(client.execute("migrate-continue", Some(arguments), PATIENCE));
    assert_eq!(error.code, Code::Internal);
    client.execute("query-status", None, PATIENCE).unwrap();
}

#[test]
fn every_client_sees_every_event_in_order_and_before_the_answer() {
    let pretender = Pretender::new();
    let mut clients: Vec<Client> = (0..20).map(|_| client(&pretender)).collect();
    clients[7].execute("stop", None, PATIENCE).unwrap();
    clients[3].execute("cont", None, PATIENCE).unwrap();
    clients[5].execute("system_powerdown", None, PATIENCE).unwrap();
    let now = qmp::Timestamp::now().seconds;
    for client in &mut clients {
        for name in ["STOP", "RESUME", "POWERDOWN"] {
            let event = client.next_event(PATIENCE).unwrap().unwrap();
            assert_eq!(event.event, name);
            assert!(event.timestamp.seconds.abs_diff(now) < 3600);
        }
    }
    // Whoever asked has the event by the time of the answer.
    clients[0].execute("stop", None, PATIENCE).unwrap();
    assert!(clients[0].next_event(Some(Duration::from_nanos(1))).unwrap().is_some());
}

#[test]
fn an_out_of_band_command_is_answered_while_another_runs() {
    let pretender = Pretender::new();
    let (mut asker, mut other) = (client(&pretender), client(&pretender));
    pretender.machine.gate.close();
    let waiting = std::thread::spawn(move || {
        asker.execute("system_reset", None, PATIENCE).unwrap();
    });
    pretender.machine.gate.await_waiting();
    other.execute_oob("query-status", None, PATIENCE).unwrap();
    other.execute_oob("query-version", None, PATIENCE).unwrap();
    let error = refusal(other.execute_oob("stop", None, PATIENCE));
    assert_eq!(error.code, Code::InvalidArgument);
    // An ordinary command waits its turn.
    let late = other.execute("query-status", None, Some(Duration::from_millis(50)));
    assert!(matches!(late, Err(ClientError::TimedOut(_))), "{late:?}");
    pretender.machine.gate.open();
    waiting.join().unwrap();
    // Its late answer is not taken for that of the next command.
    let name = other.execute("query-name", None, PATIENCE).unwrap();
    assert_eq!(name, json!({"name": "pretender"}));
}

#[test]
fn a_descriptor_that_was_passed_can_be_used_once() {
    let pretender = Pretender::new();
    let mut client = client(&pretender);
    let (mut reader, writer) = pipe();
    client.pass_descriptor("way", writer.as_fd(), PATIENCE).unwrap();
    drop(writer);
    let migrate = Command::Migrate(Migrate { uri: Some("fd:way".into()), ..Default::default() });
    client.run(&migrate, PATIENCE).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "moved");
    assert_eq!(refusal(client.run(&migrate, PATIENCE)).code, Code::InvalidArgument);
}

#[test]
fn a_descriptor_closes_by_closefd_by_its_name_used_again_and_with_its_client() {
    let pretender = Pretender::new();
    let mut client = client(&pretender);
    let closed = |reader: &mut UnixStream| reader.read(&mut [0]).unwrap() == 0;
    let pass = |client: &mut Client| {
        let (reader, writer) = pipe();
        client.pass_descriptor("way", writer.as_fd(), PATIENCE).unwrap();
        reader
    };
    let mut first = pass(&mut client);
    let mut second = pass(&mut client);
    assert!(closed(&mut first));
    let name = json!({"fdname": "way"});
    client.execute("closefd", Some(name.clone()), PATIENCE).unwrap();
    assert!(closed(&mut second));
    refusal(client.execute("closefd", Some(name.clone()), PATIENCE));
    refusal(client.execute("getfd", Some(name), PATIENCE));
    let mut third = pass(&mut client);
    drop(client);
    assert!(closed(&mut third));
}

#[test]
fn settings_are_set_and_read_back() {
    let pretender = Pretender::new();
    let mut client = client(&pretender);
    let set = json!({"capabilities": [{"capability": "pause-before-switchover", "state": true}]});
    client.execute("migrate-set-capabilities", Some(set), PATIENCE).unwrap();
    let all = client.execute("query-migrate-capabilities", None, PATIENCE).unwrap();
    let want = json!({"capability": "pause-before-switchover", "state": true});
    assert!(all.as_array().unwrap().contains(&want));
    let set = json!({"downtime-limit": 20});
    client.execute("migrate-set-parameters", Some(set), PATIENCE).unwrap();
    let all = client.execute("query-migrate-parameters", None, PATIENCE).unwrap();
    assert_eq!(all["downtime-limit"], 20);
}

#[test]
fn the_answer_to_quit_gets_out_and_then_the_connection_closes() {
    let pretender = Pretender::new();
    let (mut asker, mut other) = (client(&pretender), client(&pretender));
    let path = pretender.path.clone();
    let quitting = std::thread::spawn(move || {
        pretender.quit.recv().unwrap();
        pretender.server.shutdown();
        pretender.path.exists()
    });
    asker.execute("quit", None, PATIENCE).unwrap();
    assert!(!quitting.join().unwrap(), "the socket file is still there");
    for client in [&mut asker, &mut other] {
        assert_eq!(client.next_event(PATIENCE).unwrap().unwrap().event, "SHUTDOWN");
        assert!(matches!(client.next_event(PATIENCE), Err(ClientError::Closed)));
    }
    assert!(matches!(Client::connect(&path), Err(ClientError::Connect { .. })));
}

#[test]
fn commands_that_wait_when_the_server_ends_are_refused_and_the_running_one_is_not() {
    let pretender = Pretender::new();
    let mut first = client(&pretender);
    let mut second = Raw::negotiated(&pretender.path);
    pretender.machine.gate.close();
    let first = std::thread::spawn(move || first.execute("system_reset", None, PATIENCE));
    pretender.machine.gate.await_waiting();
    second.send(r#"{"execute": "stop", "id": 1}{"exec-oob": "query-version", "id": 2}"#);
    // Commands of a client are taken in order: now the one before waits in the queue.
    assert_eq!(second.answer()["id"], 2);
    let (machine, path) = (pretender.machine.clone(), pretender.path.clone());
    let ending = std::thread::spawn(move || pretender.server.shutdown());
    // The end begins with the socket file.
    while path.exists() {
        std::thread::yield_now();
    }
    machine.gate.open();
    first.join().unwrap().unwrap();
    let refused = second.answer();
    assert_eq!(
        (&refused["id"], &refused["error"]["x-whimbrel-code"]),
        (&json!(1), &json!("invalid-state"))
    );
    assert!(second.closed());
    ending.join().unwrap();
}
