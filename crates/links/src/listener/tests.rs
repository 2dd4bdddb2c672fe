use super::*;
use crate::connect;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

const LONG: Duration = Duration::from_secs(20);

fn at(text: &str) -> Address {
    text.parse().unwrap()
}

fn listen_on(address: &Address) -> Result<Listener, LinkError> {
    Listener::bind(address, &Descriptors::none())
}

fn reach(address: &Address) -> Result<Stream, LinkError> {
    connect(address, LONG, &Descriptors::none())
}

fn talks(listener: &Listener, there: &Stream) {
    let here = listener.accept(None).unwrap().unwrap();
    (&mut &*there).write_all(b"ping").unwrap();
    let mut got = [0; 4];
    (&here).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ping");
}

#[test]
fn tcp_connections_come_in_on_the_port_that_the_kernel_chose() {
    for text in ["tcp:127.0.0.1:0", "tcp:localhost:0"] {
        let listener = listen_on(&at(text)).unwrap();
        assert!(!listener.local_address().to_string().ends_with(":0"));
        talks(&listener, &reach(listener.local_address()).unwrap());
        talks(&listener, &reach(listener.local_address()).unwrap());
    }
}

#[test]
fn a_unix_socket_is_the_owners_alone_and_goes_with_its_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let address = Address::Unix(path.clone());
    let listener = listen_on(&address).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    talks(&listener, &reach(&address).unwrap());
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn the_socket_of_a_dead_process_is_replaced_and_that_of_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let address = Address::Unix(path.clone());
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = listen_on(&address).unwrap();
    let error = listen_on(&address).unwrap_err();
    assert!(error.to_string().contains("somebody listens there already"), "{error}");
    // What the second one tried was a connection, and ended at once.
    let probe = listener.accept(None).unwrap().unwrap();
    assert_eq!((&probe).read(&mut [0]).unwrap(), 0);
    talks(&listener, &reach(&address).unwrap());
}

#[test]
fn a_listener_does_not_remove_the_socket_of_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let listener = listen_on(&Address::Unix(path.clone())).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    std::fs::write(&path, "precious").unwrap();
    let error = listen_on(&Address::Unix(path.clone())).unwrap_err();
    assert!(error.to_string().contains("no socket"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn waiting_ends_with_nothing_at_its_timeout_and_with_an_error_when_closed() {
    let listener = listen_on(&at("tcp:127.0.0.1:0")).unwrap();
    assert!(listener.accept(Some(Duration::from_millis(5))).unwrap().is_none());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| listener.accept(None));
        listener.close();
        assert!(matches!(waiting.join().unwrap(), Err(LinkError::Closed { .. })));
    });
    assert!(matches!(listener.accept(None), Err(LinkError::Closed { .. })));
}

#[test]
fn given_connections_are_accepted_in_the_order_of_their_names() {
    let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
    let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let given = Descriptors::none();
    for (name, fd) in ["in", "in-0", "in-1"].into_iter().zip(ours) {
        given.give(name, fd.into());
    }
    let listener = Listener::bind(&at("fd:in"), &given).unwrap();
    for there in theirs {
        let there = connect(&at("fd:x"), LONG, &Descriptors::one("x", there.into())).unwrap();
        talks(&listener, &there);
    }
    assert!(listener.accept(Some(Duration::from_millis(5))).unwrap().is_none());
}

#[test]
fn a_given_connection_is_accepted_once_and_a_given_listener_goes_on() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let address = at("fd:in");
    let given = Descriptors::one("in", ours.into());
    let listener = Listener::bind(&address, &given).unwrap();
    let there = connect(&at("fd:out"), LONG, &Descriptors::one("out", theirs.into())).unwrap();
    talks(&listener, &there);
    assert!(listener.accept(Some(Duration::from_millis(5))).unwrap().is_none());

    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Address::from(socket.local_addr().unwrap());
    let listener = Listener::bind(&address, &Descriptors::one("in", socket.into())).unwrap();
    talks(&listener, &reach(&target).unwrap());
    talks(&listener, &reach(&target).unwrap());
}

#[test]
fn errors_name_the_address_and_what_to_try() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = Address::Unix(folder.path().join("nowhere.sock"));
    let port = listen_on(&at("tcp:127.0.0.1:0")).unwrap().local_address().clone();
    for (error, words) in [
        (reach(&port).unwrap_err(), "start the destination with --incoming first"),
        (reach(&nowhere).unwrap_err(), "no such socket"),
        (reach(&at("fd:gone")).unwrap_err(), "no descriptor is named `gone`"),
        (reach(&at("file:x")).unwrap_err(), "file:x cannot be used here"),
        (listen_on(&at("file:x")).unwrap_err(), "file:x cannot be used here"),
        (listen_on(&at("fd:gone")).unwrap_err(), "no descriptor is named `gone`"),
        (listen_on(&at("tcp:192.0.2.1:1")).unwrap_err(), "does not have that address"),
        (listen_on(&at("unix:/nonexistent/x")).unwrap_err(), "folder does not exist"),
    ] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn nobody_home_on_a_full_queue_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full.sock");
    let address = Address::Unix(path.clone());
    let _listener = listen_on(&address).unwrap();
    let mut held = Vec::new();
    let error = loop {
        match connect(&address, Duration::from_millis(5), &Descriptors::none()) {
            Ok(stream) => held.push(stream),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LinkError::NoAnswer { .. }), "{error}");
    assert!(!held.is_empty());
}
