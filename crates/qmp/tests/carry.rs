//! Clients whose server is replaced under them, and who do not notice.
#![allow(clippy::unwrap_used, reason = "clippy knows tests only by their attribute")]

mod machine;
mod raw;

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use machine::Pretender;
use qmp::command::{Command, Migrate};
use qmp::{
    Client, Context, Error, Event, Handler, Limits, Reply, SavedServer, Server, ServerHandle,
    SuspendError,
};
use raw::Raw;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// Long enough for any machine; reached only when something is broken.
const TIME: Duration = Duration::from_secs(30);
const PATIENCE: Option<Duration> = Some(TIME);

fn send_with_descriptor(raw: &Raw, text: &str, descriptor: BorrowedFd<'_>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
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

/// Has the pretender write into the descriptor of this name.
fn migrate_to(name: &str) -> Value {
    let migrate = Migrate { uri: Some(format!("fd:{name}")), ..Default::default() };
    serde_json::to_value(Command::Migrate(migrate)).unwrap()
}

fn assert_moved(mut reader: UnixStream) {
    let mut text = [0; 5];
    reader.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"moved");
}

fn pass(n: u64) -> Event {
    Event::MigrationPass { pass: n }
}

/// The numbers of the passes that the client is told of next.
fn passes(raw: &mut Raw, count: usize) -> Vec<u64> {
    (0..count).map(|_| raw.message()["data"]["pass"].as_u64().unwrap()).collect()
}

fn unread_input(saved: &SavedServer) -> usize {
    saved.clients[0].input.bytes.len()
}

#[test]
fn a_client_that_has_sent_half_a_command_sends_the_other_half() {
    let mut pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let text = r#"{"execute": "query-name", "id": "é}\""}"#.as_bytes();
    // Each time in another place, and from one process to the next.
    for cut in 1..text.len() {
        let (first, second) = text.split_at(cut);
        raw.send(first);
        let parts = pretender.suspend_when(|saved| unread_input(saved) == first.len());
        pretender = pretender.replaced(parts);
        raw.send(second);
        assert_eq!(raw.message(), json!({"return": {"name": "pretender"}, "id": "é}\""}));
    }
}

