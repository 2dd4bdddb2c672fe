//! Guests that break their processor: run states and events, never a crash.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use motion::Machine as _;
use rig::code::{elf, nowhere, probe, triple_fault};
use rig::{PATIENCE, Rig};
use whimbrel_vmm::{RunState, VmEvent};

const MIB: u64 = 1 << 20;

fn fails_with(code: &[u8], vcpus: u32, words: &str) -> Rig {
    let rig = Rig::of_image(elf(code), "", vcpus, 16 * MIB);
    rig.start();
    let event = rig.events.recv_timeout(PATIENCE).unwrap();
    let VmEvent::GuestError { vcpu: 0, reason, registers } = event else { panic!("{event:?}") };
    assert!(reason.contains(words), "{reason}");
    assert!(registers.0.iter().any(|(name, value)| *name == "rip" && *value != 0), "{registers}");
    assert_eq!(rig.vm.state(), RunState::InternalError);
    assert!(rig.vm.failure().unwrap().contains(words));
    rig
}

#[test]
fn a_triple_fault_is_an_event_and_the_guest_does_not_go_on() {
    let rig = fails_with(triple_fault(), 2, "triple fault");
    rig.vm.pause().unwrap();
    let permit = rig.vm.surrender().unwrap();
    let error = rig.vm.run(permit).unwrap_err();
    assert_eq!(error.code, state::Code::InvalidState);
    use motion::SourceMachine as _;
    assert_eq!(rig.vm.save().unwrap_err().code, state::Code::GuestGone);
    assert_eq!(rig.vm.refusals().len(), 1);
    assert!(rig.events.try_recv().is_err(), "one event is enough");
}

#[test]
fn code_where_there_is_no_memory_is_an_event() {
    fails_with(nowhere(), 1, "internal error of KVM");
}

#[test]
fn a_guest_that_failed_can_be_reset() {
    let rig = fails_with(triple_fault(), 1, "triple fault");
    rig.vm.reset().unwrap();
    assert_eq!(rig.vm.failure(), None);
    rig.resume();
    assert!(matches!(rig.events.recv_timeout(PATIENCE).unwrap(), VmEvent::GuestError { .. }));
}

#[test]
fn ports_and_addresses_that_nobody_has_read_as_all_ones() {
    let rig = Rig::of_image(elf(probe()), "", 1, 16 * MIB);
    rig.start();
    assert_eq!(rig.events.recv_timeout(PATIENCE).unwrap(), VmEvent::Shutdown);
    assert_eq!(rig.vm.state(), RunState::Shutdown);
}
