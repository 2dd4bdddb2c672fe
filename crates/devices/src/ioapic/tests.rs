use super::*;
use proptest::prelude::*;

#[derive(Default)]
struct Cpu {
    messages: Mutex<Vec<MsiMessage>>,
    routes: Mutex<Vec<Route>>,
    /// Messages whose end we would never hear of.
    deaf: Mutex<Vec<MsiMessage>>,
}
impl MsiSink for Cpu {
    fn deliver(&self, message: MsiMessage) {
        let level = message.data & 0x8000 != 0;
        let valid = message.data & 0xff >= 16;
        if level && valid && !lock(&self.routes).iter().any(|r| r.message == message) {
            lock(&self.deaf).push(message);
        }
        lock(&self.messages).push(message);
    }
    fn routes_changed(&self, routes: &[Route]) {
        *lock(&self.routes) = routes.to_vec();
    }
}

fn rig() -> (IoApic, Arc<Cpu>) {
    let cpu = Arc::new(Cpu::default());
    (IoApic::new(cpu.clone()), cpu)
}

fn select(ioapic: &mut IoApic, index: u8) {
    ioapic.write(offset::SELECT, &u32::from(index).to_le_bytes());
}

fn get(ioapic: &mut IoApic, index: u8) -> u32 {
    select(ioapic, index);
    let mut data = [0; 4];
    ioapic.read(offset::WINDOW, &mut data);
    u32::from_le_bytes(data)
}

fn put(ioapic: &mut IoApic, index: u8, value: u32) {
    select(ioapic, index);
    ioapic.write(offset::WINDOW, &value.to_le_bytes());
}

fn delivered(cpu: &Cpu) -> usize {
    lock(&cpu.messages).len()
}

const LEVEL: u32 = 0x8000;
const MASKED: u32 = 0x1_0000;
const REMOTE_IRR: u32 = 0x4000;

#[test]
fn it_reports_24_pins_of_version_20_all_masked() {
    let (mut io, _) = rig();
    assert_eq!(get(&mut io, index::VERSION), 0x0017_0020);
    for pin in 0..PINS {
        assert_eq!(get(&mut io, index::TABLE + 2 * pin), MASKED);
        assert_eq!(get(&mut io, index::TABLE + 2 * pin + 1), 0);
    }
    assert_eq!(get(&mut io, index::TABLE + 2 * PINS), 0, "there is no 25th");
    put(&mut io, index::ID, 0xffff_ffff);
    assert_eq!(get(&mut io, index::ID), 0x0f00_0000);
}

#[test]
fn an_edge_becomes_one_message_with_destination_and_vector() {
    let (mut io, cpu) = rig();
    put(&mut io, 0x19, 0x0300_0000);
    put(&mut io, 0x18, 0x0000_0931); // pin 4: logical, lowest priority, vector 0x31
    io.set_line(4, true);
    io.set_line(4, true);
    let message = MsiMessage { address: 0xfee0_3004, data: 0x131 };
    assert_eq!(*lock(&cpu.messages), [message]);
    io.set_line(4, false);
    io.set_line(4, true);
    assert_eq!(delivered(&cpu), 2);
    assert!(io.routes().is_empty(), "the end of an edge-triggered interrupt interests nobody");
}

#[test]
fn an_edge_on_a_masked_pin_is_lost() {
    let (mut io, cpu) = rig();
    put(&mut io, 0x18, MASKED | 0x31);
    io.set_line(4, true);
    put(&mut io, 0x18, 0x31);
    assert_eq!(delivered(&cpu), 0);
}

#[test]
fn a_level_is_served_again_after_its_end_for_as_long_as_it_lasts() {
    let (mut io, cpu) = rig();
    put(&mut io, 0x1a, LEVEL | 0x41);
    io.set_line(5, true);
    assert_eq!(delivered(&cpu), 1);
    assert_eq!(get(&mut io, 0x1a), LEVEL | REMOTE_IRR | 0x41);
    assert_eq!(lock(&cpu.messages)[0].data, 0xc041, "level-triggered, and asserted");
    io.set_line(5, false);
    io.set_line(5, true);
    assert_eq!(delivered(&cpu), 1, "one in service is enough");
    io.end_of_interrupt(0x42);
    assert_eq!(delivered(&cpu), 1, "another vector's end is not ours");
    io.end_of_interrupt(0x41);
    assert_eq!(delivered(&cpu), 2);
    io.set_line(5, false);
    io.write(offset::EOI, &[0x41, 0, 0, 0]);
    assert_eq!(delivered(&cpu), 2);
    assert_eq!(get(&mut io, 0x1a), LEVEL | 0x41);
    assert!(lock(&cpu.deaf).is_empty());
}

#[test]
fn a_level_on_a_masked_pin_waits_for_the_mask() {
    let (mut io, cpu) = rig();
    put(&mut io, 0x1a, LEVEL | MASKED | 0x41);
    io.set_line(5, true);
    assert_eq!(delivered(&cpu), 0);
    put(&mut io, 0x1a, LEVEL | 0x41);
    assert_eq!(delivered(&cpu), 1);
    // Masked while in service and ended meanwhile, as Linux does: served again when unmasked.
    put(&mut io, 0x1a, LEVEL | MASKED | 0x41);
    assert_eq!(lock(&cpu.routes).len(), 1, "the end of one in service must still be heard of");
    io.end_of_interrupt(0x41);
    assert_eq!(delivered(&cpu), 1);
    put(&mut io, 0x1a, LEVEL | 0x41);
    assert_eq!(delivered(&cpu), 2);
}