#[test]
fn commands_under_way_are_finished_first_and_those_behind_them_carried_out_after() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let mut other = Raw::negotiated(&pretender.path);
    pretender.machine.gate.close();
    // More than one client may have under way.
    let mut text = r#"{"execute": "system_reset", "id": 0}"#.to_owned();
    (1..40).for_each(|n| text += &format!(r#"{{"execute": "query-name", "id": {n}}}"#));
    raw.send(text);
    pretender.machine.gate.await_waiting();
    other.send(r#"{"execute": "query-name", "id": "other"}"#);
    let server = &pretender.server;
    let suspended = std::thread::scope(|scope| {
        let suspending = scope.spawn(|| {
            loop {
                match server.suspend(TIME) {
                    Err(SuspendError::Already) => {}
                    result => return result.unwrap(),
                }
            }
        });
        // It has begun when there cannot be another.
        while !matches!(server.suspend(Duration::from_millis(10)), Err(SuspendError::Already)) {}
        pretender.machine.gate.open();
        suspending.join().unwrap()
    });
    let (saved, descriptors) = suspended.into_parts();
    let parts: (_, Vec<_>) = (saved, descriptors.into_iter().map(|(_, fd)| fd).collect());
    assert!(parts.0.clients[0].input.bytes.len() > 20 * 30, "not all were taken");
    let pretender = pretender.replaced(parts);
    let ids: Vec<_> = (0..40).map(|_| raw.answer()["id"].clone()).collect();
    assert_eq!(ids, (0..40).map(|n| json!(n)).collect::<Vec<_>>());
    assert_eq!(other.answer()["id"], "other");
    pretender.server.shutdown();
}

#[test]
fn a_command_that_takes_too_long_is_waited_for_in_vain_and_the_server_goes_on() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    pretender.machine.gate.close();
    raw.send(r#"{"execute": "system_reset", "id": 1}{"execute": "query-name", "id": 2}"#);
    pretender.machine.gate.await_waiting();
    let error = pretender.server.suspend(Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, SuspendError::TimedOut { .. }), "{error}");
    // It reads again while that command still runs.
    raw.send(r#"{"exec-oob": "query-status", "id": 3}"#);
    assert_eq!(raw.answer()["id"], 3);
    pretender.machine.gate.open();
    assert_eq!((raw.answer()["id"].clone(), raw.answer()["id"].clone()), (json!(1), json!(2)));
    let parts = pretender.suspend();
    let _pretender = pretender.replaced(parts);
    raw.send(r#"{"execute": "query-name", "id": 4}"#);
    assert_eq!(raw.answer()["id"], 4);
}

#[test]
fn answers_that_a_client_has_not_read_arrive_once_and_in_order() {
    let mut pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let count = 600;
    let text: String =
        (0..count).map(|n| format!(r#"{{"execute": "query-commands", "id": {n}}}"#)).collect();
    raw.send(text);
    for _ in 0..2 {
        // The socket is full, and so is what the server keeps for one client: it takes no more.
        let full = Limits::default().unread_answers;
        let parts = pretender.suspend_when(|saved| saved.clients[0].output.len() >= full);
        assert!(unread_input(&parts.0) > 0);
        pretender = pretender.replaced(parts);
    }
    let ids: Vec<_> = (0..count).map(|_| raw.answer()["id"].clone()).collect();
    assert_eq!(ids, (0..count).map(|n| json!(n)).collect::<Vec<_>>());
}

#[test]
fn a_client_that_reads_nothing_is_closed_by_the_same_limit() {
    let limits = Limits { unread: 1000, ..Limits::default() };
    let mut pretender = Pretender::within(limits);
    let mut raw = Raw::negotiated(&pretender.path);
    let mut sent = 0;
    loop {
        let parts = pretender.suspend();
        let over = parts.0.clients.is_empty();
        pretender = pretender.replaced(parts);
        if over {
            break;
        }
        for _ in 0..100 {
            sent += 1;
            pretender.events.send(&pass(sent));
        }
    }
    // What it was told before is whole and in order.
    let mut told = 0;
    let mut text = String::new();
    let mut stream = raw.stream().try_clone().unwrap();
    let _ = stream.read_to_string(&mut text);
    for line in text.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { break };
        told += 1;
        assert_eq!(event["data"]["pass"], told);
    }
    assert!(told > 0 && told < sent);
    assert!(raw.closed());
}

#[test]
fn descriptors_that_a_client_has_passed_can_be_used_afterwards() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let (readers, writers): (Vec<_>, Vec<_>) = (0..3).map(|_| pipe()).unzip();
    // One is named,
    send_with_descriptor(
        &raw,
        r#"{"execute": "getfd", "arguments": {"fdname": "named"}}"#,
        writers[0].as_fd(),
    );
    assert!(raw.answer().get("return").is_some());
    // one came with half the command that names it,
    let (first, second) = (r#"{"execute": "getfd", "#, r#""arguments": {"fdname": "half"}}"#);
    send_with_descriptor(&raw, first, writers[1].as_fd());
    let parts = pretender.suspend_when(|saved| !saved.clients[0].unclaimed.is_empty());
    assert_eq!(parts.0.clients[0].named.len(), 1);
    raw.send(second);
    // and one nobody has read yet.
    send_with_descriptor(
        &raw,
        r#"{"execute": "getfd", "arguments": {"fdname": "queued"}}"#,
        writers[2].as_fd(),
    );
    drop(writers);
    let pretender = pretender.replaced(parts);
    for _ in 0..2 {
        assert!(raw.answer().get("return").is_some());
    }
    for (name, mut reader) in ["named", "half", "queued"].into_iter().zip(readers) {
        raw.send(migrate_to(name).to_string());
        assert!(raw.answer().get("return").is_some());
        let mut text = String::new();
        // To its end: nobody kept a duplicate.
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "moved");
    }
    drop(pretender);
}

#[test]
fn a_name_goes_to_the_descriptor_that_came_with_its_own_command() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let (stray, ours) = (pipe(), pipe());
    send_with_descriptor(&raw, r#"{"execute": "query-name""#, stray.1.as_fd());
    let parts = pretender.suspend_when(|saved| !saved.clients[0].unclaimed.is_empty());
    let _pretender = pretender.replaced(parts);
    raw.send("}\n");
    assert!(raw.answer().get("return").is_some());
    let getfd = r#"{"execute": "getfd", "arguments": {"fdname": "way"}}"#;
    send_with_descriptor(&raw, getfd, ours.1.as_fd());
    assert!(raw.answer().get("return").is_some());
    raw.send(migrate_to("way").to_string());
    assert!(raw.answer().get("return").is_some());
    assert_moved(ours.0);
}

#[test]
fn sets_of_descriptors_stay_and_are_called_the_same() {
    let mut pretender = Pretender::new();
    let mut client = Client::connect(&pretender.path).unwrap();
    let file = tempfile::tempfile().unwrap();
    let set = client.add_descriptor(None, file.as_fd(), PATIENCE).unwrap();
    client.add_descriptor(Some(7), file.as_fd(), PATIENCE).unwrap();
    for _ in 0..2 {
        let before = client.execute("query-fdsets", None, PATIENCE).unwrap();
        // Other descriptors have these numbers by the time of the adoption.
        let _others: Vec<_> = (0..8).map(|_| file.try_clone().unwrap()).collect();
        let parts = pretender.suspend();
        pretender = pretender.replaced(parts);
        assert_eq!(client.execute("query-fdsets", None, PATIENCE).unwrap(), before);
        // A new one is not called as one of those that have come.
        client.add_descriptor(Some(8), file.as_fd(), PATIENCE).unwrap();
    }
    let sets = client.execute("query-fdsets", None, PATIENCE).unwrap();
    let mut names: Vec<i64> = (sets.as_array().unwrap().iter())
        .flat_map(|set| set["fds"].as_array().unwrap())
        .map(|member| member["fd"].as_i64().unwrap())
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 4, "{sets}");
    let first = sets[0]["fds"][0]["fd"].clone();
    let remove = json!({"fdset-id": set, "fd": first});
    client.execute("remove-fd", Some(remove.clone()), PATIENCE).unwrap();
    client.execute("remove-fd", Some(remove), PATIENCE).unwrap_err();
    // They are gone with the last client, as ever.
    drop(client);
    let parts = pretender.suspend_when(|saved| saved.clients.is_empty());
    assert!(parts.0.sets.is_empty());
}

#[test]
fn clients_are_in_the_phase_of_their_session_that_they_were_in() {
    let pretender = Pretender::new();
    let mut greeted = Raw::new(&pretender.path);
    assert!(greeted.message().get("QMP").is_some());
    let mut plain = Raw::new(&pretender.path);
    plain.message();
    plain.send(r#"{"execute": "qmp_capabilities"}"#);
    plain.message();
    let mut oob = Raw::negotiated(&pretender.path);
    let parts = pretender.suspend();
    // Who comes meanwhile waits.
    let mut waiting = Raw::new(&pretender.path);
    let pretender = pretender.replaced(parts);
    assert!(waiting.message().get("QMP").is_some());
    pretender.events.send(&pass(1));
    for raw in [&mut greeted, &mut waiting] {
        raw.send(r#"{"execute": "query-name"}"#);
        assert_eq!(raw.message()["error"]["class"], "CommandNotFound");
        raw.send(r#"{"execute": "qmp_capabilities"}"#);
        assert!(raw.message().get("return").is_some());
    }
    assert_eq!(passes(&mut plain, 1), [1]);
    plain.send(r#"{"exec-oob": "query-status"}"#);
    assert_eq!(plain.error(), "invalid-argument");
    oob.send(r#"{"exec-oob": "query-status"}"#);
    assert!(oob.answer().get("return").is_some());
}

#[test]
fn events_before_between_and_after_come_once_and_in_order() {
    let mut pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let mut deaf = Raw::new(&pretender.path);
    deaf.message();
    let mut n = 0;
    let mut send = |pretender: &Pretender| {
        for _ in 0..3 {
            n += 1;
            pretender.events.send(&pass(n));
        }
    };
    for _ in 0..3 {
        send(&pretender);
        assert!(pretender.server.late_events().is_empty());
        let parts = pretender.suspend();
        send(&pretender);
        assert_eq!(pretender.server.late_events().len(), 3);
        pretender = pretender.replaced(parts);
        send(&pretender);
        // The same when it goes on by itself.
        drop(pretender.suspend());
        send(&pretender);
        pretender.server.resume();
        send(&pretender);
    }
    assert_eq!(passes(&mut raw, 45), (1..=45).collect::<Vec<_>>());
    deaf.send(r#"{"execute": "qmp_capabilities"}"#);
    assert!(deaf.message().get("return").is_some());
}

#[test]
fn events_that_another_thread_sends_all_the_while_come_once_and_in_order() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let events = pretender.events.clone();
    let sending = std::thread::spawn(move || (1..=3000).for_each(|n| events.send(&pass(n))));
    let told = std::thread::spawn(move || passes(&mut raw, 3000));
    while !told.is_finished() {
        drop(pretender.suspend());
        pretender.server.resume();
    }
    sending.join().unwrap();
    assert_eq!(told.join().unwrap(), (1..=3000).collect::<Vec<_>>());
}

#[test]
fn a_late_event_that_is_none_is_left_out() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let (saved, descriptors) = pretender.suspend();
    let mut server = Server::adopt(saved, descriptors).unwrap();
    let bad = ["", "{", "[]", "{}\r\n{}", "{\n}", "{} {}", "\"\n\""];
    server.deliver(bad.map(str::to_owned).to_vec());
    server.deliver(vec!["{\"event\":\"A\"}\r\n".to_owned(), "{\"event\":\"B\"}".to_owned()]);
    pretender.server.release();
    let _server = server.start(pretender.machine.clone()).unwrap();
    assert_eq!(raw.message()["event"], "A");
    assert_eq!(raw.message()["event"], "B");
    raw.send(r#"{"execute": "query-name"}"#);
    assert!(raw.message().get("return").is_some());
}

#[test]
fn who_hangs_up_meanwhile_is_noticed_by_whoever_goes_on() {
    let pretender = Pretender::new();
    let pass = || {
        let raw = Raw::negotiated(&pretender.path);
        let (reader, writer) = pipe();
        let getfd = r#"{"execute": "getfd", "arguments": {"fdname": "way"}}"#;
        send_with_descriptor(&raw, getfd, writer.as_fd());
        (raw, reader)
    };
    let closed = |reader: &mut UnixStream| reader.read(&mut [0]).unwrap() == 0;
    let (resumed, mut resumed_end) = pass();
    let (adopted, mut adopted_end) = pass();
    let named = |saved: &SavedServer| saved.clients.iter().all(|client| client.named.len() == 1);
    drop(pretender.suspend_when(named));
    drop(resumed);
    pretender.server.resume();
    assert!(closed(&mut resumed_end));
    let parts = pretender.suspend();
    drop(adopted);
    let _pretender = pretender.replaced(parts);
    assert!(closed(&mut adopted_end));
}

#[test]
fn a_server_that_goes_on_hangs_up_although_the_other_process_has_duplicates() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let mut other = Raw::negotiated(&pretender.path);
    let duplicates = pretender.suspend();
    pretender.server.resume();
    raw.end_input();
    assert!(raw.closed());
    other.send(r#"{"execute": "query-name"}"#);
    assert!(other.answer().get("return").is_some());
    pretender.server.shutdown();
    assert!(other.closed());
    assert!(!pretender.path.exists());
    drop(duplicates);
}

#[test]
fn a_suspended_server_can_be_shut_down() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let duplicates = pretender.suspend();
    pretender.events.send(&pass(1));
    pretender.server.shutdown();
    assert_eq!(passes(&mut raw, 1), [1]);
    assert!(raw.closed());
    assert!(!pretender.path.exists());
    drop(duplicates);
}

#[test]
fn the_file_of_a_socket_belongs_to_whoever_serves_it() {
    let pretender = Pretender::new();
    let (saved, descriptors) = pretender.suspend();
    // Another process that gives up changes nothing,
    let duplicates = || descriptors.iter().map(|fd| fd.try_clone().unwrap()).collect();
    drop(Server::adopt(saved.clone(), duplicates()).unwrap());
    let mut wrong = saved.clone();
    wrong.clients.clear();
    wrong.sets.push(qmp::saved::SavedSet { number: 0, members: Vec::new() });
    Server::adopt(wrong, duplicates()).unwrap_err();
    assert!(pretender.path.exists());
    // nor does the owner once it has let go,
    let path = pretender.path.clone();
    let pretender = pretender.replaced((saved, descriptors));
    assert!(path.exists());
    Client::connect(&path).unwrap();
    // and the last one tidies up.
    pretender.server.shutdown();
    assert!(!path.exists());
}

#[test]
fn a_server_that_nobody_can_have_adopted_is_shut_down_instead_of_released() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    pretender.server.release();
    assert!(raw.closed());
    assert!(!pretender.path.exists());
}

#[test]
fn a_server_is_suspended_once_at_a_time() {
    let pretender = Pretender::new();
    let mut raw = Raw::negotiated(&pretender.path);
    let _parts = pretender.suspend();
    let again = pretender.server.suspend(TIME).unwrap_err();
    assert!(matches!(again, SuspendError::Already), "{again}");
    // Not even by giving up waiting for that.
    let impatient = pretender.server.suspend(Duration::ZERO).unwrap_err();
    assert!(matches!(impatient, SuspendError::Already | SuspendError::TimedOut { .. }));
    let again = pretender.server.suspend(TIME).unwrap_err();
    assert!(matches!(again, SuspendError::Already), "{again}");
    pretender.server.resume();
    pretender.server.resume();
    raw.send(r#"{"execute": "query-name"}"#);
    assert!(raw.answer().get("return").is_some());
}

/// Asks for a suspension while it carries out a command.
#[derive(Default)]
struct Impatient {
    server: OnceLock<ServerHandle>,
    errors: Mutex<Vec<SuspendError>>,
}

impl Handler for Impatient {
    fn execute(&self, _: Command, _: &Context) -> Result<Reply, Error> {
        let error = self.server.get().unwrap().suspend(TIME).unwrap_err();
        self.errors.lock().unwrap().push(error);
        Ok(().into())
    }
}

#[test]
fn a_command_cannot_wait_for_itself_to_be_finished() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let handler = Arc::new(Impatient::default());
    let server = Server::bind(&[(path.clone(), 0o600)]).unwrap().start(handler.clone()).unwrap();
    handler.server.set(server).unwrap();
    let mut raw = Raw::negotiated(&path);
    raw.send(r#"{"execute": "query-status"}{"exec-oob": "query-status"}"#);
    for _ in 0..2 {
        assert!(raw.answer().get("return").is_some());
    }
    let errors = handler.errors.lock().unwrap();
    assert_eq!(errors.len(), 2);
    assert!(errors.iter().all(|error| matches!(error, SuspendError::InCommand)), "{errors:?}");
}

#[test]
fn each_descriptor_is_said_with_its_role_in_the_order_of_the_table() {
    let pretender = Pretender::new();
    let mut client = Client::connect(&pretender.path).unwrap();
    let file = tempfile::tempfile().unwrap();
    client.pass_descriptor("b", file.as_fd(), PATIENCE).unwrap();
    client.pass_descriptor("a", file.as_fd(), PATIENCE).unwrap();
    client.add_descriptor(Some(3), file.as_fd(), PATIENCE).unwrap();
    let sets = client.execute("query-fdsets", None, PATIENCE).unwrap();
    let (saved, descriptors) = pretender.server.suspend(TIME).unwrap().into_parts();
    let roles: Vec<_> = descriptors.iter().map(|(role, _)| role.clone()).collect();
    assert_eq!(roles, saved.descriptors().into_iter().map(|(role, _)| role).collect::<Vec<_>>());
    let texts: Vec<_> = roles.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            format!("the control socket {}", Path::display(&pretender.path)),
            "the connection of QMP client 0".to_owned(),
            "the descriptor `a` of QMP client 0".to_owned(),
            "the descriptor `b` of QMP client 0".to_owned(),
            format!("descriptor {} of /dev/fdset/3", sets[0]["fds"][0]["fd"]),
        ]
    );
    let same: Vec<OwnedFd> = descriptors.into_iter().map(|(_, fd)| fd).collect();
    assert_eq!(same.len(), texts.len());
}
