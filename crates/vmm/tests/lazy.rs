//! Guests that run while their RAM is still being filled.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use guest::Builtin;
use motion::{DestinationMachine as _, Machine as _, SourceMachine as _};
use rig::saved::{Filled, Mood, Saved, Word};
use rig::{PATIENCE, Rig};
use std::sync::Arc;
use std::time::Duration;
use whimbrel_vmm::{RunState, VmEvent};

const MIB: u64 = 1 << 20;

/// A guest that checks its memory and its registers all the time, stopped and put aside.
fn saved(vcpus: u32) -> Arc<Saved> {
    let rig = Rig::of_guest(Builtin::SelfCheck, "ws=1M report=50ms", vcpus, 64 * MIB);
    rig.start();
    rig.screen.wait_for_more("CHECK", 2);
    Saved::of(&rig)
}

/// The guest goes on and finds nothing wrong.
fn is_well(rig: &Rig) {
    let text = rig.screen.wait_for_more("CHECK", 3);
    let wrong = ["FAULT", "CHECK bad"].into_iter().find(|word| text.contains(word));
    assert_eq!(wrong, None, "{text}");
    assert_eq!(rig.vm.failure(), None);
}

#[test]
fn a_guest_goes_on_while_its_ram_comes() {
    for vcpus in [1, 2, 8] {
        let saved = saved(vcpus);
        for mood in [Mood::Serves, Mood::Takes(Duration::from_millis(2))] {
            let filled = Filled::new(&saved, mood);
            filled.start();
            let Word::Finished(report) = filled.next_word() else { panic!("an outage") };
            assert_eq!(report.fetched.sum(), saved.present().count());
            let waits: u64 = report.waits.iter().map(|waits| waits.count).sum();
            assert_eq!(waits, report.latency.count);
            is_well(&filled.rig);
            assert!(filled.rig.vm.ram().filling().is_none());
        }
    }
}

#[test]
fn a_guest_that_is_stopped_again_and_again_while_its_ram_comes_loses_nothing() {
    let saved = saved(2);
    let filled = Filled::new(&saved, Mood::Takes(Duration::from_millis(3)));
    filled.start();
    loop {
        filled.rig.vm.pause().unwrap();
        filled.rig.vm.save().unwrap();
        filled.rig.resume();
        if filled.service.is_done() {
            break;
        }
    }
    is_well(&filled.rig);
}

#[test]
fn stopping_needs_no_answer_from_where_pages_come() {
    let saved = saved(2);
    // From the very first page on, which KVM itself waits for, to where most are there.
    for reads in [0, 1, 2, 3, 4, 5, 6, 8, 13] {
        let filled = Filled::new(&saved, Mood::HangsAfter(reads));
        let vm = &filled.rig.vm;
        filled.start();
        std::thread::sleep(Duration::from_millis(20));
        vm.halt().unwrap();
        assert_eq!(vm.state(), RunState::Paused);
        if vm.save().is_err() {
            // Whether it stands as the engine needs it is known, and waited for no longer than that.
            assert!(vm.surrender().is_none(), "a vCPU is in the middle of something");
        }
        filled.source.set(Mood::Serves);
        vm.pause().unwrap();
        vm.save().unwrap();
        filled.rig.resume();
        assert!(matches!(filled.next_word(), Word::Finished(_)));
        is_well(&filled.rig);
    }
}

#[test]
fn a_machine_whose_pages_never_come_ends_all_the_same() {
    let saved = saved(2);
    for reads in [0, 1, 2, 5] {
        let filled = Filled::new(&saved, Mood::HangsAfter(reads));
        filled.start();
        std::thread::sleep(Duration::from_millis(20));
        let ram = filled.rig.vm.ram().clone();
        assert!(!filled.service.is_done());
        drop(filled);
        let all = memory::PageRange::new(0, ram.pages());
        assert!(ram.touched(all).is_err(), "what has not come is not zero");
    }
}

#[test]
fn an_outage_before_the_guest_runs_does_not_keep_it_from_arriving() {
    let saved = saved(1);
    let filled = Filled::new(&saved, Mood::Serves);
    let vm = &filled.rig.vm;
    let before = vm.state();
    vm.stop_on_io_error("the file is gone");
    assert_eq!((vm.state(), vm.failure()), (before, None));
    filled.start();
    assert!(matches!(filled.next_word(), Word::Finished(_)));
    is_well(&filled.rig);
}

#[test]
fn an_outage_stops_the_guest_until_its_pages_can_be_had() {
    let saved = saved(2);
    for reads in [0, 1, 3, 6] {
        let filled = Filled::new(&saved, Mood::FailsAfter(reads));
        let vm = &filled.rig.vm;
        filled.start();
        let Word::Outage(outage) = filled.next_word() else { panic!("all came") };
        assert!(outage.why.contains("the file is gone"), "{outage:?}");
        let event = filled.rig.events.recv_timeout(PATIENCE).unwrap();
        assert_eq!(event, VmEvent::IoError { reason: outage.why.clone() });
        assert_eq!((vm.state(), vm.failure()), (RunState::IoError, Some(outage.why)));
        vm.halt().unwrap();
        assert_eq!(vm.state(), RunState::IoError, "which says more than that it is paused");
        assert!(vm.ram().touched(memory::PageRange::new(0, vm.ram().pages())).is_err());
        filled.source.set(Mood::Serves);
        filled.service.retry().unwrap();
        vm.pause().unwrap();
        filled.rig.resume();
        assert_eq!((vm.state(), vm.failure()), (RunState::Running, None));
        assert!(matches!(filled.next_word(), Word::Finished(_)));
        is_well(&filled.rig);
    }
}

#[test]
fn a_machine_can_be_handed_on_while_its_ram_is_being_filled() {
    let saved = saved(2);
    let filled = Filled::new(&saved, Mood::Takes(Duration::from_millis(1)));
    let from = &filled.rig;
    from.start();
    std::thread::sleep(Duration::from_millis(5));
    from.vm.pause().unwrap();
    let permit = from.vm.surrender().unwrap();
    // Page by page, as an engine that saves or moves it does.
    let ram = from.vm.ram();
    let to = Rig::on(from.screen.clone(), from.vm.config().clone(), Rig::new_ram(64 * MIB));
    for run in ram.touched(memory::PageRange::new(0, ram.pages())).unwrap() {
        let mut bytes = vec![0; usize::try_from(run.bytes()).unwrap()];
        ram.read(run, &mut bytes).unwrap();
        to.vm.ram().slice(run).unwrap().copy_from(&bytes);
    }
    to.vm.restore(from.vm.save().unwrap()).unwrap();
    to.vm.run(permit).unwrap();
    is_well(&to);
}
