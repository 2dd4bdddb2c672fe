//! Saving and restoring, dirty pages and resets, on the KVM of this host.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use guest::Builtin;
use memory::{Backing, GuestRam, PageRange, PageSet};
use motion::handover::RunPermit;
use motion::{DestinationMachine as _, Machine as _, SourceMachine as _};
use rig::{PATIENCE, Rig, config};
use state::Bundle;
use std::collections::BTreeMap;
use std::time::Duration;
use whimbrel_vmm::{RunState, SavedClock, SavedVcpu, VmEvent};

const MIB: u64 = 1 << 20;

/// Stops the guest, and lets it go on in another machine on the same RAM.
fn hand_over(from: &Rig) -> Rig {
    let to = from.twin();
    from.vm.pause().unwrap();
    let permit = from.vm.surrender().unwrap();
    let state = from.vm.save().unwrap();
    to.vm.restore(Bundle::decode(&state.encode()).unwrap()).unwrap();
    to.vm.run(permit).unwrap();
    to
}

/// The guest has found nothing wrong, and still looks.
fn is_well(rig: &Rig) {
    let text = rig.screen.wait_for_more("CHECK", 2);
    let last =
        text.lines().rev().find(|line| line.starts_with("CHECK") && line.contains("faults="));
    let found_none = last.is_some_and(|line| line.starts_with("CHECK ok"));
    assert!(found_none && !text.contains("FAULT"), "{text}");
}

#[test]
fn a_guest_goes_on_in_another_machine() {
    for vcpus in [1, 2, 8] {
        let mut rig = Rig::of_guest(Builtin::SelfCheck, "ws=1M report=50ms", vcpus, 64 * MIB);
        rig.start();
        rig.screen.wait_for_more("CHECK", 2);
        for _ in 0..3 {
            rig = hand_over(&rig);
            is_well(&rig);
        }
    }
}

#[test]
fn what_is_saved_is_what_was_restored() {
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M report=50ms", 2, 64 * MIB);
    rig.start();
    rig.screen.wait_for_more("WORK", 1);
    rig.vm.pause().unwrap();
    let mut first = rig.vm.save().unwrap();
    let twin = rig.twin();
    twin.vm.restore(first.clone()).unwrap();
    let mut second = twin.vm.save().unwrap();
    for index in 0..2 {
        let name = format!("cpu{index}");
        let before: SavedVcpu = first.take(&name).unwrap();
        let mut after: SavedVcpu = second.take(&name).unwrap();
        assert!(after.tsc > before.tsc, "the TSC goes on");
        assert_eq!(after.tsc_offset, before.tsc_offset);
        (after.tsc, after.tsc_read_at) = (before.tsc, before.tsc_read_at);
        // The timer of the local APIC counts on: its current count is at 0x390.
        let count = |v: &SavedVcpu| v.lapic[0x390..0x394].to_vec();
        after.lapic[0x390..0x394].copy_from_slice(&count(&before));
        assert_eq!(after, before, "{name}");
    }
    let (before, after): (SavedClock, SavedClock) =
        (first.take("").unwrap(), second.take("").unwrap());
    assert!(after.kvmclock > before.kvmclock, "kvmclock goes on");
    assert_eq!(first, second, "the devices");
}

/// The contents of all pages that were ever touched.
fn contents(rig: &Rig) -> BTreeMap<u64, Vec<u8>> {
    let ram = rig.vm.ram();
    let runs = ram.touched(PageRange::new(0, ram.pages())).unwrap();
    let pages = runs.into_iter().flat_map(|run| run.start..run.end());
    let read = |page| {
        let mut bytes = vec![0; 4096];
        ram.read(PageRange::new(page, 1), &mut bytes).unwrap();
        (page, bytes)
    };
    pages.map(read).collect()
}

