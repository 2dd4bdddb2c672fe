//! One thread a processor, which rewrites and checks memory without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use guest::shared::tsc::tsc;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::memory::Memory;

/// Pages between two pauses of the first worker, and the length of the pause: a processor that
/// sometimes halts and one that never does are stopped in different ways.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);
/// Where fewer faults would do, more are not told: a guest gone wrong is not to flood the console.
const MOST_FAULTS: u64 = 20;

/// What the workers have found since they were asked last.
pub struct Findings {
    /// Pages rewritten and checked since the start.
    pub pages: u64,
    /// The longest time between two looks at the clock of a worker that was not pausing.
    pub longest_gap: Duration,
    /// What was wrong.
    pub faults: Vec<String>,
}

#[derive(Default)]
struct Shared {
    pages: AtomicU64,
    longest_gap: AtomicU64,
    faults: AtomicU64,
    /// The latest time that any processor has read, in nanoseconds since the start.
    latest: AtomicU64,
    /// The latest time stamp that any processor has read.
    latest_tsc: AtomicU64,
}

/// All workers.
pub struct Workers {
    shared: Arc<Shared>,
    faults: Receiver<String>,
    /// To ask each worker for a check of all its pages; it answers with their number.
    requests: Vec<Sender<Sender<usize>>>,
}

impl Workers {
    /// Starts one on each processor, with that much memory each.
    pub fn start(processors: usize, mib: usize) -> Self {
        let shared = Arc::<Shared>::default();
        let (tell, faults) = mpsc::channel();
        let start = Instant::now();
        let requests = (0..processors)
            .map(|processor| {
                let (request, requests) = mpsc::channel();
                let worker = Worker {
                    processor,
                    memory: Memory::filled(mib),
                    shared: Arc::clone(&shared),
                    tell: tell.clone(),
                    requests,
                    start,
                    random: 0x2545_f491_4f6c_dd1d + processor as u64,
                };
                thread::spawn(|| worker.run());
                request
            })
            .collect();
        Self { shared, faults, requests }
    }

    /// What was found since the last call.
    pub fn collect(&mut self) -> Findings {
        Findings {
            pages: self.shared.pages.load(Ordering::Relaxed),
            longest_gap: Duration::from_nanos(self.shared.longest_gap.swap(0, Ordering::Relaxed)),
            faults: self.faults.try_iter().collect(),
        }
    }

    /// Has every page of every worker checked, and returns how many there are.
    pub fn check_all(&self) -> usize {
        let (answer, answers) = mpsc::channel();
        for request in &self.requests {
            // A worker never ends.
            let _ = request.send(answer.clone());
        }
        drop(answer);
        answers.iter().sum()
    }
}

struct Worker {
    processor: usize,
    memory: Memory,
    shared: Arc<Shared>,
    tell: Sender<String>,
    requests: Receiver<Sender<usize>>,
    start: Instant,
    random: u64,
}

impl Worker {
    fn run(mut self) {
        let mut processors = CpuSet::new();
        processors.set(self.processor);
        if let Err(error) = sched_setaffinity(None, &processors) {
            self.fault(format!("cannot stay on processor {}: {error}", self.processor));
        }
        loop {
            let mut before = self.now();
            for _ in 0..BATCH {
                let page = self.choose();
                self.check(page);
                self.memory.rewrite(page);
                let now = self.now();
                self.shared.longest_gap.fetch_max(now.saturating_sub(before), Ordering::Relaxed);
                before = now;
            }
            self.shared.pages.fetch_add(BATCH as u64, Ordering::Relaxed);
            if let Ok(answer) = self.requests.try_recv() {
                (0..self.memory.len()).for_each(|page| self.check(page));
                let _ = answer.send(self.memory.len());
            }
            if self.processor == 0 {
                thread::sleep(PAUSE);
            }
        }
    }

    fn check(&self, page: usize) {
        if let Err(fault) = self.memory.check(page) {
            self.fault(format!("{fault} cpu={}", self.processor));
        }
    }

    /// The clock, which must never be behind what any processor has already read, and nor must the time
    /// stamp counter: each processor has its own.
    fn now(&self) -> u64 {
        let latest = self.shared.latest_tsc.load(Ordering::Acquire);
        let stamp = tsc();
        if stamp < latest {
            self.fault(format!("tsc cpu={} behind_ticks={}", self.processor, latest - stamp));
        }
        self.shared.latest_tsc.fetch_max(stamp, Ordering::Release);
        let latest = self.shared.latest.load(Ordering::Acquire);
        let now = u64::try_from(self.start.elapsed().as_nanos()).expect("584 years");
        if now < latest {
            self.fault(format!("clock cpu={} behind_ns={}", self.processor, latest - now));
        }
        self.shared.latest.fetch_max(now, Ordering::Release);
        now
    }

    /// xorshift64: any page, soon all of them.
    fn choose(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % self.memory.len() as u64).expect("below a usize")
    }

    fn fault(&self, fault: String) {
        if self.shared.faults.fetch_add(1, Ordering::Relaxed) < MOST_FAULTS {
            // The main thread lives as long as we do.
            let _ = self.tell.send(fault);
        }
    }
}
