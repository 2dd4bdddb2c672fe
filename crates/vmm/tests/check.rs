//! What a destination checks before a guest is stopped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use guest::Builtin;
use memory::{Backing, GuestRam};
use motion::{Machine as _, MachineBuilder as _, SourceMachine as _};
use rig::{Rig, Screen, builder, sink};
use state::{Bundle, Code, Payload, Saved};
use uuid::Uuid;
use whimbrel_vmm::{SavedCpuid, SavedMachine, SavedSchemas, Wishes};

const MIB: u64 = 1 << 20;

fn description() -> (Rig, Bundle) {
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M report=50ms", 2, 64 * MIB);
    let description = rig.vm.describe().unwrap();
    (rig, Bundle::decode(&description.encode()).unwrap())
}

/// The description with one payload changed.
fn with<S: Saved>(bundle: &Bundle, instance: &str, change: impl FnOnce(&mut S)) -> Bundle {
    let mut changed = bundle.clone();
    let mut value: S = changed.take(instance).unwrap();
    change(&mut value);
    changed.put_payload(Payload::pack(instance, &value));
    changed
}

fn codes(wishes: Wishes, description: &Bundle) -> Vec<Code> {
    let (builder, _screen) = builder(wishes);
    builder.check(description).iter().map(|refusal| refusal.code).collect()
}

#[test]
fn a_machine_from_this_host_can_be_had_here_and_runs() {
    let (rig, description) = description();
    rig.start();
    rig.screen.wait_for_more("WORK", 1);
    let (builder, screen) = builder(Wishes { name: Some("other".to_owned()), ..Wishes::default() });
    assert_eq!(builder.check(&description), []);
    let machine = builder.build(description).unwrap();
    let built = builder.built().unwrap();
    assert_eq!(built.config().name, "other");
    assert_eq!(built.config().uuid, rig.vm.config().uuid);
    machine.rehearse().unwrap();
    rig.vm.pause().unwrap();
    let permit = rig.vm.surrender().unwrap();
    for page in 0..rig.vm.ram().pages() {
        let range = memory::PageRange::new(page, 1);
        for run in rig.vm.ram().touched(range).unwrap() {
            let mut bytes = vec![0; 4096];
            rig.vm.ram().read(run, &mut bytes).unwrap();
            machine.ram().slice(run).unwrap().copy_from(&bytes);
        }
    }
    machine.restore(rig.vm.save().unwrap()).unwrap();
    machine.run(permit).unwrap();
    screen.wait_for_more("WORK", 2);
    // It can move on, and its guest can be reset.
    assert_eq!(
        built.describe().unwrap().payloads().len(),
        rig.vm.describe().unwrap().payloads().len()
    );
    built.reset().unwrap();
    // The line that the reset cut off may be in front of it.
    screen.wait_for("HELLO", |text| text.contains("HELLO guest=workload"));
}

#[test]
fn all_reasons_come_at_once() {
    let (_rig, description) = description();
    let description = with(&description, "", |m: &mut SavedMachine| m.tsc_khz *= 2);
    let description = with(&description, "", |s: &mut SavedSchemas| {
        s.schemas.push(("whimbrel.time-machine".to_owned(), 1, 1));
    });
    let wishes = Wishes {
        uuid: Some(Uuid::from_u128(8)),
        memory: Some(128 * MIB),
        vcpus: Some(1),
        ..Wishes::default()
    };
    let codes = codes(wishes, &description);
    let expected = [
        Code::IncompatibleDevice,
        Code::ConfigConflict,
        Code::ConfigConflict,
        Code::ConfigConflict,
        Code::IncompatibleTsc,
    ];
    assert_eq!(codes, expected);
}

#[test]
fn a_processor_that_this_host_does_not_have_is_refused_by_leaf_and_bit() {
    let (_rig, description) = description();
    // A feature bit that no processor has.
    let description = with(&description, "cpu0", |c: &mut SavedCpuid| {
        let leaf = c.leaves.iter_mut().find(|l| l[0] == 7 && l[1] == 0).unwrap();
        leaf[4] |= 1 << 15;
    });
    let (builder, _screen) = builder(Wishes::default());
    let refusals = builder.check(&description);
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert_eq!(refusals[0].code, Code::IncompatibleCpu);
    assert!(refusals[0].why.contains("leaf 0x7 subleaf 0 ebx"), "{refusals:?}");
}

