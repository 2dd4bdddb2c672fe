use super::*;
use crate::irq::probe::Probe;
use crate::lock;
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

#[derive(Default)]
struct Host {
    sent: Mutex<Vec<u8>>,
    drained: AtomicU32,
}
impl Line for Host {
    fn send(&self, bytes: &[u8]) {
        lock(&self.sent).extend(bytes);
    }
    fn drained(&self) {
        self.drained.fetch_add(1, SeqCst);
    }
}

struct Rig {
    uart: Uart,
    irq: Arc<Probe>,
    host: Arc<Host>,
}

fn rig() -> Rig {
    let (irq, host) = (Probe::new(), Arc::new(Host::default()));
    Rig { uart: Uart::new(irq.clone(), host.clone()), irq, host }
}

impl Rig {
    fn get(&mut self, register: u64) -> u8 {
        let mut byte = [0];
        self.uart.read(register, &mut byte);
        byte[0]
    }
    fn put(&mut self, register: u64, value: u8) {
        self.uart.write(register, &[value]);
    }
    fn sent(&self) -> Vec<u8> {
        lock(&self.host.sent).clone()
    }
}

#[test]
fn output_reaches_the_host_in_order_even_as_a_string() {
    let mut r = rig();
    r.put(reg::DATA, b'a');
    r.uart.write(reg::DATA, b"bcd");
    assert_eq!(r.sent(), b"abcd");
    assert_eq!(r.get(reg::LSR), LSR_TRANSMITTER_EMPTY);
}

#[test]
fn each_byte_sent_is_a_new_edge_for_a_driver_that_waits_for_it() {
    let mut r = rig();
    r.put(reg::IER, IER_THR_EMPTY);
    assert_eq!((r.irq.level(), r.irq.edges()), (true, 1));
    assert_eq!(r.get(reg::IIR_FCR), IIR_THR_EMPTY);
    assert!(!r.irq.level(), "reading the cause acknowledges it");
    r.put(reg::DATA, b'a');
    r.put(reg::DATA, b'b');
    assert_eq!(r.irq.edges(), 3);
    // A driver that masks and unmasks the source, as Linux's console does, is told again.
    r.get(reg::IIR_FCR);
    r.put(reg::IER, 0);
    r.put(reg::IER, IER_THR_EMPTY);
    assert_eq!(r.irq.edges(), 4);
    // Writing the mask again unmasks nothing.
    r.get(reg::IIR_FCR);
    r.put(reg::IER, IER_THR_EMPTY);
    assert_eq!(r.irq.edges(), 4);
}

#[test]
fn acknowledging_the_transmitter_leaves_received_data_pending() {
    let mut r = rig();
    r.put(reg::IER, IER_THR_EMPTY | IER_RECEIVED);
    r.uart.receive(b"x");
    assert_eq!(r.get(reg::IIR_FCR), IIR_RECEIVED);
    assert_eq!(r.get(reg::IIR_FCR), IIR_RECEIVED, "only reading the data takes it back");
    assert_eq!(r.get(reg::DATA), b'x');
    assert_eq!(r.get(reg::IIR_FCR), IIR_THR_EMPTY);
    assert_eq!(r.get(reg::IIR_FCR), IIR_NONE);
    assert!(!r.irq.level());
}

#[test]
fn input_waits_until_it_is_read_and_is_never_lost() {
    let mut r = rig();
    r.put(reg::IIR_FCR, FCR_ENABLE);
    let input: Vec<u8> = (0..6000u32).map(|i| i.to_le_bytes()[0]).collect();
    let mut taken = r.uart.receive(&input);
    assert_eq!((taken, r.uart.room()), (INPUT_CAPACITY, 0));
    let before = r.host.drained.load(SeqCst);
    let mut read = Vec::new();
    while r.get(reg::LSR) & LSR_DATA_READY != 0 {
        read.push(r.get(reg::DATA));
        if r.host.drained.load(SeqCst) > before {
            taken += r.uart.receive(&input[taken..]);
        }
    }
    assert_eq!(read, input);
}

