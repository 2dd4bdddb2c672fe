//! Machines on RAM that another machine of this host has, for guests that come from there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use guest::Builtin;
use memory::{Backing, GuestRam, PageRange};
use motion::{DestinationMachine, Machine as _, MachineBuilder as _, SourceMachine as _};
use rig::huge_pages::ram_in_huge_pages;
use rig::{Rig, Screen, builder};
use state::{Bundle, Code, Payload};
use std::sync::Arc;
use whimbrel_vmm::{RamOrigin, SavedMachine, SavedTouched, SavedVcpu, Vm, Wishes};

const MIB: u64 = 1 << 20;
/// Where the guest never comes.
const FAR: u64 = 60 * MIB;

fn booted(backing: Backing) -> Rig {
    let ram = match backing {
        Backing::Huge2M => ram_in_huge_pages(64 * MIB),
        other => GuestRam::new(64 * MIB, other).unwrap(),
    };
    let config = whimbrel_vmm::MachineConfig { backing, ..rig::config(64 * MIB, 2) };
    let rig = Rig::empty(config, ram);
    let cmdline = "ws=8M report=50ms";
    rig.vm.boot(rig::source(Builtin::SelfCheck.image(), cmdline)).unwrap();
    rig.start();
    rig.screen.wait_for_more("CHECK", 2);
    rig
}

/// The RAM of this machine as another process maps it.
fn shared(rig: &Rig) -> Arc<GuestRam> {
    let ram = rig.vm.ram();
    let file = ram.file().unwrap().try_clone_to_owned().unwrap();
    Arc::new(GuestRam::from_file(file, ram.layout().size(), ram.backing(), None).unwrap())
}

fn wishes(ram: &Arc<GuestRam>) -> Wishes {
    Wishes { ram: RamOrigin::Shared(ram.clone()), ..Wishes::default() }
}

fn build(rig: &Rig, ram: &Arc<GuestRam>) -> (Arc<Vm>, Arc<Screen>) {
    let (builder, screen) = builder(wishes(ram));
    let description = rig.vm.describe().unwrap();
    assert_eq!(builder.check(&description), []);
    builder.build(description).unwrap();
    (builder.built().unwrap(), screen)
}

fn is_well(screen: &Screen) {
    let text = screen.wait_for_more("CHECK", 2);
    assert!(!text.contains("FAULT") && text.contains("faults=0"), "{text}");
}

/// What is in RAM, and which pages are there.
fn contents(ram: &GuestRam) -> (Vec<PageRange>, Vec<u8>) {
    let all = PageRange::new(0, ram.pages());
    let mut bytes = vec![0; usize::try_from(all.bytes()).unwrap()];
    ram.read(all, &mut bytes).unwrap();
    (ram.touched(all).unwrap(), bytes)
}

#[test]
fn nothing_is_written_to_shared_ram_before_the_guest_runs() {
    /// `MSR_KVM_WALL_CLOCK` and its successor: KVM writes the time there as soon as it is set.
    const WALL_CLOCK: [u32; 2] = [0x11, 0x4b56_4d00];
    let rig = booted(Backing::Small);
    rig.vm.pause().unwrap();
    let permit = rig.vm.surrender().unwrap();
    let mut state = rig.vm.save().unwrap();
    let mut vcpu: SavedVcpu = state.take("cpu1").unwrap();
    let of_clock = |msr: &&mut (u32, u64)| WALL_CLOCK.contains(&msr.0);
    vcpu.msrs.iter_mut().find(of_clock).expect("this KVM has kvmclock").1 = FAR;
    state.put("cpu1", &vcpu);
    let before = contents(rig.vm.ram());

    let ram = shared(&rig);
    ram.populate(2, &|| true).unwrap();
    let (vm, screen) = build(&rig, &ram);
    assert!(Arc::ptr_eq(vm.ram(), &ram));
    vm.rehearse().unwrap();
    vm.restore(state).unwrap();
    assert!(contents(rig.vm.ram()) == before);

    vm.run(permit).unwrap();
    is_well(&screen);
    let mut page = [0; 4096];
    rig.vm.ram().read(PageRange::new(FAR / 4096, 1), &mut page).unwrap();
    assert_ne!(page, [0; 4096], "the wall clock is where the guest wants it by now");
}

