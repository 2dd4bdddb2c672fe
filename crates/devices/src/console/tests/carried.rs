//! The host's end of a console goes into another process, or comes back.

use super::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::termios::{LocalModes, tcgetattr};
use state::Payload;
use std::os::unix::net::UnixListener;
use tempfile::TempDir;

/// A console with somebody at its other end, who reads `shows` and types into `keys`.
struct Scene {
    machine: Machine,
    spec: Spec,
    shows: OwnedFd,
    keys: Option<OwnedFd>,
    _folder: TempDir,
}

impl Scene {
    fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let spec = Spec::File(path.clone());
        let machine = Machine::open(&spec);
        let shows = File::open(path).unwrap().into();
        Self { machine, spec, shows, keys: None, _folder: folder }
    }

    fn pty() -> Self {
        let machine = Machine::open(&Spec::Pty);
        let path = machine.console.location().unwrap();
        let tty = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let keys = tty.try_clone().unwrap().into();
        Self { machine, spec: Spec::Pty, shows: tty.into(), keys: Some(keys), _folder: folder }
    }

    fn unix() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let spec = Spec::Unix(path.clone());
        let machine = Machine::open(&spec);
        let client = UnixStream::connect(&path).unwrap();
        let keys = client.try_clone().unwrap().into();
        Self { machine, spec, shows: client.into(), keys: Some(keys), _folder: folder }
    }

    fn pipes() -> Self {
        let (shows, output) = std::io::pipe().unwrap();
        let (input, keys) = std::io::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&output, 4096).unwrap();
        let machine = Machine::with(|events| on_descriptors(events, input, output, || {}));
        let folder = tempfile::tempdir().unwrap();
        let (shows, keys) = (shows.into(), Some(keys.into()));
        Self { machine, spec: Spec::Stdio, shows, keys, _folder: folder }
    }

    fn terminal(ours: &OwnedFd, person: &OwnedFd) -> Self {
        let machine = Machine::with(|events| on_descriptors(events, ours, ours, || {}));
        let folder = tempfile::tempdir().unwrap();
        let shows = person.try_clone().unwrap();
        let keys = Some(person.try_clone().unwrap());
        Self { machine, spec: Spec::Stdio, shows, keys, _folder: folder }
    }

    fn types(&self, text: &[u8]) {
        let mut rest = text;
        while let (Some(keys), false) = (&self.keys, rest.is_empty()) {
            let written = rustix::io::write(keys, rest).unwrap();
            rest = &rest[written..];
        }
    }

    fn reads(&self, count: usize) -> Vec<u8> {
        let end = Instant::now() + LONG;
        let (mut shown, mut buffer) = (Vec::new(), vec![0; count]);
        while shown.len() < count {
            assert!(Instant::now() < end, "{} of {count} bytes were shown", shown.len());
            let step = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            poll(&mut [PollFd::new(&self.shows, PollFlags::IN)], Some(&step)).unwrap();
            if rustix::io::ioctl_fionread(&self.shows).unwrap() == 0 {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let wanted = count - shown.len();
            let came = rustix::io::read(&self.shows, &mut buffer[..wanted]).unwrap();
            shown.extend(&buffer[..came]);
        }
        shown
    }

    /// A machine in another process, as far as that can be had in one: it has duplicates of
    /// everything, and nothing has been decided.
    fn adopted(&self, quit: impl Fn() + Send + Sync + 'static) -> Machine {
        let old = &self.machine;
        let unwritten = old.console.freeze();
        let (end, descriptors) = old.console.ends().unwrap();
        let end = Payload::pack("", &end).unpack().unwrap();
        let new = Machine::with(|events| Console::vacant(&self.spec, events, quit).unwrap());
        new.console.adopt(end, descriptors).unwrap();
        new.console.restore(unwritten).unwrap();
        let uart = lock(&old.uart).save();
        let uart = Uart::restore(uart, Arc::new(NoLine), new.console.line()).unwrap();
        *lock(&new.uart) = uart;
        new
    }

    /// What was adopted goes on, and the old process ends.
    fn replace(&mut self, new: Machine) {
        let old = std::mem::replace(&mut self.machine, new);
        old.console.leave();
        drop(old);
        self.machine.console.thaw();
    }

    /// The other process did not take it, and it goes on here.
    fn keep(&self, new: Machine) {
        drop(new);
        self.machine.console.thaw();
    }
}