#[test]
fn the_host_learns_that_there_is_room_again() {
    let mut r = rig();
    r.uart.receive(&[0; 3]);
    let before = r.host.drained.load(SeqCst);
    r.get(reg::DATA);
    r.get(reg::DATA);
    assert_eq!(r.host.drained.load(SeqCst), before, "one telling for each batch is enough");
    r.get(reg::DATA);
    assert_eq!(r.host.drained.load(SeqCst), before + 1);
}

#[test]
fn fewer_bytes_than_the_trigger_level_still_interrupt() {
    let mut r = rig();
    r.put(reg::IIR_FCR, 0xc1);
    r.put(reg::IER, IER_RECEIVED);
    r.uart.receive(&[0; 13]);
    assert_eq!(r.get(reg::IIR_FCR), IIR_TIMEOUT | IIR_FIFO);
    r.uart.receive(&[0]);
    assert_eq!(r.get(reg::IIR_FCR), IIR_RECEIVED | IIR_FIFO);
    assert_eq!(r.irq.edges(), 1, "the line stays active while there is something to read");
}

#[test]
fn clearing_the_fifo_discards_what_the_guest_could_see_and_no_more() {
    let mut r = rig();
    r.put(reg::IIR_FCR, FCR_ENABLE);
    let input: Vec<u8> = (0..40).collect();
    r.uart.receive(&input);
    r.put(reg::IIR_FCR, FCR_ENABLE | FCR_CLEAR_RECEIVED);
    assert_eq!(r.get(reg::DATA), 16);
    // Switching the FIFO off clears it too.
    r.put(reg::IIR_FCR, 0);
    assert_eq!(r.get(reg::DATA), 33);
}

#[test]
fn a_driver_s_loopback_test_passes() {
    let mut r = rig();
    // Linux's autoconfiguration: OUT2 and RTS looped back must show as DCD and CTS.
    r.put(reg::MCR, MCR_LOOP | 0x0a);
    assert_eq!(r.get(reg::MSR) & 0xf0, MSR_DCD | MSR_CTS);
    r.put(reg::DATA, 0x5a);
    assert_eq!(r.get(reg::DATA), 0x5a);
    assert!(r.sent().is_empty(), "a looped-back byte does not leave the UART");
    r.put(reg::MCR, 0);
    assert_eq!(r.get(reg::MSR), MSR_DCD | MSR_CTS | MSR_DSR | 0x02);
    assert_eq!(r.get(reg::MSR), MSR_DCD | MSR_CTS | MSR_DSR, "deltas are told once");
    // Of the ring indicator (OUT1 looped back) only the end is told.
    r.put(reg::MCR, MCR_LOOP | 0x0f);
    assert_eq!(r.get(reg::MSR), 0xf0);
    r.put(reg::MCR, MCR_LOOP | 0x0b);
    assert_eq!(r.get(reg::MSR), 0xb4);
}

#[test]
fn an_overrun_is_reported_once() {
    let mut r = rig();
    r.put(reg::IER, IER_LINE_STATUS);
    r.put(reg::MCR, MCR_LOOP);
    for _ in 0..=INPUT_CAPACITY {
        r.put(reg::DATA, 1);
    }
    assert_eq!(r.get(reg::IIR_FCR), IIR_LINE_STATUS);
    assert_ne!(r.get(reg::LSR) & LSR_OVERRUN, 0);
    assert_eq!(r.get(reg::LSR) & LSR_OVERRUN, 0);
    assert!(!r.irq.level());
}

#[test]
fn the_divisor_latch_hides_data_and_interrupt_enable() {
    let mut r = rig();
    r.put(reg::IER, 0x05);
    r.put(reg::LCR, LCR_DLAB | 3);
    r.put(reg::DATA, 0x01);
    r.put(reg::IER, 0x02);
    assert_eq!((r.get(reg::DATA), r.get(reg::IER)), (0x01, 0x02));
    r.put(reg::LCR, 3);
    assert_eq!(r.get(reg::IER), 0x05);
    assert!(r.sent().is_empty());
}

