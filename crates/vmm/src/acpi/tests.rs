use super::*;
use devices::uart;

fn at(tables: &Tables, address: u64) -> &[u8] {
    &tables.bytes[usize::try_from(address - tables.address).unwrap()..]
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(word)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at an address, its length and checksum checked.
fn table<'a>(tables: &'a Tables, address: u64, signature: &[u8]) -> &'a [u8] {
    assert_eq!(address % ALIGN, 0);
    let bytes = at(tables, address);
    let bytes = &bytes[..usize::try_from(word::<4>(bytes, 4)).unwrap()];
    assert_eq!(&bytes[..4], signature);
    assert_eq!(sum(bytes), 0, "{}", String::from_utf8_lossy(signature));
    bytes
}

/// FADT, MADT and DSDT, found as a guest finds them.
fn found(tables: &Tables) -> [&[u8]; 3] {
    let root = &at(tables, tables.rsdp)[..36];
    assert_eq!(&root[..8], b"RSD PTR ");
    assert_eq!((sum(&root[..20]), sum(root)), (0, 0));
    let xsdt = table(tables, word::<8>(root, 24), b"XSDT");
    assert_eq!(xsdt.len(), 36 + 2 * 8);
    let fadt = table(tables, word::<8>(xsdt, 36), b"FACP");
    let madt = table(tables, word::<8>(xsdt, 44), b"APIC");
    [fadt, madt, table(tables, word::<8>(fadt, 140), b"DSDT")]
}

fn all_ids() -> Vec<u8> {
    (0..64).map(|i| i * 2).collect()
}

#[test]
fn a_guest_finds_every_table_intact_below_1_mib() {
    for ids in [vec![0], all_ids(), (0..=254).collect()] {
        let tables = build(&ids);
        found(&tables);
        assert!(tables.address + tables.bytes.len() as u64 <= layout::ACPI_END);
        assert_eq!(tables.rsdp % 16, 0);
    }
}

#[test]
fn every_processor_and_the_ioapic_are_listed() {
    let ids = all_ids();
    let tables = build(&ids);
    let [_, madt, _] = found(&tables);
    assert_eq!(word::<4>(madt, 36), 0xfee0_0000);
    assert_eq!(word::<4>(madt, 40), 0, "there is no PIC");
    let mut rest = &madt[44..];
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(rest[..4], [0, 8, u8::try_from(number).unwrap(), *id]);
        assert_eq!(word::<4>(rest, 4), 1);
        rest = &rest[8..];
    }
    assert_eq!(rest[..3], [1, 12, ioapic::ID]);
    assert_eq!((word::<4>(rest, 4), word::<4>(rest, 8)), (ioapic::BASE, 0));
    assert_eq!(rest.len(), 12);
}

#[test]
fn the_guest_can_power_off_and_reset() {
    let tables = build(&[0]);
    let [fadt, _, dsdt] = found(&tables);
    let flags = word::<4>(fadt, 112);
    assert_ne!(flags & 1 << 20, 0, "hardware-reduced");
    assert_ne!(flags & 1 << 10, 0, "reset register supported");
    let port = |at: usize| {
        assert_eq!(fadt[at..at + 4], [1, 8, 0, 1]);
        word::<8>(fadt, at + 4)
    };
    assert_eq!(port(116), u64::from(acpi_pm::RESET));
    assert_eq!(fadt[128], acpi_pm::RESET_VALUE);
    assert_eq!(port(244), u64::from(acpi_pm::SLEEP_CONTROL));
    assert_eq!(port(256), u64::from(acpi_pm::SLEEP_STATUS));
    // Name (\_S5, Package (4) { 5, 0, 0, 0 })
    let soft_off = [b"\x08\\_S5_\x12\x07\x04\x0a".as_slice(), &[5, 0, 0, 0]].concat();
    assert!(dsdt.ends_with(&soft_off), "{:x?}", &dsdt[dsdt.len() - 20..]);
}

#[test]
fn the_dsdt_has_the_devices_with_their_ports_and_interrupts() {
    let tables = build(&[0]);
    let [_, _, dsdt] = found(&tables);
    let has = |bytes: &[u8]| dsdt.windows(bytes.len()).any(|window| window == bytes);
    let io = |base: u16| [&[0x47, 1], &base.to_le_bytes()[..], &base.to_le_bytes()].concat();
    let irq = |flags: u8, gsi: u8| [0x89, 6, 0, flags, 1, gsi, 0, 0, 0];
    assert!(has(b"COM1") && has(&io(uart::COM1_PORT)) && has(&irq(0b11, uart::COM1_IRQ)));
    assert!(has(b"ACPI0013") && has(&irq(0b01, acpi_pm::GSI)));
    assert!(has(&io(acpi_pm::BASE)));
    // Local0 = EVNT; If (Local0 & One) { Notify (PWRB, 0x80) }
    assert!(has(b"\x70EVNT\x60\xa0\x0c\x7b\x60\x01\x00\x86PWRB\x0a\x80"));
}

#[test]
fn the_tables_of_a_machine_are_always_the_same() {
    assert_eq!(build(&all_ids()), build(&all_ids()));
}
