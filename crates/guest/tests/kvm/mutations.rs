//! The self-check guest on real KVM: whatever is lost or set back, it says so
//!
//! Each test takes something from the stopped guest that a faulty move could
//! lose, and waits for the line that reports it.

use crate::host::{Guest, Stop};
use whimbrel_guest::Builtin;
use whimbrel_guest::report::{Check, Fault, Kind, Line, Scope, Verdict};
use whimbrel_guest::shared::fpu::Vectors;
use whimbrel_guest::shared::pattern::{Key, Page};

/// A guest that has written all its pages at least once, stopped between pages
fn running() -> Guest {
    let mut guest = Guest::boot(Builtin::SelfCheck, "ws=4M untouched=64K rate=20000 poll=2ms");
    guest.until(|line| matches!(line, Line::Check(check) if check.rounds > 0).then_some(()));
    guest.stop(&Stop::Poll, |_| true);
    guest
}

fn fault(guest: &mut Guest) -> Fault {
    guest.until(|line| match line {
        Line::Fault(fault) => Some(*fault),
        _ => None,
    })
}

/// What is found now, and that it is found only once
fn only_fault(guest: &mut Guest, kind: Kind) -> Fault {
    let found = fault(guest);
    assert_eq!(found.kind, kind, "{found}");
    let check = full_check(guest);
    assert_eq!((check.verdict, check.faults), (Verdict::Bad, 1), "{check}");
    found
}

fn full_check(guest: &mut Guest) -> Check {
    guest.send(b'c');
    guest.until(|line| match line {
        Line::Check(check) if check.scope == Scope::Full => Some(*check),
        _ => None,
    })
}

/// Runs until every page that is rewritten has been
fn a_round_later(guest: &mut Guest) {
    let rounds = |line: &Line| match line {
        Line::Check(check) => Some(check.rounds),
        _ => None,
    };
    let before = guest.until(rounds);
    guest.until(|line| rounds(line).filter(|&now| now > before + 1));
    guest.stop(&Stop::Poll, |_| true);
}

/// Two pages that are rewritten all the time, as they are now
fn busy_pages(guest: &mut Guest) -> [(Key, Page); 2] {
    let pages = guest.pattern_pages();
    let newest = pages.iter().map(|key| key.generation).max().unwrap();
    let mut busy = pages.into_iter().filter(|key| key.generation + 1 >= newest);
    [busy.next().unwrap(), busy.next().unwrap()].map(|key| (key, *guest.page(key.address)))
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let mut guest = running();
    a_round_later(&mut guest);
    let check = full_check(&mut guest);
    assert_eq!((check.verdict, check.faults), (Verdict::Ok, 0));
    assert_eq!(check.pages, (4 << 20) / 4096 + (64 << 10) / 4096);
}

#[test]
fn a_dropped_page_is_reported() {
    let mut guest = running();
    let [(key, _), _] = busy_pages(&mut guest);
    *guest.page(key.address) = [0; 512];
    let fault = only_fault(&mut guest, Kind::Zero);
    assert_eq!((fault.addr.0, fault.expected.0), (key.address, key.generation));
}

#[test]
fn a_dropped_page_that_is_never_rewritten_is_reported() {
    let mut guest = running();
    a_round_later(&mut guest);
    let once = guest.pattern_pages().into_iter().find(|key| key.generation == 1).unwrap();
    *guest.page(once.address) = [0; 512];
    assert_eq!(only_fault(&mut guest, Kind::Zero).addr.0, once.address);
}

#[test]
fn an_old_version_of_a_page_is_reported() {
    let mut guest = running();
    let [(key, old), _] = busy_pages(&mut guest);
    a_round_later(&mut guest);
    *guest.page(key.address) = old;
    let fault = only_fault(&mut guest, Kind::Stale);
    assert_eq!((fault.addr.0, fault.found.0), (key.address, key.generation));
}

#[test]
fn a_page_whose_zeroing_was_lost_is_reported() {
    let mut guest = running();
    let before = guest.pattern_pages();
    let old: Vec<Page> = before.iter().map(|key| *guest.page(key.address)).collect();
    let zeroed =
        |guest: &mut Guest| before.iter().position(|key| *guest.page(key.address) == [0; 512]);
    guest.stop(&Stop::Poll, |guest| zeroed(guest).is_some());
    let index = zeroed(&mut guest).unwrap();
    *guest.page(before[index].address) = old[index];
    assert_eq!(only_fault(&mut guest, Kind::Stale).addr.0, before[index].address);
}

#[test]
fn swapped_pages_are_reported() {
    let mut guest = running();
    let [(first, one), (second, other)] = busy_pages(&mut guest);
    *guest.page(first.address) = other;
    *guest.page(second.address) = one;
    let faults = [fault(&mut guest), fault(&mut guest)];
    for found in faults {
        assert_eq!(found.kind, Kind::Misplaced);
        assert_eq!(found.addr.0 + found.found.0, first.address + second.address);
    }
}

#[test]
fn a_torn_page_is_reported() {
    let mut guest = running();
    let [(key, old), _] = busy_pages(&mut guest);
    a_round_later(&mut guest);
    guest.page(key.address)[256..].copy_from_slice(&old[256..]);
    let fault = only_fault(&mut guest, Kind::Torn);
    assert_eq!((fault.addr.0, fault.found.0), (key.address + 2048, key.generation));
}

#[test]
fn a_flipped_bit_is_reported() {
    let mut guest = running();
    let [(key, _), _] = busy_pages(&mut guest);
    guest.page(key.address)[511] ^= 1 << 17;
    assert_eq!(only_fault(&mut guest, Kind::Corrupt).addr.0, key.address + 4088);
}

