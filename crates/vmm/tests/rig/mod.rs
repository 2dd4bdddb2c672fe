//! A machine to test with: a built-in guest, and a console that collects what it prints.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod code;
pub mod huge_pages;
pub mod saved;

use devices::console::{Console, Spec};
use devices::event_loop::EventLoop;
use guest::Builtin;
use memory::{Backing, GuestRam};
use motion::Machine as _;
use motion::handover::RunPermit;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use uuid::Uuid;
use whimbrel_vmm::boot::Image;
use whimbrel_vmm::{
    BootSource, Builder, EventSink, Hypervisor, MachineConfig, Vm, VmEvent, Wishes,
};

/// Long enough for anything that is not stuck.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Says that something is not shown on this host, and why. Not with a macro: the test harness hides what those print
/// while a test passes.
pub fn skipped(what: &str, why: &dyn std::fmt::Display) {
    let text = format!("\n*** SKIPPED: {what}: {why}\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// What a guest printed: its console is a file, which a machine that takes over appends to.
pub struct Screen {
    file: NamedTempFile,
    events: EventLoop,
}

impl Screen {
    pub fn new() -> Arc<Self> {
        let file = NamedTempFile::new().unwrap();
        Arc::new(Self { file, events: EventLoop::start("test-events").unwrap() })
    }

    pub fn console(&self) -> Console {
        let spec = Spec::File(self.file.path().to_owned());
        Console::open(&spec, self.events.handle(), || {}).unwrap()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.file.path()).unwrap()).into_owned()
    }

    /// Waits until what was printed before has been written.
    pub fn settle(&self) {
        std::thread::sleep(Duration::from_millis(50));
    }

    /// Waits for whole lines that fulfil `wanted`.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.text();
            if wanted(&text) {
                return text;
            }
            assert!(Instant::now() < end, "no {what} in:\n{text}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How many whole lines begin with `word`.
    pub fn count(text: &str, word: &str) -> usize {
        text.split_inclusive('\n').filter(|l| l.starts_with(word) && l.ends_with('\n')).count()
    }

    /// Waits for so many more lines that begin with `word`.
    pub fn wait_for_more(&self, word: &str, more: usize) -> String {
        let wanted = Self::count(&self.text(), word) + more;
        self.wait_for(word, |text| Self::count(text, word) >= wanted)
    }
}

pub struct Rig {
    pub vm: Arc<Vm>,
    pub screen: Arc<Screen>,
    pub events: Receiver<VmEvent>,
}

pub fn config(memory: u64, vcpus: u32) -> MachineConfig {
    MachineConfig {
        name: "test".to_owned(),
        uuid: Uuid::from_u128(7),
        memory,
        backing: Backing::Small,
        vcpus,
    }
}

pub fn source(image: impl Into<std::borrow::Cow<'static, [u8]>>, cmdline: &str) -> BootSource {
    let kernel = Image::from_bytes("guest", image);
    BootSource { kernel, initrd: None, cmdline: cmdline.to_owned() }
}

pub fn sink() -> (EventSink, Receiver<VmEvent>) {
    let (sender, events) = mpsc::channel();
    let sender = Mutex::new(sender);
    let sink: EventSink = Arc::new(move |event| {
        let _ = sender.lock().unwrap().send(event);
    });
    (sink, events)
}

/// A builder for machines that come, and the screen of their consoles.
pub fn builder(wishes: Wishes) -> (Builder, Arc<Screen>) {
    let screen = Screen::new();
    let (events, _) = sink();
    let consoles = screen.clone();
    let source = Box::new(move || Ok(consoles.console()));
    (Builder::new(Arc::new(Hypervisor::open().unwrap()), wishes, source, events), screen)
}

impl Rig {
    /// A machine with nothing in it.
    pub fn empty(config: MachineConfig, ram: GuestRam) -> Self {
        Self::on(Screen::new(), config, ram)
    }

    pub fn on(screen: Arc<Screen>, config: MachineConfig, ram: GuestRam) -> Self {
        let (sink, events) = sink();
        let hypervisor = Hypervisor::open().unwrap();
        let vm = Vm::new(&hypervisor, config, ram, screen.console(), sink).unwrap();
        Self { vm: Arc::new(vm), screen, events }
    }

    pub fn new_ram(size: u64) -> GuestRam {
        GuestRam::new(size, Backing::Small).unwrap()
    }

    /// A machine that has booted this image and waits to be run.
    pub fn of_image(
        image: impl Into<std::borrow::Cow<'static, [u8]>>,
        cmdline: &str,
        vcpus: u32,
        memory: u64,
    ) -> Self {
        let ram = GuestRam::new(memory, Backing::Small).unwrap();
        let rig = Self::empty(config(memory, vcpus), ram);
        rig.vm.boot(source(image, cmdline)).unwrap();
        rig
    }

    pub fn of_guest(guest: Builtin, cmdline: &str, vcpus: u32, memory: u64) -> Self {
        Self::of_image(guest.image(), cmdline, vcpus, memory)
    }

    pub fn start(&self) {
        self.vm.run(RunPermit::for_new_machine()).unwrap();
    }

    pub fn resume(&self) {
        let permit = self.vm.surrender().unwrap();
        self.vm.run(permit).unwrap();
    }

    /// Another machine like this one, on the same RAM and with the same screen.
    pub fn twin(&self) -> Self {
        let config = self.vm.config().clone();
        let file: OwnedFd = self.vm.ram().file().unwrap().try_clone_to_owned().unwrap();
        let ram = GuestRam::from_file(file, config.memory, config.backing, None).unwrap();
        Self::on(self.screen.clone(), config, ram)
    }
}
