//! State and descriptions from a peer that means harm, or a line that damages them: an error, never
//! a crash, and never a machine in half a state that runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use guest::Builtin;
use motion::{DestinationMachine as _, Machine as _, MachineBuilder as _, SourceMachine as _};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rig::{Rig, builder};
use state::{Bundle, Code, Payload};
use whimbrel_vmm::{SavedVcpu, Wishes};

const MIB: u64 = 1 << 20;

/// The bundle with some bits of one payload's contents turned over.
fn damaged(bundle: &Bundle, which: prop::sample::Index, bits: &[prop::sample::Index]) -> Bundle {
    let mut damaged = Bundle::new();
    let which = which.index(bundle.payloads().len());
    for (index, payload) in bundle.payloads().iter().enumerate() {
        let mut payload = payload.clone();
        if index == which {
            for bit in bits {
                let bit = bit.index(payload.data.len() * 8);
                payload.data[bit / 8] ^= 1 << (bit % 8);
            }
        }
        damaged.put_payload(payload);
    }
    damaged
}

fn anything() -> impl Strategy<Value = (prop::sample::Index, Vec<prop::sample::Index>)> {
    (any::<prop::sample::Index>(), proptest::collection::vec(any::<prop::sample::Index>(), 1..4))
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, max_shrink_iters: 20, ..Config::default() })
}

#[test]
fn damaged_state_is_refused_or_is_state() {
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M", 2, 16 * MIB);
    rig.start();
    rig.screen.wait_for_more("HELLO", 1);
    rig.vm.pause().unwrap();
    let state = rig.vm.save().unwrap();
    let restore = |(which, bits): (_, Vec<_>)| {
        let twin = rig.twin();
        let restored = twin.vm.restore(damaged(&state, which, &bits));
        if let Err(e) = restored {
            prop_assert!(matches!(e.code, Code::BadState | Code::Kvm), "{:?}", e);
        }
        Ok(())
    };
    runner(200).run(&anything(), restore).unwrap();
}

#[test]
fn a_damaged_description_is_refused_or_describes_a_machine() {
    let rig = Rig::of_guest(Builtin::Workload, "ws=1M", 2, 16 * MIB);
    let description = rig.vm.describe().unwrap();
    let (builder, _screen) = builder(Wishes::default());
    let check = |(which, bits): (_, Vec<_>)| {
        let description = damaged(&description, which, &bits);
        if builder.check(&description).is_empty() {
            let machine = builder.build(description);
            prop_assert!(machine.is_ok(), "{:?}", machine.err());
        }
        Ok(())
    };
    runner(200).run(&anything(), check).unwrap();
}

#[test]
fn each_part_of_a_vcpus_state_is_checked() {
    let rig = Rig::of_guest(Builtin::Workload, "", 1, 16 * MIB);
    let good = rig.vm.save().unwrap();
    let refused = |what: &str, change: fn(&mut SavedVcpu)| {
        let mut state = good.clone();
        let mut cpu: SavedVcpu = state.take("cpu0").unwrap();
        change(&mut cpu);
        state.put_payload(Payload::pack("cpu0", &cpu));
        let error = rig.twin().vm.restore(state).unwrap_err();
        assert_eq!(error.what, "restoring vCPU 0");
        assert!(error.to_string().contains(what), "{what}: {error}");
    };
    refused("its registers are 143 bytes", |cpu| cpu.regs.truncate(143));
    refused("its special registers are 321 bytes", |cpu| cpu.sregs.push(0));
    refused("its debug registers are 0 bytes", |cpu| cpu.debug_regs.clear());
    refused("its local APIC registers are 1023 bytes", |cpu| cpu.lapic.truncate(1023));
    refused("its events are 65 bytes", |cpu| cpu.events.push(0));
    refused("its XSAVE area is 4095 bytes", |cpu| cpu.xsave.truncate(4095));
    refused("its XSAVE area is 1048576 bytes", |cpu| cpu.xsave.resize(1 << 20, 0));
    refused("extended control registers are 17", |cpu| cpu.xcrs = vec![(0, 1); 17]);
    refused("MSR 0x174 twice", |cpu| cpu.msrs.extend([(0x174, 0), (0x174, 0)]));
    refused("refuses to set MSR 0xdead to 0x1", |cpu| cpu.msrs.push((0xdead, 1)));
    refused("KVM_SET_MP_STATE", |cpu| cpu.mp_state = 77);
    refused("KVM_SET_XCRS", |cpu| cpu.xcrs = vec![(0, 0)]);
    refused("nested state is 3 bytes", |cpu| cpu.nested = Some(vec![0; 3].into()));
}