#[test]
fn a_page_that_was_never_written_must_be_zero() {
    let mut guest = running();
    // It lies right behind the working set
    let last = guest.pattern_pages().last().unwrap().address;
    let untouched = last + 16 * 4096;
    guest.page(untouched)[7] = 1;
    guest.send(b'c');
    assert_eq!(only_fault(&mut guest, Kind::Dirty).addr.0, untouched + 56);
}

#[test]
fn changed_code_is_reported() {
    let mut guest = running();
    // The name in the PVH note, which nothing uses any more
    guest.write(0x10_000c, b"Nex");
    assert_eq!(only_fault(&mut guest, Kind::Image).addr.0, 0x10_0000);
}

#[test]
fn progress_set_back_in_memory_is_reported() {
    for copy in 0..2 {
        let mut guest = running();
        let address = guest.record(copy);
        let old = *guest.page(address);
        guest.stop(&Stop::Poll, |guest| guest.page(address)[2] > old[2] + 10);
        *guest.page(address) = old;
        let fault = only_fault(&mut guest, Kind::Record);
        assert_eq!((fault.addr.0, fault.found.0), (address, old[2]));
    }
}

#[test]
fn a_general_register_set_back_is_reported() {
    let mut guest = running();
    guest.stop(&Stop::Signal, Guest::in_sweep);
    let mut registers = guest.vcpu.get_regs().unwrap();
    registers.r14 -= 1;
    guest.vcpu.set_regs(&registers).unwrap();
    let fault = only_fault(&mut guest, Kind::Register);
    assert_eq!((fault.addr.0, fault.found.0), (2, registers.r14));
}

#[test]
fn floating_point_registers_set_back_are_reported() {
    let mut guest = running();
    guest.stop(&Stop::Signal, Guest::in_sweep);
    let old = guest.vcpu.get_fpu().unwrap();
    guest.stop(&Stop::Poll, |_| true);
    guest.stop(&Stop::Signal, Guest::in_sweep);
    guest.vcpu.set_fpu(&old).unwrap();
    only_fault(&mut guest, Kind::Fpu);
}

#[test]
fn one_vector_register_lost_is_reported() {
    for register in [0, 7, 15] {
        let mut guest = running();
        guest.stop(&Stop::Signal, Guest::in_sweep);
        let mut fpu = guest.vcpu.get_fpu().unwrap();
        fpu.xmm[register] = [0; 16];
        guest.vcpu.set_fpu(&fpu).unwrap();
        assert_eq!(only_fault(&mut guest, Kind::Fpu).addr.0, register as u64);
    }
}

#[test]
fn the_upper_half_of_a_vector_register_lost_is_reported() {
    let cpuid = |leaf, subleaf| {
        let words = std::arch::x86_64::__cpuid_count(leaf, subleaf);
        [words.eax, words.ebx, words.ecx, words.edx]
    };
    let mask = Vectors::of_processor(cpuid).mask();
    // Upper halves of ymm, mask registers, upper halves of zmm, zmm16 to 31: as
    // far as this host has them
    for component in [2, 5, 6, 7].into_iter().filter(|component| mask & 1 << component != 0) {
        let mut guest = running();
        guest.stop(&Stop::Signal, Guest::in_sweep);
        let mut state = guest.vcpu.get_xsave().unwrap();
        let word = cpuid(0xd, component)[1] as usize / 4 + 6;
        state.region[word] ^= 1;
        // SAFETY: the image is as KVM gave it, but for a bit
        unsafe { guest.vcpu.set_xsave(&state) }.unwrap();
        assert_eq!(only_fault(&mut guest, Kind::Fpu).addr.0, u64::from(component << 8 | 3));
    }
}

#[test]
fn a_model_specific_register_set_back_is_reported() {
    for index in [0x175, 0xc000_0082, 0xc000_0102] {
        let mut guest = running();
        let read = |guest: &mut Guest| {
            let entry = kvm_bindings::kvm_msr_entry { index, ..Default::default() };
            let mut msrs = kvm_bindings::Msrs::from_entries(&[entry]).unwrap();
            assert_eq!(guest.vcpu.get_msrs(&mut msrs).unwrap(), 1);
            msrs
        };
        let old = read(&mut guest);
        guest.stop(&Stop::Poll, |guest| read(guest).as_slice()[0].data != old.as_slice()[0].data);
        assert_eq!(guest.vcpu.set_msrs(&old).unwrap(), 1);
        let fault = only_fault(&mut guest, Kind::Msr);
        assert_eq!((fault.addr.0, fault.found.0), (index.into(), old.as_slice()[0].data));
    }
}

#[test]
fn a_debug_register_lost_is_reported() {
    let mut guest = running();
    let mut registers = guest.vcpu.get_debug_regs().unwrap();
    registers.db[2] = 0;
    guest.vcpu.set_debug_regs(&registers).unwrap();
    assert_eq!(only_fault(&mut guest, Kind::Debug).addr.0, 2);
}

#[test]
fn registers_of_the_local_apic_and_the_serial_port_set_back_are_reported() {
    let mut guest = running();
    *guest.apic(0xfee0_0370) ^= 0x20;
    assert_eq!(only_fault(&mut guest, Kind::Apic).addr.0, 0x370);

    let mut guest = running();
    *guest.uart_scratch() ^= 0x20;
    assert_eq!(only_fault(&mut guest, Kind::Uart).addr.0, 0x3ff);
}

#[test]
fn a_clock_that_goes_backwards_is_reported() {
    let mut guest = running();
    let clock = kvm_bindings::kvm_clock_data { clock: 1, ..Default::default() };
    guest.vm.set_clock(&clock).unwrap();
    only_fault(&mut guest, Kind::KvmClock);
}
