//! A process that has no descriptor left. A test of its own, because it takes all of them.
#![allow(clippy::unwrap_used, reason = "clippy knows tests only by their attribute")]

mod machine;

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use machine::Pretender;
use qmp::Client;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn without_descriptors_the_clients_are_served_and_new_ones_wait_until_there_are_some() {
    let patience = Some(Duration::from_secs(30));
    let pretender = Pretender::new();
    let mut client = Client::connect(&pretender.path).unwrap();
    let address = SocketAddrUnix::new(&pretender.path).unwrap();
    let waiting: Vec<_> =
        (0..3).map(|_| socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap()).collect();
    let old = getrlimit(Resource::Nofile);
    let few = Rlimit { current: Some(128), maximum: old.maximum };
    setrlimit(Resource::Nofile, few).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    for socket in &waiting {
        connect(socket, &address).unwrap();
    }
    // More than once, so that the server has come across the waiting ones in between.
    for _ in 0..50 {
        client.execute("query-status", None, patience).unwrap();
    }
    // Nor can the server be carried away, and it goes on.
    let error = pretender.server.suspend(Duration::from_secs(30)).unwrap_err();
    assert!(matches!(error, qmp::SuspendError::System(_)), "{error}");
    client.execute("query-status", None, patience).unwrap();
    drop(taken);
    for socket in waiting {
        let mut stream = UnixStream::from(socket);
        stream.set_read_timeout(patience).unwrap();
        let mut greeting = [0; 6];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"{\"QMP\"");
    }
}