/// Text that no terminal does anything with.
fn letters(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|i| b'a' + (i % 23).to_le_bytes()[0]).collect()
}

/// Has the guest talk until whoever reads takes no more, or for long enough; and some more that
/// nobody had a chance to write.
fn talk(machine: &Machine, said: &mut Vec<u8>) {
    for _ in 0..150 {
        let text = letters(said.len(), 4096);
        machine.say(&text);
        said.extend(text);
        machine.console.flush(Duration::from_millis(30));
        if !lock(&machine.console.shared.output).is_empty() {
            break;
        }
    }
    let _ = machine.console.freeze();
    let text = letters(said.len(), 1000);
    machine.say(&text);
    said.extend(text);
}

/// Each time there is output that could not be written, and input in the UART and before it.
fn talk_over_carries(mut scene: Scene) {
    scene.machine.console.thaw();
    let (mut said, mut shown, mut typed, mut heard) = (vec![], vec![], vec![], vec![]);
    for taken in [false, true, true, false, true] {
        if scene.keys.is_some() {
            let text = letters(typed.len(), 5000);
            scene.types(&text[..3000]);
            heard.extend(scene.machine.hear(100));
            scene.types(&text[3000..]);
            typed.extend(text);
        }
        talk(&scene.machine, &mut said);
        let new = scene.adopted(|| {});
        assert_eq!(new.console.location(), scene.machine.console.location());
        if taken {
            scene.replace(new);
        } else {
            scene.keep(new);
        }
        shown.extend(scene.reads(said.len() - shown.len() - 100));
        heard.extend(scene.machine.hear(typed.len() - heard.len()));
    }
    shown.extend(scene.reads(100));
    assert!(shown == said, "{} of {} bytes", shown.len(), said.len());
    assert!(heard == typed);
    assert_eq!(scene.machine.console.lost(), 0);
    // And nothing came that was not expected.
    scene.types(b"!");
    assert_eq!(scene.machine.hear(scene.keys.iter().len()), b"!"[..scene.keys.iter().len()]);
    scene.machine.say(b"?");
    assert_eq!(scene.reads(1), b"?");
    assert!(scene.machine.saved_input().is_empty());
}

#[test]
fn a_file_is_carried_without_gap_or_repetition() {
    talk_over_carries(Scene::file());
}

#[test]
fn a_pseudo_terminal_is_carried_without_gap_or_repetition() {
    talk_over_carries(Scene::pty());
}

#[test]
fn a_socket_and_its_client_are_carried_without_gap_or_repetition() {
    talk_over_carries(Scene::unix());
}

#[test]
fn pipes_are_carried_without_gap_or_repetition() {
    talk_over_carries(Scene::pipes());
}

#[test]
fn a_terminal_is_carried_without_gap_or_repetition() {
    let _one = lock(&TERMINAL);
    let (person, ours) = terminal();
    talk_over_carries(Scene::terminal(&ours, &person));
}

#[test]
fn a_console_that_is_off_is_carried_too() {
    let scene = Scene {
        machine: Machine::open(&Spec::Off),
        spec: Spec::Off,
        shows: File::open("/dev/null").unwrap().into(),
        keys: None,
        _folder: tempfile::tempdir().unwrap(),
    };
    let new = scene.adopted(|| {});
    new.console.thaw();
    new.say(b"unheard");
    assert!(new.console.freeze().unwritten.is_empty());
}

#[test]
fn what_nobody_reads_before_a_carry_is_read_after_it() {
    let mut scene = Scene::pty();
    scene.machine.console.thaw();
    scene.machine.say(b"before ");
    scene.machine.console.flush(LONG);
    // Nobody has the terminal open, and what was said waits in the kernel.
    let path = scene.machine.console.location().unwrap().to_owned();
    scene.keys = None;
    scene.shows = File::open("/dev/null").unwrap().into();
    let new = scene.adopted(|| {});
    scene.replace(new);
    scene.machine.say(b"after");
    scene.machine.console.flush(LONG);
    let tty = OpenOptions::new().read(true).write(true).open(path).unwrap();
    scene.keys = Some(tty.try_clone().unwrap().into());
    scene.shows = tty.into();
    assert_eq!(scene.reads(12), b"before after");
    // Meanwhile it has not hung up.
    scene.types(b"typed");
    assert_eq!(scene.machine.hear(5), b"typed");
}

