//! Guests that are stopped and handed over at any instruction: in the middle of port and memory
//! accesses, with timers running and interrupts on their way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use devices::console::{Console, Spec};
use devices::event_loop::EventLoop;
use devices::ioapic::SavedIoApic;
use memory::{Backing, GuestRam};
use motion::handover::RunPermit;
use motion::{DestinationMachine as _, Machine as _, SourceMachine as _};
use rig::code::{elf, interrupts, numbers};
use rig::{PATIENCE, Rig, config, sink, source};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use whimbrel_vmm::{Hypervisor, Vm};

const MIB: u64 = 1 << 20;

/// A number as the guests print it: a letter for each four bits.
fn number(letters: &str) -> u32 {
    letters.bytes().fold(0, |number, letter| number << 4 | u32::from(letter - b'a'))
}

#[test]
fn an_access_that_is_under_way_is_finished_once() {
    let mut rig = Rig::of_image(elf(numbers()), "", 1, 16 * MIB);
    rig.start();
    for round in 0..200 {
        // Each time at another place of its loop.
        let end = Instant::now() + Duration::from_micros(200 + round * 7);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        if round % 4 != 3 {
            rig.vm.pause().unwrap();
            rig.resume();
        } else {
            let to = rig.twin();
            rig.vm.pause().unwrap();
            let permit = rig.vm.surrender().unwrap();
            to.vm.restore(rig.vm.save().unwrap()).unwrap();
            to.vm.run(permit).unwrap();
            rig = to;
        }
    }
    let last = rig.screen.wait_for_more("", 100);
    rig.vm.pause().unwrap();
    assert_eq!(rig.vm.failure(), None);
    let lines: Vec<_> = last.split_inclusive('\n').filter(|l| l.ends_with('\n')).collect();
    for (expected, line) in (0u32..).zip(&lines) {
        let letters = line.strip_suffix("..\n").unwrap_or_default();
        assert_eq!((letters.len(), number(letters)), (8, expected), "line {line:?}");
    }
    assert!(lines.len() > 100, "{} lines", lines.len());
}

/// A machine whose console is a socket, with what came out of it.
struct Talking {
    vm: Vm,
    socket: UnixStream,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Talking {
    fn new(path: &Path, events: &EventLoop, ram: GuestRam) -> Self {
        let spec = Spec::Unix(path.to_owned());
        let console = Console::open(&spec, events.handle(), || {}).unwrap();
        let socket = UnixStream::connect(path).unwrap();
        let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (mut reader, to) = (socket.try_clone().unwrap(), heard.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = reader.read(&mut buffer)
                && count > 0
            {
                to.lock().unwrap().extend(&buffer[..count]);
            }
        });
        let hypervisor = Hypervisor::open().unwrap();
        let vm = Vm::new(&hypervisor, config(16 * MIB, 1), ram, console, sink().0).unwrap();
        Self { vm, socket, heard }
    }

    fn heard(&self) -> String {
        String::from_utf8(self.heard.lock().unwrap().clone()).unwrap()
    }
}

fn wait_until(machine: &Talking, done: impl Fn(&str) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done(&machine.heard()) {
        let heard = machine.heard();
        let tail = &heard[heard.len().saturating_sub(200)..];
        assert!(Instant::now() < end, "the guest is asleep, after {tail:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_interrupt_that_was_ended_just_before_the_stop_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let events = EventLoop::start("test-events").unwrap();
    let ram = GuestRam::new(16 * MIB, Backing::Small).unwrap();
    let file = ram.file().unwrap().try_clone_to_owned().unwrap();
    let from = Talking::new(&folder.path().join("from"), &events, ram);
    from.vm.boot(source(elf(interrupts()), "")).unwrap();
    from.vm.run(RunPermit::for_new_machine()).unwrap();
    wait_until(&from, |heard| heard.contains('T'));
    from.vm.pause().unwrap();
    let mut state = from.vm.save().unwrap();
    // As it is when KVM has not come to report the end: no local APIC holds the interrupt, and the
    // I/O APIC waits for its end.
    let mut ioapic: SavedIoApic = state.take("").unwrap();
    assert_eq!(ioapic.entries[4] & 0xffff, 0x8041, "the UART's pin, level-triggered");
    ioapic.entries[4] |= 1 << 14;
    state.put("", &ioapic);
    let ram = GuestRam::from_file(file, 16 * MIB, Backing::Small, None).unwrap();
    let to = Talking::new(&folder.path().join("to"), &events, ram);
    to.vm.restore(state).unwrap();
    to.vm.run(from.vm.surrender().unwrap()).unwrap();
    (&to.socket).write_all(b"Z").unwrap();
    wait_until(&to, |heard| heard.contains("EZ\n"));
}

#[test]
fn no_timer_is_lost_and_no_input_comes_twice() {
    let folder = tempfile::tempdir().unwrap();
    let events = EventLoop::start("test-events").unwrap();
    let new = |index: usize, ram| {
        Talking::new(&folder.path().join(format!("console{index}")), &events, ram)
    };
    let first = new(0, GuestRam::new(16 * MIB, Backing::Small).unwrap());
    first.vm.boot(source(elf(interrupts()), "")).unwrap();
    first.vm.run(RunPermit::for_new_machine()).unwrap();
    let mut machines = vec![first];
    let typed = |index: usize| -> Vec<u8> {
        let letter = u8::try_from(index % 26).unwrap() + b'a';
        vec![letter; 5]
    };
    for index in 0..20 {
        let from = machines.last().unwrap();
        (&from.socket).write_all(&typed(index)).unwrap();
        std::thread::sleep(Duration::from_micros(500 + 300 * (index as u64 % 7)));
        let file = from.vm.ram().file().unwrap().try_clone_to_owned().unwrap();
        let ram = GuestRam::from_file(file, 16 * MIB, Backing::Small, None).unwrap();
        let to = new(index + 1, ram);
        from.vm.pause().unwrap();
        let permit = from.vm.surrender().unwrap();
        to.vm.restore(from.vm.save().unwrap()).unwrap();
        from.vm.console().discard();
        to.vm.run(permit).unwrap();
        machines.push(to);
    }
    let last = machines.last().unwrap();
    (&last.socket).write_all(b"Z").unwrap();
    wait_until(last, |heard| heard.contains("EZ\n") && heard.matches('T').count() > 3);
    last.vm.pause().unwrap();
    let heard: String = machines.iter().map(Talking::heard).collect();
    let ticks = heard.lines().filter_map(|line| line.strip_prefix('T'));
    for (expected, tick) in (0u32..).zip(ticks.filter(|tick| tick.len() == 8)) {
        assert_eq!(number(tick), expected);
    }
    // What a console had not read yet when its machine went stays with who typed it.
    let echoes: String = heard.lines().filter_map(|line| line.strip_prefix('E')).collect();
    let mut letters = echoes.as_str();
    for index in 0..20 {
        let typed = String::from_utf8(typed(index)).unwrap();
        let own = letters.len() - letters.trim_start_matches(&typed[..1]).len();
        assert!(own <= typed.len(), "{own} of {typed} in {echoes}");
        letters = &letters[own..];
    }
    assert_eq!(letters, "Z", "in {echoes}");
    assert!(echoes.len() > 20, "{echoes}");
}
