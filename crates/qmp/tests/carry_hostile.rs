//! What claims to be a server and is none.
#![allow(clippy::unwrap_used, reason = "clippy knows tests only by their attribute")]

mod machine;
mod raw;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use machine::Pretender;
use proptest::prelude::*;
use qmp::saved::{Identity, SavedClient, SavedInput, SavedNamed, SavedSet, SavedUnclaimed};
use qmp::{AdoptError, Client, SavedServer, Server};
use raw::Raw;
use state::{Payload, Saved};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

type Parts = (SavedServer, Vec<OwnedFd>);

/// A server with something of everything.
struct Scene {
    pretender: Pretender,
    _client: Client,
    _half: Raw,
    parts: Parts,
}

impl Scene {
    fn new() -> Self {
        let pretender = Pretender::new();
        let mut client = Client::connect(&pretender.path).unwrap();
        let file = tempfile::tempfile().unwrap();
        for name in ["a", "b"] {
            client.pass_descriptor(name, file.as_fd(), PATIENCE).unwrap();
            client.add_descriptor(Some(2), file.as_fd(), PATIENCE).unwrap();
        }
        let mut half = Raw::new(&pretender.path);
        half.message();
        half.send(r#"{"execute": "#);
        let parts = pretender.suspend_when(|saved| saved.clients[1].input.bytes.len() == 12);
        Self { pretender, _client: client, _half: half, parts }
    }

    /// What is adopted works, and what is not is still the old server's.
    fn judge(self, saved: SavedServer, descriptors: Vec<OwnedFd>) -> Option<AdoptError> {
        let Self { pretender, parts, .. } = self;
        drop(parts);
        let path = pretender.path.clone();
        let listens = !saved.listeners.is_empty();
        let alive = || {
            let mut client = Client::connect(&path).unwrap();
            client.execute("query-name", None, PATIENCE).unwrap();
        };
        match Server::adopt(saved, descriptors) {
            Ok(server) => {
                let handler = pretender.machine.clone();
                pretender.server.release();
                let handle = server.start(handler).unwrap();
                if listens {
                    alive();
                }
                let (saved, descriptors) =
                    handle.suspend(Duration::from_secs(30)).unwrap().into_parts();
                assert_eq!(saved.descriptors().len(), descriptors.len());
                handle.shutdown();
                None
            }
            Err(error) => {
                assert!(path.exists());
                pretender.server.resume();
                alive();
                Some(error)
            }
        }
    }

    /// The same after a change of the saved server alone.
    fn judge_changed(mut self, change: impl FnOnce(&mut SavedServer)) -> Option<AdoptError> {
        let (mut saved, descriptors) = std::mem::replace(&mut self.parts, empty());
        change(&mut saved);
        self.judge(saved, descriptors)
    }
}

fn empty() -> Parts {
    (SavedServer { listeners: Vec::new(), clients: Vec::new(), sets: Vec::new() }, Vec::new())
}

/// Bytes that are taken for a server's state.
fn unpacked(data: Vec<u8>) -> Option<SavedServer> {
    let version = SavedServer::VERSION;
    let schema = SavedServer::SCHEMA.to_owned();
    let (instance, in_use) = (String::new(), None);
    let payload = Payload { schema, instance, version, least_reader: version, data, in_use };
    payload.unpack().ok()
}

#[test]
fn what_no_server_can_be_is_refused_with_its_reason() {
    type Change = fn(&mut SavedServer);
    let changes: &[(Change, &str)] = &[
        (|s| s.clients[0].oob = true, ""),
        (|s| s.clients[1].oob = true, "`exec-oob`"),
        (|s| s.clients[0].input.bytes = vec![b' '; (1 << 20) + (64 << 10) + 1], "more was read"),
        (|s| s.clients[0].input.position = u64::MAX, "bytes have been read"),
        (|s| s.clients[0].input.line = s.clients[0].input.position + 1, "its line starts"),
        (
            |s| {
                s.clients[0].deaf = true;
                s.clients[0].output = b"{}\r\n".to_vec();
            },
            "takes nothing",
        ),
        (|s| s.clients[0].named[0].name = "0".to_owned(), "start with a digit"),
        (|s| s.clients[0].named[0].name = "b".to_owned(), "the same name"),
        (|s| s.sets[0].members[0].number = -1, "is called -1"),
        (|s| s.sets[0].members[0].number = s.sets[0].members[1].number, "that of another"),
        (|s| s.sets.push(SavedSet { number: 3, members: Vec::new() }), "nothing is in set 3"),
        (
            |s| {
                let member = s.sets[0].members.remove(0);
                s.sets.push(SavedSet { number: 2, members: vec![member] });
            },
            "two sets 2",
        ),
        (|s| drop(s.clients.pop()), "descriptors, and"),
        (|s| s.listeners[0].path.push(b'x'), "is bound elsewhere"),
        (|s| s.listeners[0].path = vec![0; 300], "is bound elsewhere"),
        (|s| s.listeners[0].socket.inode += 1, "is something else"),
        (|s| s.clients.swap(0, 1), "is something else"),
    ];
    for (change, want) in changes {
        let said = Scene::new().judge_changed(change).map_or(String::new(), |e| e.to_string());
        assert!(said.contains(want) && said.is_empty() == want.is_empty(), "{said:?}: {want}");
    }
}

#[test]
fn a_descriptor_that_is_not_what_it_should_be_is_refused() {
    let identity = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd).unwrap();
        Identity { device: stat.st_dev, inode: stat.st_ino }
    };
    let datagrams = || OwnedFd::from(std::os::unix::net::UnixDatagram::unbound().unwrap());
    let listening = || {
        let folder = tempfile::tempdir().unwrap();
        OwnedFd::from(std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap())
    };
    let waiting = |scene: &Scene| {
        let path = scene.pretender.path.clone();
        std::fs::remove_file(&path).unwrap();
        OwnedFd::from(std::os::unix::net::UnixListener::bind(path).unwrap())
    };
    let file = || OwnedFd::from(File::open("/dev/null").unwrap());
    let stream = || OwnedFd::from(UnixStream::pair().unwrap().0);
    // The listener is the first, the first client the second.
    type Make<'a> = &'a dyn Fn(&Scene) -> OwnedFd;
    let cases: [(usize, Make<'_>, &str); 8] = [
        (0, &|_| file(), "is no Unix stream socket"),
        (0, &|_| datagrams(), "is no Unix stream socket"),
        (0, &|_| stream(), "does not listen"),
        (0, &|_| listening(), "is bound elsewhere"),
        (0, &waiting, "waits for clients"),
        (1, &|_| file(), "is no Unix stream socket"),
        (1, &|_| listening(), "listens"),
        (1, &|scene| scene.parts.1[4].try_clone().unwrap(), "came twice"),
    ];
    for (at, make, want) in cases {
        let mut scene = Scene::new();
        let wrong = make(&scene);
        let (mut saved, mut descriptors) = std::mem::replace(&mut scene.parts, empty());
        let slot =
            if at == 0 { &mut saved.listeners[0].socket } else { &mut saved.clients[0].socket };
        *slot = identity(&wrong);
        descriptors[at] = wrong;
        let error = Server::adopt(saved, descriptors).unwrap_err().to_string();
        assert!(error.contains(want), "{error}: {want}");
    }
}