#[test]
fn a_client_that_waits_to_be_let_in_is_let_in_by_whoever_goes_on() {
    for taken in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let spec = Spec::Unix(path.clone());
        let machine = Machine::open(&spec);
        let shows = File::open("/dev/null").unwrap().into();
        let mut scene = Scene { machine, spec, shows, keys: None, _folder: folder };
        scene.machine.console.thaw();
        let new = scene.adopted(|| {});
        let client = client(&path);
        scene.keys = Some(client.try_clone().unwrap().into());
        scene.types(b"knock");
        // Whatever happens, nobody is let in before it is decided.
        for machine in [&scene.machine, &new] {
            lock(&machine.console.worker).step();
        }
        if taken {
            scene.replace(new);
        } else {
            scene.keep(new);
        }
        assert_eq!(scene.machine.hear(5), b"knock");
        scene.machine.say(b"come in");
        assert_eq!(read_exactly(client, 7), b"come in");
    }
}

#[test]
fn a_second_client_is_turned_away_after_a_carry_as_before() {
    let mut scene = Scene::unix();
    scene.machine.console.thaw();
    scene.types(b"x");
    assert_eq!(scene.machine.hear(1), b"x");
    let Spec::Unix(path) = scene.spec.clone() else { unreachable!() };
    let new = scene.adopted(|| {});
    scene.replace(new);
    let mut second = String::new();
    client(&path).read_to_string(&mut second).unwrap();
    assert!(second.contains("has a client already"), "{second}");
}

#[test]
fn a_socket_s_file_is_removed_by_whoever_goes_on_and_by_nobody_else() {
    let scene = || {
        let scene = Scene::unix();
        let Spec::Unix(path) = scene.spec.clone() else { unreachable!() };
        scene.machine.console.thaw();
        (scene, path)
    };
    let (mut taken, path) = scene();
    let new = taken.adopted(|| {});
    taken.replace(new);
    assert!(path.exists(), "the old process has ended");
    drop(taken.machine);
    assert!(goes(&path));

    let (kept, path) = scene();
    let new = kept.adopted(|| {});
    kept.keep(new);
    assert!(path.exists(), "the new process has ended");
    drop(kept.machine);
    assert!(goes(&path));

    // The old process dies before it hears that the other goes on.
    let (dead, path) = scene();
    let new = dead.adopted(|| {});
    drop(dead.machine);
    assert!(path.exists());
    new.console.thaw();
    drop(new);
    assert!(goes(&path));
}

fn is_raw(terminal: &OwnedFd) -> bool {
    !tcgetattr(terminal).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
}

#[test]
fn a_terminal_stays_raw_and_is_given_back_by_whoever_goes_on() {
    let _one = lock(&TERMINAL);
    let (person, ours) = terminal();
    let mut strange = tcgetattr(&ours).unwrap();
    strange.special_codes[rustix::termios::SpecialCodeIndex::VINTR] = 0x1d;
    strange.local_modes.remove(LocalModes::ECHOE);
    rustix::termios::tcsetattr(&ours, rustix::termios::OptionalActions::Now, &strange).unwrap();
    let told = |t: &OwnedFd| format!("{:?}", tcgetattr(t).unwrap());
    let before = told(&ours);

    let mut scene = Scene::terminal(&ours, &person);
    scene.machine.console.thaw();
    let raw = told(&ours);
    let new = scene.adopted(|| {});
    // A process that ends while it is not decided has nothing to give back, not even in a panic.
    restore_terminal();
    scene.keep(new);
    assert_eq!(told(&ours), raw);
    let new = scene.adopted(|| {});
    scene.replace(new);
    assert_eq!(told(&ours), raw);
    drop(scene.machine);
    assert_eq!(told(&ours), before);

    let scene = Scene::terminal(&ours, &person);
    let new = scene.adopted(|| {});
    scene.keep(new);
    assert!(is_raw(&ours));
    restore_terminal();
    assert_eq!(told(&ours), before);
}