#[test]
fn the_dirty_log_finds_the_pages_that_the_guest_writes_and_no_others() {
    let rig = Rig::of_guest(Builtin::Workload, "ws=4M touch=8M report=20ms", 2, 64 * MIB);
    let (log, pages) = (rig.vm.dirty_log(), rig.vm.ram().pages());
    rig.start();
    rig.screen.wait_for_more("WORK", 1);
    for _ in 0..2 {
        log.start().unwrap();
        rig.vm.pause().unwrap();
        let mut all = PageSet::new(pages);
        log.collect(&mut all).unwrap();
        assert_eq!(all, PageSet::full(pages), "nothing has been read yet");
        for start in (0..pages).step_by(1000) {
            log.rearm(&all, PageRange::new(start, 1000.min(pages - start))).unwrap();
        }
        let before = contents(&rig);
        rig.resume();
        rig.screen.wait_for_more("WORK", 3);
        rig.vm.pause().unwrap();
        let mut written = PageSet::new(pages);
        log.collect(&mut written).unwrap();
        let after = contents(&rig);
        let changed: Vec<u64> =
            after.iter().filter(|(p, now)| before.get(p) != Some(now)).map(|(p, _)| *p).collect();
        assert!(changed.len() > 100, "{} pages changed", changed.len());
        let lost: Vec<_> = changed.iter().filter(|page| !written.contains(**page)).collect();
        assert!(lost.is_empty(), "{lost:?}");
        // A page may be written without becoming another one, but few are.
        let more = written.count() - changed.len() as u64;
        assert!(more < 32, "{more} pages of {} are dirty and unchanged", written.count());
        // Nothing runs: what is rearmed stays clean, and what is not stays dirty.
        let kept = written.runs().next().unwrap();
        let mut others = written.clone();
        others.remove(kept);
        log.rearm(&others, PageRange::new(0, pages)).unwrap();
        let mut again = PageSet::new(pages);
        log.collect(&mut again).unwrap();
        assert_eq!(again.runs().collect::<Vec<_>>(), [kept]);
        log.stop().unwrap();
        log.stop().unwrap();
        rig.resume();
    }
}

#[test]
fn what_the_vmm_writes_is_dirty_until_it_is_rearmed() {
    use vm_memory::{Bytes as _, GuestAddress};
    let rig = Rig::of_guest(Builtin::Workload, "", 1, 64 * MIB);
    let (log, pages) = (rig.vm.dirty_log(), rig.vm.ram().pages());
    log.start().unwrap();
    let mut all = PageSet::full(pages);
    log.collect(&mut all).unwrap();
    log.rearm(&all, PageRange::new(0, pages)).unwrap();
    rig.vm.ram().memory().write_obj(1u8, GuestAddress(77 * 4096)).unwrap();
    for _ in 0..2 {
        let mut written = PageSet::new(pages);
        log.collect(&mut written).unwrap();
        assert_eq!(written.runs().collect::<Vec<_>>(), [PageRange::new(77, 1)]);
    }
    log.rearm(&all, PageRange::new(64, 64)).unwrap();
    let mut written = PageSet::new(pages);
    log.collect(&mut written).unwrap();
    assert!(written.is_empty());
}

#[test]
fn a_guest_that_resets_itself_boots_again() {
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M reset=100ms report=20ms", 2, 64 * MIB);
    rig.start();
    for boots in 1..4 {
        // The line that a reset cut off may be in front of it.
        rig.screen.wait_for("HELLO", |text| text.matches("HELLO guest").count() == boots);
        assert_eq!(rig.events.recv_timeout(PATIENCE).unwrap(), VmEvent::Reset);
        rig.vm.reset().unwrap();
        assert_eq!(rig.vm.state(), RunState::Running);
    }
}

#[test]
fn a_reset_that_a_motion_is_in_the_way_of_happens_when_the_guest_runs_again() {
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M reset=100ms report=20ms", 1, 64 * MIB);
    rig.start();
    assert_eq!(rig.events.recv_timeout(PATIENCE).unwrap(), VmEvent::Reset);
    rig.vm.pause().unwrap();
    let permit = rig.vm.surrender().unwrap();
    assert!(rig.vm.save().unwrap_err().to_string().contains("reset"));
    assert!(rig.vm.reset().unwrap_err().to_string().contains("motion"));
    rig.vm.run(permit).unwrap();
    rig.screen.wait_for("second HELLO", |text| text.matches("HELLO guest").count() == 2);
}

#[test]
fn a_rehearsal_leaves_a_machine_fit_for_the_guest() {
    let rig = Rig::of_guest(Builtin::SelfCheck, "ws=1M report=50ms", 2, 64 * MIB);
    rig.start();
    rig.screen.wait_for_more("CHECK", 1);
    let twin = rig.twin();
    let rehearsal = twin.vm.rehearse().unwrap();
    assert!(!rehearsal.save.is_zero() && !rehearsal.restore.is_zero());
    twin.vm.rehearse().unwrap();
    rig.vm.pause().unwrap();
    let permit = rig.vm.surrender().unwrap();
    twin.vm.restore(rig.vm.save().unwrap()).unwrap();
    twin.vm.run(permit).unwrap();
    is_well(&twin);
}