#[test]
fn a_claimed_length_costs_nothing_until_it_has_come() {
    // A map with listeners, clients and sets, each of which claims to be as long as can be.
    for key in 0..3u8 {
        let mut data = vec![0xa3];
        for n in 0..3 {
            data.push(n);
            if n == key {
                data.extend([0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
            } else {
                data.push(0x80);
            }
        }
        assert!(unpacked(data).is_none());
    }
}

/// What is said of a client, whatever its descriptors.
#[derive(Debug, Clone)]
struct Claims {
    input: SavedInput,
    output: Vec<u8>,
    flags: [bool; 6],
    name: String,
}

impl Claims {
    fn make_of(self, client: &mut SavedClient) {
        (client.input, client.output) = (self.input, self.output);
        [
            client.negotiated,
            client.oob,
            client.end_of_input,
            client.input_done,
            client.deaf,
            client.overflowed,
        ] = self.flags;
        if let Some(first) = client.named.first_mut() {
            first.name = self.name;
        }
    }
}

fn claims() -> impl Strategy<Value = Claims> {
    let number = prop_oneof![0u64..200, any::<u64>()];
    let bytes = || prop::collection::vec(any::<u8>(), 0..100);
    (bytes(), number.clone(), number, bytes(), any::<[bool; 6]>(), ".{0,3}").prop_map(
        |(bytes, position, line, output, flags, name)| Claims {
            input: SavedInput { bytes, position, line },
            output,
            flags,
            name,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_state_says_there_is_a_working_server_or_an_error(
        first in claims(),
        second in claims(),
        number in any::<i32>(),
        unclaimed in prop::collection::vec(0u64..300, 0..3),
    ) {
        Scene::new().judge_changed(|saved| {
            first.make_of(&mut saved.clients[0]);
            second.make_of(&mut saved.clients[1]);
            saved.sets[0].members[0].number = number;
            // The same descriptors, as unclaimed ones.
            let client = &mut saved.clients[0];
            for (end, named) in unclaimed.into_iter().zip(std::mem::take(&mut client.named)) {
                let SavedNamed { descriptor, .. } = named;
                client.unclaimed.push(SavedUnclaimed { end, descriptor });
            }
        });
    }

    #[test]
    fn whatever_bytes_come_there_is_a_working_server_or_an_error(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut scene = Scene::new();
        let (saved, descriptors) = std::mem::replace(&mut scene.parts, empty());
        let mut data = Payload::pack("", &saved).data;
        for (at, byte) in changes {
            let at = at.index(data.len());
            data[at] = byte;
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len()));
        }
        if let Some(saved) = unpacked(data) {
            scene.judge(saved, descriptors);
        }
    }

    #[test]
    fn whatever_descriptors_come_there_is_a_working_server_or_an_error(
        taken in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        keep in any::<bool>(),
    ) {
        let mut scene = Scene::new();
        let (saved, descriptors) = std::mem::replace(&mut scene.parts, empty());
        let pool: Vec<OwnedFd> = descriptors
            .into_iter()
            .chain([File::open("/dev/null").unwrap().into()])
            .collect();
        let of = |at: usize| pool[at].as_fd().try_clone_to_owned().unwrap();
        let mut chosen: Vec<OwnedFd> = taken.iter().map(|at| of(at.index(pool.len()))).collect();
        if keep {
            // As many as there should be.
            chosen.truncate(pool.len() - 1);
            (chosen.len()..pool.len() - 1).for_each(|at| chosen.push(of(at)));
        }
        drop(pool);
        scene.judge(saved, chosen);
    }

    #[test]
    fn arbitrary_bytes_are_no_server(data in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(saved) = unpacked(data) {
            let count = saved.descriptors().len();
            let fds = (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect();
            prop_assert!(Server::adopt(saved, fds).is_err() || count == 0);
        }
    }
}