#[test]
fn msrs_and_xsave_areas_that_kvm_here_has_not_are_refused() {
    let (_rig, description) = description();
    let description = with(&description, "", |m: &mut SavedMachine| {
        m.msrs.push((0xdead, 0));
        m.xsave_size = 1 << 20;
    });
    let (builder, _screen) = builder(Wishes::default());
    let refusals = builder.check(&description);
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    assert!(refusals.iter().all(|r| r.code == Code::IncompatibleCpu));
    assert!(refusals.iter().any(|r| r.why.contains("MSR 0xdead")), "{refusals:?}");
}

#[test]
fn more_memory_than_there_is_is_refused_unless_it_is_said_to_be_fine() {
    let (_rig, description) = description();
    let description = with(&description, "", |m: &mut SavedMachine| m.memory = 1 << 44);
    assert_eq!(codes(Wishes::default(), &description), [Code::InsufficientMemory]);
    assert_eq!(codes(Wishes { overcommit: true, ..Wishes::default() }, &description), []);
    let huge = Wishes { overcommit: true, backing: Some(Backing::Huge2M), ..Wishes::default() };
    assert_eq!(codes(huge, &description), [Code::InsufficientMemory]);
}

#[test]
fn state_of_a_newer_build_is_refused() {
    let (_rig, description) = description();
    let description = with(&description, "", |s: &mut SavedSchemas| {
        let vcpu = s.schemas.iter_mut().find(|s| s.0 == "whimbrel.vcpu").unwrap();
        (vcpu.1, vcpu.2) = (9, 9);
        s.schemas.retain(|s| s.0 != "whimbrel.clock");
    });
    let codes = codes(Wishes::default(), &description);
    assert_eq!(codes, [Code::IncompatibleDevice, Code::IncompatibleDevice]);
}

#[test]
fn a_description_that_makes_no_sense_is_refused() {
    let (_rig, description) = description();
    for (vcpus, backing, memory) in [(0, "off", 64), (65, "off", 64), (2, "3M", 64), (2, "off", 1)]
    {
        let changed = with(&description, "", |m: &mut SavedMachine| {
            (m.vcpus, m.backing, m.memory) = (vcpus, backing.to_owned(), memory * MIB);
        });
        assert_eq!(codes(Wishes::default(), &changed).len(), 1, "{vcpus} {backing} {memory}");
    }
    assert_eq!(codes(Wishes::default(), &Bundle::new()).len(), 1);
}

#[test]
fn a_machine_of_the_wrong_size_is_an_error() {
    let ram = GuestRam::new(32 * MIB, Backing::Small).unwrap();
    let (events, _receiver) = sink();
    let hypervisor = whimbrel_vmm::Hypervisor::open().unwrap();
    for (memory, vcpus) in [(64 * MIB, 1), (32 * MIB, 0), (32 * MIB, 65)] {
        let ram = GuestRam::from_file(
            ram.file().unwrap().try_clone_to_owned().unwrap(),
            32 * MIB,
            Backing::Small,
            None,
        );
        let console = Screen::new().console();
        let config = rig::config(memory, vcpus);
        let made =
            whimbrel_vmm::Vm::new(&hypervisor, config, ram.unwrap(), console, events.clone());
        assert!(made.is_err(), "{memory} {vcpus}");
    }
}

#[test]
fn each_vcpu_is_checked_and_not_only_the_first() {
    let (_rig, description) = description();
    let (builder, _screen) = builder(Wishes::default());
    let changed = |change: fn(&mut [u32; 7])| {
        with(&description, "cpu1", |c: &mut SavedCpuid| c.leaves.iter_mut().for_each(change))
    };
    // No processor has virtual addresses of 51 bits, and KVM makes none.
    let refused = builder.check(&changed(|leaf| {
        if leaf[0] == 0x8000_0008 {
            leaf[3] = leaf[3] & !0xff00 | 51 << 8;
        }
    }));
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].why.contains("vCPU 1: setting its CPUID"), "{refused:?}");
    let refused = builder.check(&changed(|leaf| {
        if leaf[..2] == [7, 0] {
            leaf[4] |= 1 << 15;
        }
    }));
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].why.contains("leaf 0x7 subleaf 0 ebx"), "{refused:?}");
}
