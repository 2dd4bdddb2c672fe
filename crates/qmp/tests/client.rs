//! The client towards servers that do not behave.
#![allow(clippy::unwrap_used, reason = "clippy knows tests only by their attribute")]

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use qmp::{Client, ClientError};

/// Long enough for any machine; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

const HELLO: &str = concat!(
    r#"{"QMP": {"version": {}, "capabilities": []}}"#,
    "\n",
    r#"{"return": {}, "id": 0}"#,
    "\n"
);

/// A server that says one thing to its first client and then, if told to, hangs up.
fn server(says: &'static str, hangs_up: bool) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(says.as_bytes()).unwrap();
        if hangs_up {
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        } else {
            // Until the test process ends.
            std::thread::park();
        }
    });
    (folder, path)
}

#[test]
fn what_does_not_speak_qmp_is_an_error() {
    for says in ["220 mail.example ESMTP\n", "{}\n", "[1]\n", "{\"QMP\"\n", "\u{0}\n"] {
        let (_folder, path) = server(says, false);
        let error = Client::connect_within(&path, PATIENCE).unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)), "{says}: {error}");
    }
}

#[test]
fn a_server_that_turns_the_client_away_is_quoted() {
    let says = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"full\"}}\n";
    let (_folder, path) = server(says, true);
    match Client::connect_within(&path, PATIENCE) {
        Err(ClientError::Command(error)) => assert_eq!(error.desc, "full"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_that_is_silent_or_gone_is_not_waited_for() {
    let (_folder, path) = server("", false);
    let error = Client::connect_within(&path, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error}");
    let (_folder, path) = server("", true);
    let error = Client::connect_within(&path, PATIENCE).unwrap_err();
    assert!(matches!(error, ClientError::Closed), "{error}");
    let (folder, _) = server("", true);
    let error = Client::connect_within(&folder.path().join("none"), PATIENCE).unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
}

#[test]
fn a_broken_answer_or_event_is_an_error_of_the_protocol() {
    for broken in ["nonsense", r#"{"id": 1}"#, r#"{"event": 7}"#, r#"{"error": 7, "id": 1}"#] {
        let says: &'static str = format!("{HELLO}{broken}\n").leak();
        let (_folder, path) = server(says, false);
        let mut client = Client::connect_within(&path, PATIENCE).unwrap();
        let error = client.execute("stop", None, Some(PATIENCE)).unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)), "{broken}: {error}");
    }
}

#[test]
fn no_time_at_all_is_no_time_and_not_for_ever() {
    let (_folder, path) = server(HELLO, false);
    let mut client = Client::connect_within(&path, PATIENCE).unwrap();
    let error = client.execute("stop", None, Some(Duration::ZERO)).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error}");
    assert_eq!(client.next_event(Some(Duration::ZERO)).unwrap(), None);
    // A time that the clock cannot hold is for ever, and this server hangs up before.
    let (_folder, path) = server(HELLO, true);
    let mut client = Client::connect_within(&path, Duration::MAX).unwrap();
    let error = client.next_event(Some(Duration::MAX)).unwrap_err();
    assert!(matches!(error, ClientError::Closed), "{error}");
}