#[test]
fn a_guest_goes_to_and_fro_between_machines_on_the_same_ram() {
    let mut here = booted(Backing::Small);
    for _ in 0..4 {
        // The next is built while the guest runs.
        let (vm, screen) = build(&here, &shared(&here));
        vm.rehearse().unwrap();
        here.vm.pause().unwrap();
        let permit = here.vm.surrender().unwrap();
        vm.restore(here.vm.save().unwrap()).unwrap();
        vm.run(permit).unwrap();
        is_well(&screen);
        here = Rig { vm, screen, events: here.events };
    }
}

#[test]
fn a_machine_on_huge_pages_is_told_what_was_touched() {
    let rig = booted(Backing::Huge2M);
    let ram = shared(&rig);
    let (vm, screen) = build(&rig, &ram);
    vm.rehearse().unwrap();
    rig.vm.pause().unwrap();
    let permit = rig.vm.surrender().unwrap();
    let mut state = rig.vm.save().unwrap();
    let error = vm.restore(state.clone()).unwrap_err();
    assert_eq!(error.code, Code::BadState);
    assert!(error.to_string().contains("whimbrel.touched"), "{error}");
    let touched = SavedTouched::of(rig.vm.ram()).unwrap().unwrap();
    assert!(!touched.runs.is_empty());
    state.put("", &touched);
    vm.restore(Bundle::decode(&state.encode()).unwrap()).unwrap();
    assert_eq!(contents(&ram).0, contents(rig.vm.ram()).0);
    vm.run(permit).unwrap();
    is_well(&screen);
}

#[test]
fn what_was_touched_is_not_taken_from_those_who_need_not_say_it() {
    let rig = booted(Backing::Small);
    let (vm, _screen) = build(&rig, &shared(&rig));
    rig.vm.pause().unwrap();
    let mut state = rig.vm.save().unwrap();
    state.put("", &SavedTouched { block: 1, runs: vec![(1, 1)] });
    assert_eq!(vm.restore(state).unwrap_err().code, Code::BadState);
}

#[test]
fn memory_that_is_there_already_is_not_asked_for_again() {
    let about = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = about.lines().next().unwrap().split_whitespace().nth(1).unwrap();
    let size = total.parse::<u64>().unwrap() * 1024 / MIB * MIB * 2;
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M report=50ms", 1, 64 * MIB);
    let mut description = rig.vm.describe().unwrap();
    let mut machine: SavedMachine = description.take("").unwrap();
    machine.memory = size;
    description.put_payload(Payload::pack("", &machine));
    let codes = |wishes| -> Vec<Code> {
        builder(wishes).0.check(&description).iter().map(|refusal| refusal.code).collect()
    };
    assert_eq!(codes(Wishes::default()), [Code::InsufficientMemory]);
    let ram = Arc::new(GuestRam::new(size, Backing::Small).unwrap());
    assert_eq!(codes(wishes(&ram)), []);
}

#[test]
fn ram_that_is_not_the_machine_s_is_refused() {
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M report=50ms", 1, 64 * MIB);
    let refusals = |wishes: Wishes| {
        let found = builder(wishes).0.check(&rig.vm.describe().unwrap());
        found.into_iter().map(|refusal| (refusal.code, refusal.what)).collect::<Vec<_>>()
    };
    let no_ram_of_its = [(Code::MemoryUnavailable, "ram".to_owned())];
    let other = Arc::new(GuestRam::new(32 * MIB, Backing::Small).unwrap());
    assert_eq!(refusals(wishes(&other)), no_ram_of_its);
    match GuestRam::new(64 * MIB, Backing::Transparent) {
        Ok(other) => assert_eq!(refusals(wishes(&Arc::new(other))), no_ram_of_its),
        Err(why) => rig::skipped("RAM in transparent huge pages is refused too", &why),
    }
    let asked = Wishes { backing: Some(Backing::Huge2M), ..wishes(&shared(&rig)) };
    assert_eq!(refusals(asked), [(Code::ConfigConflict, "--hugepages".to_owned())]);
}