#[test]
fn what_is_left_over_or_missing_is_an_error() {
    let rig = Rig::of_guest(Builtin::Workload, "", 2, 64 * MIB);
    let full = rig.vm.save().unwrap();
    for without in 0..full.payloads().len() {
        let mut part = Bundle::new();
        let others = full.payloads().iter().enumerate().filter(|(i, _)| *i != without);
        others.for_each(|(_, payload)| part.put_payload(payload.clone()));
        let error = rig.twin().vm.restore(part).unwrap_err().to_string();
        assert!(error.contains(&full.payloads()[without].schema), "{error}");
    }
    let mut more = full.clone();
    let cpu = full.payloads().iter().find(|p| p.instance == "cpu1").unwrap();
    more.put_payload(state::Payload { instance: "cpu2".to_owned(), ..cpu.clone() });
    let error = rig.twin().vm.restore(more).unwrap_err().to_string();
    assert!(error.contains("cpu2"), "{error}");
}

#[test]
fn a_machine_takes_a_guest_only_before_its_first_run() {
    let rig = Rig::of_guest(Builtin::Workload, "", 1, 64 * MIB);
    let state = rig.vm.save().unwrap();
    rig.vm.grant(RunPermit::for_new_machine());
    assert!(rig.vm.restore(state).is_err());
    rig.start();
    assert!(rig.vm.save().unwrap_err().to_string().contains("running"));
}

#[test]
fn time_goes_on_for_a_guest_that_comes_from_another_host() {
    let rig = Rig::of_guest(Builtin::SelfCheck, "ws=1M report=50ms", 2, 64 * MIB);
    rig.start();
    rig.screen.wait_for_more("CHECK", 1);
    let twin = rig.twin();
    rig.vm.pause().unwrap();
    let permit = rig.vm.surrender().unwrap();
    let mut state = rig.vm.save().unwrap();
    let mut clock: SavedClock = state.take("").unwrap();
    clock.boot_id = Some("of another host".to_owned());
    let before = clock.kvmclock;
    state.put("", &clock);
    std::thread::sleep(Duration::from_millis(20));
    twin.vm.restore(state.clone()).unwrap();
    let mut now = twin.vm.save().unwrap();
    let clock: SavedClock = now.take("").unwrap();
    let away = clock.kvmclock - before;
    assert!(away >= 20_000_000, "{away} ns");
    for cpu in ["cpu0", "cpu1"] {
        let (then, now): (SavedVcpu, SavedVcpu) =
            (state.take(cpu).unwrap(), now.take(cpu).unwrap());
        let ticks = u128::from(now.tsc - then.tsc) * 1_000_000 / u128::from(clock.host_khz);
        assert!(ticks >= 20_000_000, "{ticks} ns");
        assert_eq!(now.tsc_offset.is_some(), then.tsc_offset.is_some());
    }
    twin.vm.run(permit).unwrap();
    is_well(&twin);
}

#[test]
fn a_clock_that_would_go_backwards_is_refused() {
    let rig = Rig::of_guest(Builtin::Workload, "", 1, 64 * MIB);
    let good = rig.vm.save().unwrap();
    let mut state = good.clone();
    let mut cpu: SavedVcpu = state.take("cpu0").unwrap();
    // Later than any host's TSC, and not reached by a move of no time.
    (cpu.tsc, cpu.tsc_read_at) = (u64::MAX, u64::MAX);
    state.put("cpu0", &cpu);
    let error = rig.twin().vm.restore(state).unwrap_err();
    assert!(error.to_string().contains("would go back"), "{error}");
}

#[test]
fn ram_above_the_hole_has_a_dirty_log_too() {
    use vm_memory::{Bytes as _, GuestAddress};
    let memory = (3 << 30) + 100 * 4096;
    let ram = GuestRam::new(memory, Backing::Small).unwrap();
    let rig = Rig::empty(config(memory, 1), ram);
    let (log, pages) = (rig.vm.dirty_log(), rig.vm.ram().pages());
    log.start().unwrap();
    let mut all = PageSet::new(pages);
    log.collect(&mut all).unwrap();
    assert_eq!(all, PageSet::full(pages));
    // A range that begins below the hole and ends above it, at no multiple of anything.
    let hole = memory::PCI_HOLE / 4096;
    let range = PageRange::new(hole - 70, 70 + 67);
    log.rearm(&all, range).unwrap();
    let address = GuestAddress(memory::HIGH_RAM + 5 * 4096);
    rig.vm.ram().memory().write_obj(1u8, address).unwrap();
    let mut dirty = PageSet::new(pages);
    log.collect(&mut dirty).unwrap();
    let mut expected = PageSet::full(pages);
    expected.remove(range);
    expected.insert(PageRange::new(hole + 5, 1));
    assert_eq!(dirty, expected);
    log.stop().unwrap();
    assert!(log.collect(&mut dirty).is_err());
}
