mod carried;

use super::*;
use crate::bus::BusDevice;
use crate::event_loop::EventLoop;
use crate::irq::IrqLine;
use proptest::prelude::*;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;

const LONG: Duration = Duration::from_secs(20);

/// A process has at most one terminal in raw mode: for tests that have one.
static TERMINAL: Mutex<()> = Mutex::new(());

struct NoLine;
impl IrqLine for NoLine {
    fn set(&self, _: bool) {}
}

/// A machine with nothing but a console.
struct Machine {
    // Dropped before the loop that it is registered with.
    console: Console,
    uart: Arc<Mutex<Uart>>,
    _events: EventLoop,
}

impl Machine {
    fn with(open: impl FnOnce(&Handle) -> Console) -> Self {
        let events = EventLoop::start("test").unwrap();
        let console = open(events.handle());
        let uart = Arc::new(Mutex::new(Uart::new(Arc::new(NoLine), console.line())));
        console.connect(&uart);
        Self { console, uart, _events: events }
    }

    fn open(spec: &Spec) -> Self {
        Self::with(|events| Console::open(spec, events, || {}).unwrap())
    }

    fn say(&self, text: &[u8]) {
        lock(&self.uart).write(0, text);
    }

    fn saved_input(&self) -> Vec<u8> {
        lock(&self.uart).save().received
    }

    /// Reads from the UART as a guest does, until `count` bytes have come.
    fn hear(&self, count: usize) -> Vec<u8> {
        let end = Instant::now() + LONG;
        let mut heard = Vec::new();
        while heard.len() < count {
            assert!(Instant::now() < end, "{} of {count} bytes came", heard.len());
            let (mut status, mut byte) = ([0], [0]);
            let mut uart = lock(&self.uart);
            uart.read(5, &mut status);
            if status[0] & 1 == 0 {
                drop(uart);
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            uart.read(0, &mut byte);
            heard.push(byte[0]);
        }
        heard
    }
}

fn read_exactly(mut from: impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i % 251).to_le_bytes()[0]).collect()
}

fn client(path: &Path) -> UnixStream {
    let client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    client
}

/// A console on descriptors of ours, as on standard input and output.
fn on_descriptors(
    events: &Handle,
    input: impl AsFd,
    output: impl AsFd,
    quit: impl Fn() + Send + Sync + 'static,
) -> Console {
    let backend = backend::stdio(input.as_fd(), output.as_fd()).unwrap();
    Console::on(backend, &Spec::Stdio, events, Box::new(quit)).unwrap()
}

#[test]
fn output_is_appended_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, "before ").unwrap();
    let machine = Machine::open(&Spec::File(path.clone()));
    assert_eq!(machine.console.location(), Some(path.as_path()));
    machine.console.thaw();
    machine.say(b"hello");
    machine.console.flush(LONG);
    assert_eq!(std::fs::read(&path).unwrap(), b"before hello");
}

#[test]
fn a_file_gets_every_byte_however_fast_the_guest_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let machine = Machine::open(&Spec::File(path.clone()));
    machine.console.thaw();
    let text = pattern(10 * OUTPUT_CAPACITY);
    machine.say(&text);
    machine.console.flush(LONG);
    assert_eq!((std::fs::read(&path).unwrap() == text, machine.console.lost()), (true, 0));
}

#[test]
fn output_that_waited_for_a_file_is_written_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let machine = Arc::new(Machine::open(&Spec::File(path.clone())));
    machine.say(b"x");
    let text = pattern(2 * OUTPUT_CAPACITY);
    let saying = {
        let (machine, text) = (machine.clone(), text.clone());
        std::thread::spawn(move || machine.say(&text))
    };
    while !lock(&machine.console.shared.output).is_full() {
        std::thread::yield_now();
    }
    machine.console.thaw();
    saying.join().unwrap();
    machine.console.flush(LONG);
    let written = std::fs::read(&path).unwrap();
    assert!(written[1..] == text, "{} bytes", written.len());
}

#[test]
fn a_console_whose_reader_is_slow_moves_without_gap_or_repetition() {
    let pipe = || {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        (reader, writer)
    };
    let nothing = || File::open("/dev/null").unwrap();
    let ((old_reader, old_writer), (new_reader, new_writer)) = (pipe(), pipe());
    let old = Machine::with(|events| on_descriptors(events, nothing(), old_writer, || {}));
    let new = Machine::with(|events| on_descriptors(events, nothing(), new_writer, || {}));
    old.console.thaw();
    let text = pattern(20_000);
    old.say(&text);
    // Nobody reads, so the pipe takes a part and the rest waits.
    let saved = old.console.freeze();
    assert!(saved.unwritten.len() >= text.len() - 4096);
    new.console.restore(saved).unwrap();
    old.console.discard();
    new.console.thaw();
    drop(old);
    let mut shown = Vec::new();
    File::from(OwnedFd::from(old_reader)).read_to_end(&mut shown).unwrap();
    let rest = text.len() - shown.len();
    shown.extend(read_exactly(new_reader, rest));
    assert!(shown == text, "{rest} bytes were left to the new console");
}