#[test]
fn a_reset_keeps_input_and_drops_the_line() {
    let mut r = rig();
    r.put(reg::IER, IER_RECEIVED);
    r.uart.receive(b"k");
    assert!(r.irq.level());
    r.uart.reset();
    assert!(!r.irq.level());
    assert_eq!(r.get(reg::DATA), b'k');
}

#[test]
fn states_that_cannot_be_are_refused() {
    let good = rig().uart.save();
    let bad = [
        SavedUart { ier: 0x10, ..good.clone() },
        SavedUart { fcr: 0x02, ..good.clone() },
        SavedUart { fcr: 0x40, ..good.clone() },
        SavedUart { mcr: 0x20, ..good.clone() },
        SavedUart { msr_deltas: 0x10, ..good.clone() },
        SavedUart { received: vec![0; INPUT_CAPACITY + 1], ..good.clone() },
    ];
    for saved in bad {
        let restored = Uart::restore(saved.clone(), Probe::new(), Arc::new(Host::default()));
        assert!(restored.is_err(), "{saved:?}");
    }
    assert!(Uart::restore(good, Probe::new(), Arc::new(Host::default())).is_ok());
}

#[test]
fn every_field_of_the_state_is_restored() {
    let saved = SavedUart {
        divisor_low: 1,
        divisor_high: 2,
        ier: 3,
        fcr: 0x41,
        lcr: 5,
        mcr: 6,
        scr: 7,
        msr_deltas: 8,
        overrun: true,
        thr_empty: true,
        received: vec![9, 10],
    };
    let restored = Uart::restore(saved.clone(), Probe::new(), Arc::new(Host::default())).unwrap();
    assert_eq!(restored.save(), saved);
}

#[derive(Debug, Clone)]
enum Op {
    Read(u64),
    Write(u64, u8),
    Receive(Vec<u8>),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..9u64).prop_map(Op::Read),
        (0..9u64, any::<u8>()).prop_map(|(r, v)| Op::Write(r, v)),
        proptest::collection::vec(any::<u8>(), 0..24).prop_map(Op::Receive),
    ]
}

fn apply(rig: &mut Rig, op: &Op) -> u8 {
    match op {
        Op::Read(register) => return rig.get(*register),
        Op::Write(register, value) => rig.put(*register, *value),
        Op::Receive(input) => {
            rig.uart.receive(input);
        }
    }
    0
}

proptest! {
    #[test]
    fn a_restored_uart_cannot_be_told_from_the_saved_one(
        before in proptest::collection::vec(op(), 0..60),
        after in proptest::collection::vec(op(), 0..60),
    ) {
        let mut old = rig();
        for op in &before {
            apply(&mut old, op);
        }
        let payload = state::Payload::pack("com1", &old.uart.save());
        let mut new = rig();
        new.irq.set(old.irq.level());
        let saved = payload.unpack().unwrap();
        new.uart = Uart::restore(saved, new.irq.clone(), new.host.clone()).unwrap();
        lock(&old.host.sent).clear();
        let edges = (old.irq.edges(), new.irq.edges());
        for op in &after {
            prop_assert_eq!(apply(&mut old, op), apply(&mut new, op));
            prop_assert_eq!(old.irq.level(), new.irq.level());
        }
        prop_assert_eq!(old.irq.edges() - edges.0, new.irq.edges() - edges.1);
        prop_assert_eq!(old.sent(), new.sent());
        prop_assert_eq!(old.uart.save(), new.uart.save());
    }

    #[test]
    fn the_line_is_active_exactly_when_a_cause_is_reported(
        ops in proptest::collection::vec(op(), 0..80),
    ) {
        let mut r = rig();
        for op in &ops {
            apply(&mut r, op);
            prop_assert_eq!(r.irq.level(), r.uart.interrupt() != IIR_NONE);
        }
    }
}
