//! What becomes of a guest's clocks while it is in a file, on the KVM of this host.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use guest::Builtin;
use memory::PageRange;
use motion::handover::RunPermit;
use motion::{DestinationMachine as _, Machine as _, MachineBuilder as _, SourceMachine as _};
use rig::{Rig, Screen, builder};
use state::Bundle;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;
use whimbrel_vmm::{Builder, GuestClock, SavedClock, SavedVcpu, Vm, Wishes};

const MIB: u64 = 1 << 20;
const HOUR: u64 = 3_600_000_000_000;

/// A guest that was stopped, and its state.
struct Stopped {
    rig: Rig,
    state: Bundle,
}

impl Stopped {
    fn new() -> Self {
        let rig = Rig::of_guest(Builtin::Workload, "ws=1M report=50ms", 2, 64 * MIB);
        rig.start();
        rig.screen.wait_for_more("WORK", 1);
        rig.vm.pause().unwrap();
        let state = rig.vm.save().unwrap();
        Self { rig, state }
    }

    fn clock(&self) -> SavedClock {
        self.state.clone().take("").unwrap()
    }

    /// The state as it would be if the guest had been stopped an hour ago.
    fn an_hour_ago(&self) -> Bundle {
        let mut state = self.state.clone();
        let mut clock: SavedClock = state.take("").unwrap();
        clock.realtime = clock.realtime.map(|then| then - HOUR);
        clock.wall_clock -= HOUR;
        state.put("", &clock);
        for name in ["cpu0", "cpu1"] {
            let mut vcpu: SavedVcpu = state.take(name).unwrap();
            vcpu.tsc_read_at -= HOUR;
            state.put(name, &vcpu);
        }
        state
    }

    /// A machine like it, with its RAM.
    fn built(&self, wishes: Wishes) -> (Arc<Vm>, Arc<Screen>) {
        let (builder, screen): (Builder, _) = builder(wishes);
        let description = self.rig.vm.describe().unwrap();
        assert_eq!(builder.check(&description), []);
        builder.build(description).unwrap();
        let vm = builder.built().unwrap();
        let ram = self.rig.vm.ram();
        for run in ram.touched(PageRange::new(0, ram.pages())).unwrap() {
            let mut bytes = vec![0; usize::try_from(run.bytes()).unwrap()];
            ram.read(run, &mut bytes).unwrap();
            vm.ram().slice(run).unwrap().copy_from(&bytes[..]);
        }
        (vm, screen)
    }
}

fn kvmclock(vm: &Vm) -> u64 {
    let clock: SavedClock = vm.save().unwrap().take("").unwrap();
    clock.kvmclock
}

#[test]
fn an_hour_in_a_file_has_not_passed_for_the_guest() {
    let stopped = Stopped::new();
    let then = stopped.clock().kvmclock;
    let (vm, screen) = stopped.built(Wishes { clock: GuestClock::Continue, ..Wishes::default() });
    vm.restore(stopped.an_hour_ago()).unwrap();
    let now = kvmclock(&vm);
    assert!((then..then + HOUR / 2).contains(&now), "{then} became {now}");
    vm.run(RunPermit::for_new_machine()).unwrap();
    screen.wait_for_more("WORK", 2);
    vm.pause().unwrap();
    let now = kvmclock(&vm);
    assert!((then..then + HOUR / 2).contains(&now), "{then} became {now}");
}

#[test]
fn an_hour_on_the_way_has_passed_for_the_guest() {
    let stopped = Stopped::new();
    let then = stopped.clock().kvmclock;
    let (vm, screen) = stopped.built(Wishes::default());
    vm.restore(stopped.an_hour_ago()).unwrap();
    let now = kvmclock(&vm);
    assert!((then + HOUR..then + 2 * HOUR).contains(&now), "{then} became {now}");
    vm.run(RunPermit::for_new_machine()).unwrap();
    screen.wait_for_more("WORK", 2);
}

#[test]
fn a_clock_that_stands_goes_on_with_the_guest_and_not_before() {
    let stopped = Stopped::new();
    let then = stopped.clock().kvmclock;
    let (vm, screen) = stopped.built(Wishes { clock: GuestClock::Continue, ..Wishes::default() });
    vm.restore(stopped.state.clone()).unwrap();
    // It is loaded, and somebody takes their time to let it run.
    std::thread::sleep(Duration::from_millis(400));
    let before = Instant::now();
    let passed = kvmclock(&vm) - then;
    // It can have gone on within the look at it only; a microsecond for how clocks are rounded.
    let most = before.elapsed() + Duration::from_micros(1);
    assert!(Duration::from_nanos(passed) <= most, "{passed} ns went by in {most:?}");
    vm.run(RunPermit::for_new_machine()).unwrap();
    screen.wait_for_more("WORK", 2);
    vm.pause().unwrap();
    assert!(kvmclock(&vm) > then + passed, "it runs");
}

#[test]
fn a_copy_has_an_identity_of_its_own() {
    let stopped = Stopped::new();
    let uuid = Uuid::from_u128(42);
    let (vm, _screen) = stopped.built(Wishes { clone: Some(uuid), ..Wishes::default() });
    assert_eq!(vm.config().uuid, uuid);
    assert_ne!(stopped.rig.vm.config().uuid, uuid);
}
