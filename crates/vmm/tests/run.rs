//! Booting, running and stopping, on the KVM of this host.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use guest::Builtin;
use motion::Machine as _;
use rig::{PATIENCE, Rig, Screen};
use whimbrel_vmm::{RunState, VmEvent};

const MIB: u64 = 1 << 20;

#[test]
fn a_guest_boots_on_each_number_of_vcpus_and_prints() {
    for vcpus in [1, 2, 8, 64] {
        let rig = Rig::of_guest(Builtin::Clock, "report=100ms", vcpus, 64 * MIB);
        assert_eq!(rig.vm.state(), RunState::Prelaunch);
        rig.start();
        let text = rig.screen.wait_for("HELLO", |text| Screen::count(text, "HELLO") == 1);
        assert!(text.contains(&format!("cpus={vcpus}")), "{text}");
        assert_eq!(rig.vm.state(), RunState::Running);
    }
}

#[test]
fn a_guest_goes_on_after_each_of_many_pauses() {
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M report=50ms", 2, 64 * MIB);
    rig.start();
    rig.screen.wait_for_more("HELLO", 1);
    for i in 0..1000 {
        rig.vm.pause().unwrap();
        assert!(!rig.vm.is_running());
        assert_eq!(rig.vm.state(), RunState::Paused, "{i}");
        rig.resume();
    }
    rig.screen.wait_for_more("WORK", 2);
}

#[test]
fn nothing_runs_while_it_is_paused() {
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M report=10ms", 2, 64 * MIB);
    rig.start();
    rig.screen.wait_for_more("WORK", 2);
    rig.vm.pause().unwrap();
    rig.vm.pause().unwrap();
    rig.screen.settle();
    let before = rig.screen.text();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(rig.screen.text(), before);
    rig.resume();
    rig.screen.wait_for_more("WORK", 2);
}

#[test]
fn only_who_holds_the_permit_can_run_the_guest() {
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M report=10ms", 1, 64 * MIB);
    assert!(rig.vm.surrender().is_none());
    rig.start();
    assert!(rig.vm.surrender().is_none(), "a running machine keeps its permit");
    rig.vm.pause().unwrap();
    let permit = rig.vm.surrender().unwrap();
    assert!(rig.vm.surrender().is_none());
    rig.vm.grant(permit);
    rig.resume();
    rig.screen.wait_for_more("WORK", 1);
}

#[test]
fn a_guest_that_powers_off_says_so() {
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M poweroff=100ms", 2, 64 * MIB);
    rig.start();
    assert_eq!(rig.events.recv_timeout(PATIENCE).unwrap(), VmEvent::Shutdown);
    assert_eq!(rig.vm.state(), RunState::Shutdown);
    rig.vm.pause().unwrap();
    let permit = rig.vm.surrender().unwrap();
    assert!(rig.vm.run(permit).unwrap_err().to_string().contains("shutdown"));
}