#[test]
fn a_pseudo_terminal_carries_both_ways_and_echoes_nothing() {
    let machine = Machine::open(&Spec::Pty);
    machine.console.thaw();
    let path = machine.console.location().unwrap();
    let mut terminal = OpenOptions::new().read(true).write(true).open(path).unwrap();
    machine.say(b"login: ");
    assert_eq!(read_exactly(&terminal, 7), b"login: ");
    terminal.write_all(b"root\r").unwrap();
    assert_eq!(machine.hear(5), b"root\r");
    drop(terminal);
    // A reader that comes back finds it as it was.
    let mut terminal = OpenOptions::new().read(true).write(true).open(path).unwrap();
    terminal.write_all(b"x").unwrap();
    assert_eq!(machine.hear(1), b"x");
    assert!(machine.saved_input().is_empty());
}

#[test]
fn a_guest_is_not_held_up_by_a_console_that_nobody_reads() {
    let machine = Machine::open(&Spec::Pty);
    machine.console.thaw();
    machine.say(&pattern(4 * OUTPUT_CAPACITY));
    assert!(machine.console.lost() > 0);
}

#[test]
fn a_socket_client_sees_what_was_said_before_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let machine = Machine::open(&Spec::Unix(path.clone()));
    machine.console.thaw();
    machine.say(b"early ");
    let mut first = client(&path);
    machine.say(b"late");
    assert_eq!(read_exactly(&first, 10), b"early late");
    first.write_all(b"typed").unwrap();
    assert_eq!(machine.hear(5), b"typed");

    let mut second = String::new();
    client(&path).read_to_string(&mut second).unwrap();
    assert!(second.contains("has a client already"), "{second}");
    drop(first);
    machine.say(b"between");
    // The first one's end is noticed in the loop's own time.
    let end = Instant::now() + LONG;
    let third = loop {
        let third = client(&path);
        let text = read_exactly(&third, 7);
        if text == b"between" {
            break third;
        }
        assert!(Instant::now() < end, "{text:?}");
    };
    machine.say(b"!");
    assert_eq!(read_exactly(third, 1), b"!");
}

/// Whether a console's file goes, now that nobody has the console any more but perhaps the event loop,
/// which is then the last to let go of it.
fn goes(path: &Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while path.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    !path.exists()
}

#[test]
fn a_socket_s_path_is_taken_over_from_the_dead_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let spec = Spec::Unix(path.clone());
    let events = EventLoop::start("test").unwrap();
    let open = || Console::open(&spec, events.handle(), || {});
    let living = open().unwrap();
    assert!(matches!(open(), Err(ConsoleError::InUse(_))));
    drop(living);
    assert!(goes(&path));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(open().unwrap());
    std::fs::write(&path, "not a socket").unwrap();
    assert!(matches!(open(), Err(ConsoleError::NotASocket(_))));
    assert!(path.exists());
}

#[test]
fn input_is_held_back_where_it_comes_from_and_never_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let machine = Machine::open(&Spec::Unix(path.clone()));
    machine.console.thaw();
    let text = pattern(3_000_000);
    let typing = {
        let (mut client, text) = (client(&path), text.clone());
        std::thread::spawn(move || {
            client.write_all(&text).unwrap();
            client
        })
    };
    assert!(machine.hear(text.len()) == text);
    drop(typing.join().unwrap());
}

#[test]
fn input_goes_to_the_uart_that_was_connected_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let mut machine = Machine::open(&Spec::Unix(path.clone()));
    machine.console.thaw();
    let mut client = client(&path);
    client.write_all(b"a").unwrap();
    assert_eq!(machine.hear(1), b"a");
    // The machine is gone, and nothing takes input until there is another.
    let line = machine.console.line();
    machine.uart = Arc::new(Mutex::new(Uart::new(Arc::new(NoLine), line)));
    client.write_all(b"b").unwrap();
    machine.console.connect(&machine.uart);
    assert_eq!(machine.hear(1), b"b");
}

#[test]
fn the_end_of_input_ends_nothing_else() {
    let dev_null = File::open("/dev/null").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let machine = Machine::with(|events| on_descriptors(events, &dev_null, &writer, || {}));
    machine.console.thaw();
    machine.say(b"still here");
    assert_eq!(read_exactly(reader, 10), b"still here");
}

