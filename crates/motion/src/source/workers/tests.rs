#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::handover::RunPermit;
use crate::ram::PassKind;
use crate::ram::receive::{Received, Receiver};
use crate::{Machine, MachineError};
use links::{Address, Descriptors, Listener};
use memory::{Backing, DirtyLog, GuestRam, PageRange, PageSet};
use state::{Bundle, Refusal};
use std::sync::mpsc;
use std::time::Duration;

const PAGES: u64 = 4096;

/// RAM, and a guest that runs or does not.
struct Still {
    ram: Arc<GuestRam>,
    running: bool,
}

impl Machine for Still {
    fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }
    fn is_running(&self) -> bool {
        self.running
    }
    fn pause(&self) -> Result<(), MachineError> {
        unreachable!("workers do not stop the guest")
    }
    fn surrender(&self) -> Option<RunPermit> {
        unreachable!("workers do not take it away")
    }
    fn grant(&self, _: RunPermit) {
        unreachable!("workers do not give it back")
    }
    fn run(&self, _: RunPermit) -> Result<(), MachineError> {
        unreachable!("workers do not run it")
    }
}

impl SourceMachine for Still {
    fn describe(&self) -> Result<Bundle, MachineError> {
        unreachable!("workers send pages only")
    }
    fn refusals(&self) -> Vec<Refusal> {
        unreachable!("workers send pages only")
    }
    fn dirty_log(&self) -> &dyn DirtyLog {
        unreachable!("these passes are not logged")
    }
    fn save(&self) -> Result<Bundle, MachineError> {
        unreachable!("workers send pages only")
    }
}

/// Workers on two connections, and what their other ends receive.
struct Rig {
    machine: Arc<Still>,
    sink: Arc<GuestRam>,
    workers: Workers<Connection>,
    said: mpsc::Receiver<Word>,
    ends: mpsc::Receiver<PassEnd>,
}

fn rig(running: bool) -> Rig {
    let ram = || GuestRam::new(PAGES * memory::PAGE_SIZE, Backing::Small).unwrap();
    let machine = Arc::new(Still { ram: Arc::new(ram()), running });
    for page in 0..PAGES {
        let word = (page + 1).to_le_bytes();
        machine.ram.slice(PageRange::new(page, 1)).unwrap().copy_from(&word);
    }
    let sink = Arc::new(ram());
    let nothing = Descriptors::default();
    let address: Address = "tcp:127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&address, &nothing).unwrap();
    let limit = Duration::from_secs(5);
    let (told, ends) = mpsc::channel();
    let streams = (0..2)
        .map(|_| {
            let stream = links::connect(listener.local_address(), limit, &nothing).unwrap();
            let mut other = listener.accept(Some(limit)).unwrap().unwrap();
            let (sink, told) = (sink.clone(), told.clone());
            thread::spawn(move || {
                let mut receiver = Receiver::default();
                while let Ok(received) = receiver.receive(&sink, &mut other) {
                    if let Received::PassEnd(end) = received {
                        let _ = told.send(end);
                    }
                }
            });
            stream
        })
        .collect();
    let (say, said) = mpsc::channel();
    let say = Mutex::new(say);
    let say = Box::new(move |word| drop(lock(&say).send(word)));
    let bandwidth = Bandwidth::new(Pacer::new(None), Instant::now());
    let workers = Workers::over(streams, machine.clone(), bandwidth, say).unwrap();
    Rig { machine, sink, workers, said, ends }
}

impl Rig {
    /// Every page has come once, and both connections have told of their part.
    fn arrives(&self, number: u32) {
        let Word::Sent = self.said.recv_timeout(Duration::from_secs(30)).unwrap() else {
            panic!("a worker failed");
        };
        let ends: Vec<_> = (0..2).map(|_| self.ends.recv().unwrap()).collect();
        assert!(ends.iter().all(|end| end.pass == number));
        assert_eq!(ends.iter().map(|end| end.data_pages).sum::<u64>(), PAGES);
        let contents = |ram: &GuestRam| {
            let mut bytes = vec![0; usize::try_from(PAGES * memory::PAGE_SIZE).unwrap()];
            ram.read(PageRange::new(0, PAGES), &mut bytes).unwrap();
            bytes
        };
        assert!(contents(&self.machine.ram) == contents(&self.sink));
    }
}

fn pass(number: u32) -> Arc<Pass> {
    Arc::new(Pass::new(number, PassKind::First, PageSet::full(PAGES), false))
}

#[test]
fn passes_are_sent_politely_beside_a_guest_and_promptly_without() {
    for running in [true, false] {
        let rig = rig(running);
        for number in 1..4 {
            rig.workers.send(&pass(number));
            {
                let job = rig.workers.shared.job();
                let hurried = rig.workers.shared.is_hurried();
                assert_eq!(job.manner == Manner::Polite, running && !hurried);
            }
            rig.arrives(number);
        }
    }
}

#[test]
fn starving_threads_hand_over_in_the_middle_of_a_pass() {
    for _ in 0..20 {
        let rig = rig(true);
        let under_way = pass(1);
        rig.workers.send(&under_way);
        while under_way.totals().data < PAGES / 8 {
            thread::yield_now();
        }
        rig.workers.shared.hurry();
        rig.arrives(1);
        rig.workers.send(&pass(2));
        assert_eq!(rig.workers.shared.job().manner, Manner::Prompt);
        rig.arrives(2);
    }
}

#[test]
fn a_lane_that_has_just_ended_a_pass_does_not_end_it_again() {
    let Rig { workers, ends, .. } = rig(true);
    let under_way = pass(1);
    workers.shared.job().busy = 2;
    for index in 0..2 {
        // The second time as the other thread of the lane, which was called upon meanwhile.
        assert!(serve(&workers.shared, index, &under_way, &mut None).is_some());
        assert!(serve(&workers.shared, index, &under_way, &mut None).is_none());
    }
    assert_eq!(workers.shared.job().busy, 0);
    drop(workers);
    assert_eq!(ends.iter().count(), 2);
}