#[test]
fn going_to_edge_and_back_clears_an_interrupt_in_service() {
    let (mut io, _) = rig();
    put(&mut io, 0x1a, LEVEL | 0x41);
    io.set_line(5, true);
    io.set_line(5, false);
    put(&mut io, 0x1a, MASKED | 0x41);
    put(&mut io, 0x1a, LEVEL | 0x41);
    assert_eq!(get(&mut io, 0x1a), LEVEL | 0x41);
}

#[test]
fn a_reset_masks_every_pin_and_takes_the_routes_back() {
    let (mut io, cpu) = rig();
    put(&mut io, 0x1a, LEVEL | 0x41);
    assert_eq!(lock(&cpu.routes).len(), 1);
    io.reset();
    assert!(lock(&cpu.routes).is_empty());
    assert_eq!(get(&mut io, 0x1a), MASKED);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let good = rig().0.save();
    let with = |bits: u64, lines: u32| {
        let mut saved = SavedIoApic { lines, ..good.clone() };
        saved.entries[5] = bits;
        saved
    };
    let bad = [
        SavedIoApic { id: 16, ..good.clone() },
        SavedIoApic { lines: 1 << 24, ..good.clone() },
        with(0x1000, 0),    // delivery status
        with(1 << 40, 0),   // reserved
        with(0x4031, 0),    // in service, though edge-triggered
        with(0x8031, 0x20), // active, unmasked, and never delivered
    ];
    for saved in bad {
        assert!(IoApic::restore(&saved, rig().1).is_err(), "{saved:x?}");
    }
    assert!(IoApic::restore(&with(0xc031, 0x20), rig().1).is_ok());
}

#[derive(Debug, Clone)]
enum Op {
    Read(u64),
    Select(u8),
    Write(u64, u32),
    Line(u8, bool),
    End(u8),
}

fn op() -> impl Strategy<Value = Op> {
    // A few pins and vectors, so that they meet.
    let vector = 0x30..0x34u8;
    let low = (vector.clone(), any::<[bool; 3]>()).prop_map(|(vector, [level, masked, odd])| {
        let flag = |set, bit| if set { bit } else { 0 };
        u32::from(vector) | flag(level, LEVEL) | flag(masked, MASKED) | flag(odd, 0xfffe_5000)
    });
    prop_oneof![
        (0..0x50u64).prop_map(Op::Read),
        (0x10..0x16u8).prop_map(Op::Select),
        any::<u8>().prop_map(Op::Select),
        low.prop_map(|value| Op::Write(offset::WINDOW, value)),
        (0..0x50u64, any::<u32>()).prop_map(|(at, value)| Op::Write(at, value)),
        (0..4u8, any::<bool>()).prop_map(|(pin, active)| Op::Line(pin, active)),
        vector.prop_map(Op::End),
    ]
}

fn apply(io: &mut IoApic, op: &Op) -> [u8; 4] {
    let mut data = [0; 4];
    match op {
        Op::Read(at) => io.read(*at, &mut data),
        Op::Select(index) => select(io, *index),
        Op::Write(at, value) => io.write(*at, &value.to_le_bytes()),
        Op::Line(pin, active) => io.set_line(*pin, *active),
        Op::End(vector) => io.end_of_interrupt(*vector),
    }
    data
}

proptest! {
    #[test]
    fn a_restored_ioapic_cannot_be_told_from_the_saved_one(
        before in proptest::collection::vec(op(), 0..80),
        after in proptest::collection::vec(op(), 0..80),
    ) {
        let (mut old, old_cpu) = rig();
        for op in &before {
            apply(&mut old, op);
        }
        let payload = state::Payload::pack("", &old.save());
        let new_cpu = Arc::new(Cpu::default());
        let mut new = IoApic::restore(&payload.unpack().unwrap(), new_cpu.clone()).unwrap();
        prop_assert_eq!(&new.routes(), &*lock(&old_cpu.routes));
        new_cpu.routes_changed(&new.routes());
        lock(&old_cpu.messages).clear();
        for op in &after {
            prop_assert_eq!(apply(&mut old, op), apply(&mut new, op));
        }
        prop_assert_eq!(&*lock(&old_cpu.messages), &*lock(&new_cpu.messages));
        prop_assert_eq!(&*lock(&old_cpu.routes), &*lock(&new_cpu.routes));
        prop_assert_eq!(old.save(), new.save());
    }

    #[test]
    fn no_active_level_waits_unserved_and_every_end_is_heard_of(
        ops in proptest::collection::vec(op(), 0..120),
    ) {
        let (mut io, cpu) = rig();
        for op in &ops {
            apply(&mut io, op);
            for pin in 0..PINS {
                let entry = io.entries[usize::from(pin)];
                let waits = io.lines & (1 << pin) != 0 && entry.is_level() && !entry.is_masked();
                prop_assert!(!waits || entry.remote_irr(), "pin {}", pin);
                prop_assert!(!entry.remote_irr() || entry.is_level(), "pin {}", pin);
            }
        }
        prop_assert_eq!(&*lock(&cpu.routes), &io.routes());
        prop_assert!(lock(&cpu.deaf).is_empty());
    }
}