#[test]
fn a_half_typed_escape_is_finished_where_the_guest_goes_on() {
    let _one = lock(&TERMINAL);
    for (second, quits) in [(b'k', false), (b'x', true)] {
        let (person, ours) = terminal();
        let mut scene = Scene::terminal(&ours, &person);
        scene.machine.console.thaw();
        scene.types(b"ab\x01");
        assert_eq!(scene.machine.hear(2), b"ab");
        // Behind the letters there was one more byte, which is read with them or after them.
        let end = Instant::now() + LONG;
        let pending = |scene: &Scene| {
            let worker = lock(&scene.machine.console.worker);
            worker.backend.terminal.as_ref().unwrap().escape.pending
        };
        while !pending(&scene) {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
        let (tell, ended) = channel();
        let new = scene.adopted(move || tell.send(()).unwrap());
        scene.replace(new);
        scene.types(&[second]);
        if quits {
            assert_eq!(ended.recv_timeout(LONG), Ok(()));
        } else {
            assert_eq!(scene.machine.hear(2), b"\x01k");
        }
    }
}

#[test]
fn only_a_vacant_console_takes_what_another_gives() {
    let scene = Scene::unix();
    let (end, descriptors) = scene.machine.console.ends().unwrap();
    let other = Scene::unix();
    let error = other.machine.console.adopt(end, descriptors).unwrap_err().to_string();
    assert!(error.contains("has descriptors of its own"), "{error}");
    let Spec::Unix(path) = &scene.spec else { unreachable!() };
    assert!(path.exists(), "what was refused is the other's");
}

#[test]
fn output_is_shown_until_the_guest_stops_and_input_waits_for_whoever_goes_on() {
    for mut scene in [Scene::unix(), Scene::pty(), Scene::pipes()] {
        scene.machine.console.thaw();
        scene.types(b"x");
        assert_eq!(scene.machine.hear(1), b"x");
        let (end, descriptors) = scene.machine.console.ends().unwrap();
        let quiet = || {};
        let new = Machine::with(|events| Console::vacant(&scene.spec, events, quiet).unwrap());
        new.console.adopt(end, descriptors).unwrap();
        scene.types(b"typed");
        // More than waits anywhere if it is not written.
        let said = letters(0, 3 * OUTPUT_CAPACITY);
        for text in said.chunks(2048) {
            scene.machine.say(text);
            assert_eq!(scene.reads(text.len()), text);
        }
        assert!(scene.machine.saved_input().is_empty());
        let unwritten = scene.machine.console.freeze();
        scene.machine.say(b"never shown");
        new.console.restore(unwritten).unwrap();
        scene.replace(new);
        assert_eq!(scene.machine.hear(5), b"typed");
        scene.machine.say(b"?");
        assert_eq!(scene.reads(1), b"?");
    }
}

#[test]
fn lost_output_is_still_counted_after_a_carry() {
    let mut scene = Scene::pty();
    scene.machine.console.thaw();
    scene.machine.say(&pattern(4 * OUTPUT_CAPACITY));
    let _ = scene.machine.console.freeze();
    let lost = scene.machine.console.lost();
    assert!(lost > 0);
    let new = scene.adopted(|| {});
    scene.replace(new);
    assert_eq!(scene.machine.console.lost(), lost);
}

/// Everything that somebody could send instead.
struct Zoo {
    descriptors: Vec<OwnedFd>,
    socket: std::path::PathBuf,
    _folder: TempDir,
}

impl Zoo {
    const APPENDED: usize = 2;
    const LISTENER: usize = 3;
    const CLIENT: usize = 4;
    const MASTER: usize = 5;
    const SLAVE: usize = 6;
    const WAITING: usize = 7;
    const TRUNCATED: usize = 8;
    const OTHER_SLAVE: usize = 9;

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let (reader, writer) = std::io::pipe().unwrap();
        let appended =
            OpenOptions::new().append(true).create(true).open(folder.path().join("a")).unwrap();
        let truncated = File::create(folder.path().join("b")).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (client, waiting) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        let (master, slave) = terminal();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        let (_, other_slave) = terminal();
        let descriptors = vec![
            reader.into(),
            writer.into(),
            appended.into(),
            listener.into(),
            client.into(),
            master,
            slave,
            waiting.into(),
            truncated.into(),
            other_slave,
        ];
        Self { descriptors, socket, _folder: folder }
    }

    fn entry(&self, role: SavedRole, which: usize) -> SavedDescriptor {
        let stat = rustix::fs::fstat(&self.descriptors[which]).unwrap();
        SavedDescriptor { role, device: stat.st_dev, inode: stat.st_ino }
    }

    fn dup(&self, which: usize) -> OwnedFd {
        self.descriptors[which].try_clone().unwrap()
    }

    fn socket_file(&self) -> SavedSocket {
        use std::os::unix::ffi::OsStrExt as _;
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::symlink_metadata(&self.socket).unwrap();
        let path = self.socket.as_os_str().as_bytes().to_vec();
        SavedSocket { path, device: metadata.dev(), inode: metadata.ino() }
    }
}

