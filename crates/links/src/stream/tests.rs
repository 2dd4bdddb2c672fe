use super::*;
use std::os::unix::net::UnixDatagram;
use vm_memory::VolatileSlice;

const SHORT: Duration = Duration::from_millis(20);

fn fill(mut to: &Stream) -> io::Error {
    loop {
        if let Err(error) = to.write(&[7; 65536]) {
            return error;
        }
    }
}

#[test]
fn a_read_without_progress_ends_as_stalled_and_names_the_peer() {
    let (a, _b) = Stream::pair().unwrap();
    a.set_stall_limit(SHORT).unwrap();
    let error = (&a).read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(error.to_string().contains("fd:pair-a stalled"), "{error}");
    assert!(error.to_string().contains("20ms"), "{error}");
}

#[test]
fn a_write_that_nobody_takes_ends_as_stalled_and_the_stream_can_go_on() {
    let (a, b) = Stream::pair().unwrap();
    a.set_stall_limit(SHORT).unwrap();
    assert_eq!(fill(&a).kind(), io::ErrorKind::TimedOut);
    while (&b).read(&mut [0; 65536]).unwrap() == 65536 {}
    (&a).write_all(b"on").unwrap();
}

#[test]
fn an_idle_connection_may_wait_while_its_writes_are_limited() {
    let (a, b) = Stream::pair().unwrap();
    a.set_stall_limit(SHORT).unwrap();
    a.set_read_limit(None).unwrap();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(3 * SHORT);
        (&b).write_all(b"late").unwrap();
        b
    });
    let mut got = [0; 4];
    (&a).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"late");
    let _b = thread.join().unwrap();
    assert_eq!(fill(&a).kind(), io::ErrorKind::TimedOut);
}

#[test]
fn another_thread_ends_a_blocked_read_and_a_blocked_write() {
    for blocked in [|s: &Stream| (&mut &*s).read(&mut [0; 8]).unwrap_err(), |s: &Stream| fill(s)] {
        let (a, mut b) = Stream::pair().unwrap();
        let closer = a.closer();
        let thread = std::thread::spawn(move || blocked(&a));
        std::thread::sleep(SHORT);
        closer.close();
        let error = thread.join().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert!(error.to_string().contains("ended from this side"), "{error}");
        b.read_to_end(&mut Vec::new()).unwrap();
    }
}

#[test]
fn the_peers_end_is_an_end_and_not_an_error() {
    let (a, b) = Stream::pair().unwrap();
    drop(b);
    assert_eq!((&a).read(&mut [0; 8]).unwrap(), 0);
    let error = (&a).write(b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert!(error.to_string().contains("sending to fd:pair-a failed"), "{error}");
}

#[test]
fn a_connection_lives_until_its_last_clone_is_dropped() {
    let (a, b) = Stream::pair().unwrap();
    let other = a.clone();
    drop(a);
    (&other).write_all(b"x").unwrap();
    (&b).read_exact(&mut [0]).unwrap();
    drop(other);
    assert_eq!((&b).read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_head_and_guest_memory_arrive_in_order_in_guest_memory() {
    let (a, mut b) = Stream::pair().unwrap();
    let mut source: Vec<u8> =
        (0..6000u16).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect();
    let expected = [b"head", &source[..]].concat();
    let sending = std::thread::spawn(move || {
        assert_eq!(a.write_more(b"head").unwrap(), 4);
        (&a).write_all_volatile(&VolatileSlice::from(&mut source[..])).unwrap();
    });
    let mut memory = vec![0; expected.len()];
    b.read_exact_volatile(&mut VolatileSlice::from(&mut memory[..])).unwrap();
    sending.join().unwrap();
    assert_eq!(memory, expected);
}

#[test]
fn sending_from_guest_memory_keeps_the_limits_and_the_closer() {
    let (a, b) = Stream::pair().unwrap();
    a.set_stall_limit(SHORT).unwrap();
    let mut memory = vec![0; 1 << 20];
    let mut send = |mut a: &Stream| match a
        .write_all_volatile(&VolatileSlice::from(&mut memory[..]))
        .unwrap_err()
    {
        VolatileMemoryError::IOError(error) => error.kind(),
        other => panic!("{other}"),
    };
    assert_eq!(send(&a), io::ErrorKind::TimedOut);
    a.closer().close();
    assert_eq!(send(&a), io::ErrorKind::ConnectionAborted);
    let (c, d) = Stream::pair().unwrap();
    drop((b, d));
    assert_eq!(send(&c), io::ErrorKind::BrokenPipe);
}

#[test]
fn what_is_held_back_arrives_once_that_is_taken_back() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepted = listener.accept().unwrap().0;
    let given = |fd: OwnedFd| Stream::given(Address::Fd("x".into()), "x", fd).unwrap();
    let tcp = (given(connected.into()), given(accepted.into()));
    for (mut from, mut to) in [tcp, Stream::pair().unwrap()] {
        from.hold_back(true).unwrap();
        from.write_all(b"all ").unwrap();
        from.write_all(b"of it").unwrap();
        from.hold_back(false).unwrap();
        let mut came = [0; 9];
        to.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"all of it");
    }
}

#[test]
fn receiving_into_guest_memory_keeps_the_limits_and_the_closer() {
    let (mut a, b) = Stream::pair().unwrap();
    a.set_stall_limit(SHORT).unwrap();
    let mut memory = [0; 8];
    let mut receive = |a: &mut Stream| match a
        .read_exact_volatile(&mut VolatileSlice::from(&mut memory[..]))
        .unwrap_err()
    {
        VolatileMemoryError::IOError(error) => error.kind(),
        other => panic!("{other}"),
    };
    assert_eq!(receive(&mut a), io::ErrorKind::TimedOut);
    a.closer().close();
    assert_eq!(receive(&mut a), io::ErrorKind::ConnectionAborted);
    let (mut c, d) = Stream::pair().unwrap();
    drop((b, d));
    assert_eq!(receive(&mut c), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_given_descriptor_must_be_a_connected_stream_socket() {
    let given = |fd: OwnedFd| {
        Stream::given(Address::Fd("x".into()), "x", fd).map(|_| ()).map_err(|e| e.to_string())
    };
    let file = tempfile::tempfile().unwrap();
    assert!(given(file.into()).unwrap_err().contains("no socket"));
    let (datagram, _other) = UnixDatagram::pair().unwrap();
    assert!(given(datagram.into()).unwrap_err().contains("no stream socket"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _accepted = listener.accept().unwrap();
    assert!(given(listener.into()).unwrap_err().contains("not connected"));
    given(connected.into()).unwrap();
}