#[test]
fn input_may_be_a_regular_file() {
    let mut script = tempfile::tempfile().unwrap();
    let text = pattern(20_000);
    script.write_all(&text).unwrap();
    std::io::Seek::rewind(&mut script).unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let machine = Machine::with(|events| on_descriptors(events, &script, &log, || {}));
    machine.console.thaw();
    assert!(machine.hear(text.len()) == text);
    machine.say(b"done");
    machine.console.flush(LONG);
    assert_eq!(std::fs::read(log.path()).unwrap(), b"done");
}

/// A terminal as a person has one: the person's side and the program's.
fn terminal() -> (OwnedFd, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    (master, slave)
}

#[test]
fn a_terminal_is_raw_while_it_is_the_console_and_then_as_it_was() {
    use rustix::termios::{LocalModes, OutputModes, tcgetattr};
    let _one = lock(&TERMINAL);
    let (person, ours) = terminal();
    let before = tcgetattr(&ours).unwrap();
    let (tell, told) = channel();
    let machine = Machine::with(|events| {
        on_descriptors(events, &ours, &ours, move || tell.send(()).unwrap())
    });
    let during = tcgetattr(&ours).unwrap();
    let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
    assert!(!during.local_modes.intersects(cooked));
    assert!(during.output_modes.contains(OutputModes::OPOST));
    machine.console.thaw();
    machine.say(b"prompt ");
    assert_eq!(read_exactly(File::from(person.try_clone().unwrap()), 7), b"prompt ");
    rustix::io::write(&person, b"ls\x03\x01\x01\x01x").unwrap();
    assert_eq!(told.recv_timeout(LONG), Ok(()), "Ctrl-A x ends the machine");

    drop(machine);
    let after = tcgetattr(&ours).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);

    // What a signal handler calls does the same, any number of times.
    let machine = Machine::with(|events| on_descriptors(events, &ours, &ours, || {}));
    assert!(!tcgetattr(&ours).unwrap().local_modes.intersects(cooked));
    restore_terminal();
    restore_terminal();
    assert_eq!(tcgetattr(&ours).unwrap().local_modes, before.local_modes);
    drop(machine);
}

#[test]
fn a_frozen_console_neither_writes_nor_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let machine = Machine::open(&Spec::Unix(path.clone()));
    machine.console.thaw();
    let mut client = client(&path);
    client.write_all(b"a").unwrap();
    assert_eq!(machine.hear(1), b"a");
    let _ = machine.console.freeze();
    client.write_all(b"b").unwrap();
    machine.say(b"c");
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(client.read(&mut [0]).is_err());
    assert!(machine.saved_input().is_empty());
    assert_eq!(machine.console.freeze().unwritten, b"c");
    machine.console.thaw();
    client.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(read_exactly(&client, 1), b"c");
    assert_eq!(machine.hear(1), b"b");
}

#[test]
fn more_unwritten_output_than_a_console_can_have_is_refused() {
    let machine = Machine::open(&Spec::Pty);
    let most = SavedConsole { unwritten: vec![1; OUTPUT_CAPACITY] };
    machine.console.restore(most).unwrap();
    let more = SavedConsole { unwritten: vec![1; OUTPUT_CAPACITY + 1] };
    assert!(machine.console.restore(more).is_err());
}

#[test]
fn a_console_that_is_off_keeps_nothing() {
    let machine = Machine::open(&Spec::Off);
    machine.console.thaw();
    machine.say(b"unheard");
    assert!(machine.console.freeze().unwritten.is_empty());
    assert_eq!((machine.console.lost(), machine.console.location()), (0, None));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Moves, some of them given up, at whatever point the writing has reached.
    #[test]
    fn over_moves_the_console_has_no_gap_and_no_repetition(
        stretches in proptest::collection::vec((0usize..3000, any::<bool>()), 1..6),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let spec = Spec::File(path.clone());
        let mut here = Machine::open(&spec);
        here.console.thaw();
        let mut said = Vec::new();
        for (count, moves) in stretches {
            let text: Vec<u8> = pattern(said.len() + count)[said.len()..].to_vec();
            here.say(&text);
            said.extend(text);
            let saved = state::Payload::pack("", &here.console.freeze());
            let there = Machine::open(&spec);
            there.console.restore(saved.unpack().unwrap()).unwrap();
            if moves {
                here.console.discard();
                there.console.thaw();
                here = there;
            } else {
                drop(there);
                here.console.thaw();
            }
        }
        here.console.flush(LONG);
        prop_assert_eq!(std::fs::read(&path).unwrap(), said);
    }
}