fn spec_of(kind: SavedKind) -> Spec {
    match kind {
        SavedKind::Off => Spec::Off,
        SavedKind::Stdio => Spec::Stdio,
        SavedKind::Pty => Spec::Pty,
        SavedKind::File => Spec::File("/nowhere".into()),
        SavedKind::Unix => Spec::Unix("/nowhere".into()),
    }
}

fn plain(kind: SavedKind, descriptors: Vec<SavedDescriptor>) -> SavedConsoleEnd {
    SavedConsoleEnd { kind, location: None, descriptors, socket: None, terminal: None, lost: 0 }
}

#[test]
fn a_descriptor_that_is_not_what_it_should_be_is_refused() {
    use SavedKind::{File, Pty, Stdio, Unix};
    use SavedRole::{Both, Input, Listener, Output, Slave, Terminal};
    let zoo = Zoo::new();
    let events = EventLoop::start("test").unwrap();
    let offer = |kind, parts: &[(SavedRole, usize)], came: &[usize]| {
        let console = Console::vacant(&spec_of(kind), events.handle(), || {}).unwrap();
        let table = parts.iter().map(|(role, which)| zoo.entry(*role, *which)).collect();
        let mut end = plain(kind, table);
        if kind == Unix {
            end.socket = Some(zoo.socket_file());
        }
        let descriptors = came.iter().map(|which| zoo.dup(*which)).collect();
        console.adopt(end, descriptors).map_err(|e| e.to_string())
    };
    let of = |kind, parts: &[(SavedRole, usize)]| {
        let came: Vec<usize> = parts.iter().map(|(_, which)| *which).collect();
        offer(kind, parts, &came)
    };
    let refused = |outcome: Result<(), String>, why: &str| {
        let error = outcome.unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    of(File, &[(Output, Zoo::APPENDED)]).unwrap();
    of(Unix, &[(Both, Zoo::CLIENT), (Listener, Zoo::LISTENER)]).unwrap();
    of(Pty, &[(Both, Zoo::MASTER), (Slave, Zoo::SLAVE)]).unwrap();
    of(Stdio, &[(Input, 0), (Output, 1)]).unwrap();

    refused(of(File, &[(Output, Zoo::TRUNCATED)]), "cannot be appended to");
    refused(of(File, &[(Input, Zoo::APPENDED)]), "such a console has none");
    refused(of(Stdio, &[(Input, 1)]), "cannot be read");
    refused(of(Stdio, &[(Output, 0)]), "cannot be written");
    refused(of(Stdio, &[(Terminal, Zoo::SLAVE)]), "do not go together");
    refused(of(Unix, &[]), "do not go together");
    refused(of(Unix, &[(Listener, Zoo::CLIENT)]), "no listening Unix socket");
    let both = [(Listener, Zoo::LISTENER), (Both, Zoo::LISTENER)];
    refused(of(Unix, &both), "no connected Unix socket");
    refused(of(Unix, &[(Listener, Zoo::LISTENER), (Both, Zoo::WAITING)]), "it blocks");
    refused(of(Unix, &[(Listener, Zoo::LISTENER), (Listener, Zoo::LISTENER)]), "more than one");
    let two = [(Listener, Zoo::LISTENER), (Both, Zoo::CLIENT), (Input, Zoo::CLIENT)];
    refused(of(Unix, &two), "more than one client");
    refused(of(Pty, &[(Both, Zoo::CLIENT), (Slave, Zoo::SLAVE)]), "no master");
    refused(of(Pty, &[(Both, Zoo::MASTER), (Slave, Zoo::OTHER_SLAVE)]), "do not belong together");
    refused(of(Pty, &[(Both, Zoo::MASTER), (Slave, 0)]), "do not belong together");
    refused(offer(File, &[(Output, Zoo::APPENDED)], &[Zoo::TRUNCATED]), "of another file");
    refused(offer(File, &[(Output, Zoo::APPENDED)], &[]), "1 descriptors, and 0 came");
    assert!(zoo.socket.exists());
}

prop_compose! {
    fn any_terminal()(
        modes in any::<[u32; 4]>(),
        special_codes in proptest::collection::vec(any::<u8>(), 15..19),
        speeds in any::<(u32, u32)>(),
        escape_pending in any::<bool>(),
    ) -> SavedTerminal {
        let [input_modes, output_modes, control_modes, local_modes] = modes;
        let (input_speed, output_speed) = speeds;
        SavedTerminal {
            input_modes, output_modes, control_modes, local_modes,
            special_codes, input_speed, output_speed, escape_pending,
        }
    }
}

fn any_role() -> impl Strategy<Value = SavedRole> {
    use SavedRole::{Both, Input, Listener, Output, Slave, Terminal};
    proptest::sample::select(vec![Input, Output, Both, Listener, Slave, Terminal])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is sent, it is refused or is what it says; and nothing of the other process's is
    /// changed.
    #[test]
    fn hostile_ends_do_no_harm(
        kind in 0usize..5,
        spec in 0usize..5,
        location in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6)),
        table in proptest::collection::vec((any_role(), 0usize..10, 0u8..20), 0..5),
        more in 0u8..10,
        with_socket in any::<bool>(),
        settings in proptest::option::of(any_terminal()),
        lost in any::<u64>(),
    ) {
        let _one = lock(&TERMINAL);
        let kinds =
            [SavedKind::Off, SavedKind::Stdio, SavedKind::Pty, SavedKind::File, SavedKind::Unix];
        // Mostly the same, so that what comes after that is tried too.
        let spec = if more == 0 { kinds[spec] } else { kinds[kind] };
        let zoo = Zoo::new();
        let modes = format!("{:?}", tcgetattr(&zoo.descriptors[Zoo::SLAVE]).unwrap());
        let events = EventLoop::start("test").unwrap();
        let console = Console::vacant(&spec_of(spec), events.handle(), || {}).unwrap();
        let mut descriptors: Vec<_> = table.iter().map(|(_, which, _)| zoo.dup(*which)).collect();
        let mut entries: Vec<_> =
            table.iter().map(|(role, which, _)| zoo.entry(*role, *which)).collect();
        for ((.., lie), entry) in table.iter().zip(&mut entries) {
            entry.inode ^= u64::from(*lie == 0);
        }
        if more == 1 {
            descriptors.push(zoo.dup(0));
        }
        let (count, honest) = (descriptors.len(), table.iter().all(|(.., lie)| *lie != 0));
        let end = SavedConsoleEnd {
            kind: kinds[kind],
            location: location.clone().map(Into::into),
            descriptors: entries,
            socket: with_socket.then(|| zoo.socket_file()),
            terminal: settings.clone(),
            lost,
        };
        let end = Payload::pack("", &end).unpack().unwrap();
        let outcome = console.adopt(end, descriptors);
        if outcome.is_ok() {
            prop_assert!(honest && count == table.len() && spec == kinds[kind]);
            prop_assert!(location.is_none_or(|l| !l.is_empty() && !l.contains(&0)));
            let of = |role| {
                let found: Vec<_> =
                    table.iter().filter(|(r, ..)| *r == role).map(|(_, which, _)| *which).collect();
                assert!(found.len() <= 1);
                found.first().copied()
            };
            let has_listener = of(SavedRole::Listener) == Some(Zoo::LISTENER);
            prop_assert_eq!(has_listener, spec == SavedKind::Unix);
            prop_assert_eq!(has_listener, with_socket);
            prop_assert_eq!(of(SavedRole::Terminal).is_some(), settings.is_some());
        } else {
            prop_assert!(lock(&console.worker).backend.is_vacant());
        }
        drop(console);
        prop_assert!(zoo.socket.exists());
        prop_assert_eq!(format!("{:?}", tcgetattr(&zoo.descriptors[Zoo::SLAVE]).unwrap()), modes);
        let flags = rustix::fs::fcntl_getfl(&zoo.descriptors[Zoo::WAITING]).unwrap();
        prop_assert!(!flags.contains(OFlags::NONBLOCK));
    }

    #[test]
    fn hostile_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let end = plain(SavedKind::Off, vec![]);
        let mut payload = Payload::pack("", &end);
        payload.data = bytes;
        if let Ok(end) = payload.unpack::<SavedConsoleEnd>() {
            prop_assert_eq!(Payload::pack("", &end).unpack::<SavedConsoleEnd>(), Ok(end));
        }
    }
}
