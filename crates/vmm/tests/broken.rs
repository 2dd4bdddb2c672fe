//! Guests that break their processor: run states and events, never a crash.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use motion::Machine as _;
use rig::{PATIENCE, Rig};
use whimbrel_vmm::{RunState, VmEvent};

const MIB: u64 = 1 << 20;
const ENTRY: u32 = 0x10_0000;

/// A PVH ELF file of nothing but this code, entered in 32-bit mode.
fn elf(code: &[u8]) -> Vec<u8> {
    let (headers, note, text) = (64u64, 64 + 2 * 56, 0x100u64);
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_EXEC for x86_64, version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [u64::from(ENTRY), headers, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [0u16, 0, 64, 56, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let length = code.len() as u64;
    let entry = u64::from(ENTRY);
    // PT_LOAD of the code, PT_NOTE of the entry.
    for (kind, flags, words) in [
        (1u32, 7u32, [text, entry, entry, length, length, 0x1000]),
        (4, 4, [note, 0, 0, 20, 20, 4]),
    ] {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        words.iter().for_each(|word| file.extend(word.to_le_bytes()));
    }
    // XEN_ELFNOTE_PHYS32_ENTRY.
    for word in [4u32, 4, 18] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"Xen\0");
    file.extend(ENTRY.to_le_bytes());
    file.resize(usize::try_from(text).unwrap(), 0);
    file.extend(code);
    file
}

fn fails_with(code: &[u8], vcpus: u32, words: &str) -> Rig {
    let rig = Rig::of_image(elf(code), "", vcpus, 16 * MIB);
    rig.start();
    let event = rig.events.recv_timeout(PATIENCE).unwrap();
    let VmEvent::GuestError { vcpu: 0, reason } = event else { panic!("{event:?}") };
    assert!(reason.contains(words), "{reason}");
    assert_eq!(rig.vm.state(), RunState::InternalError);
    assert!(rig.vm.failure().unwrap().contains(words));
    rig
}

#[test]
fn a_triple_fault_is_an_event_and_the_guest_does_not_go_on() {
    // ud2 without an IDT.
    let rig = fails_with(&[0x0f, 0x0b], 2, "triple fault");
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
    // mov eax, 0xd0000000; jmp eax
    fails_with(&[0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0], 1, "");
}

#[test]
fn a_guest_that_failed_can_be_reset() {
    let rig = fails_with(&[0x0f, 0x0b], 1, "triple fault");
    rig.vm.reset().unwrap();
    assert_eq!(rig.vm.failure(), None);
    rig.resume();
    assert!(matches!(rig.events.recv_timeout(PATIENCE).unwrap(), VmEvent::GuestError { .. }));
}

#[test]
fn ports_and_addresses_that_nobody_has_read_as_all_ones() {
    // in al, 0x80; cmp al, -1; jne bad; mov eax, [0xd0000000]; cmp eax, -1; jne bad;
    // mov dx, 0x600; mov al, 0x34; out dx, al; hlt; bad: ud2
    let code = [
        0xe4, 0x80, 0x3c, 0xff, 0x75, 0x13, 0xa1, 0, 0, 0, 0xd0, 0x83, 0xf8, 0xff, 0x75, 0x09,
        0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xf4, 0x90, 0x0f, 0x0b,
    ];
    let rig = Rig::of_image(elf(&code), "", 1, 16 * MIB);
    rig.start();
    assert_eq!(rig.events.recv_timeout(PATIENCE).unwrap(), VmEvent::Shutdown);
    assert_eq!(rig.vm.state(), RunState::Shutdown);
}
