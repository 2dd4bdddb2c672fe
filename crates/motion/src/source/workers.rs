//! The workers: a thread for each data connection, all equal.

use crate::MotionError;
use crate::SourceMachine;
use crate::clock::Moment;
use crate::ram::send::{PIECE_PAGES, SendError, Sender};
use crate::ram::{Pacer, Pass, PassTotals};
use links::{Closer, Stream};
use state::Code;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use wire::{Message, PassEnd};

/// The bandwidth limit that all senders of a motion keep together.
#[derive(Clone)]
pub(super) struct Bandwidth {
    pacer: Arc<Mutex<Pacer>>,
    epoch: Instant,
}

impl Bandwidth {
    pub(super) fn new(pacer: Pacer, epoch: Instant) -> Self {
        Self { pacer: Arc::new(Mutex::new(pacer)), epoch }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Pacer> {
        self.pacer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        Moment(crate::clock::nanos(self.epoch.elapsed()))
    }

    /// Waits as the limit wants after so many bytes; says how many pages the next piece may have.
    pub(super) fn pace(&self, bytes: u64) -> u64 {
        let (wait, most) = {
            let mut pacer = self.lock();
            (pacer.grant(bytes, self.now()), pacer.piece(PIECE_PAGES))
        };
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        most
    }
}

/// What the workers say.
pub(super) enum Word {
    /// All of them have sent their part of the pass.
    Sent,
    /// One of them failed; the others were told to stop.
    Failed(MotionError),
}

/// A thread for each data connection. Ends with the value.
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    closers: Vec<Closer>,
}

struct Shared {
    machine: Arc<dyn SourceMachine>,
    bandwidth: Bandwidth,
    job: Mutex<Job>,
    changed: Condvar,
    say: Box<dyn Fn(Word) + Send + Sync>,
}

#[derive(Default)]
struct Job {
    pass: Option<Arc<Pass>>,
    /// Workers that have not ended the pass yet.
    busy: usize,
    quit: bool,
}

impl Shared {
    fn job(&self) -> MutexGuard<'_, Job> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workers {
    /// Starts a worker on each connection.
    pub(super) fn start(
        machine: Arc<dyn SourceMachine>,
        bandwidth: Bandwidth,
        connections: Vec<Stream>,
        say: Box<dyn Fn(Word) + Send + Sync>,
    ) -> Result<Self, MotionError> {
        let shared = Arc::new(Shared {
            machine,
            bandwidth,
            job: Mutex::default(),
            changed: Condvar::new(),
            say,
        });
        let mut workers = Self { shared, threads: Vec::new(), closers: Vec::new() };
        for (index, stream) in connections.into_iter().enumerate() {
            workers.closers.push(stream.closer());
            let shared = workers.shared.clone();
            let thread = thread::Builder::new()
                .name(format!("move-send-{index}"))
                .spawn(move || work(&shared, stream))
                .map_err(|e| {
                    MotionError::new(Code::HostIo, format!("starting a thread to send pages: {e}"))
                })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Has all of them send a pass.
    pub(super) fn send(&self, pass: &Arc<Pass>) {
        let mut job = self.shared.job();
        job.busy = self.threads.len();
        job.pass = Some(pass.clone());
        self.shared.changed.notify_all();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.job().quit = true;
        self.shared.changed.notify_all();
        self.closers.iter().for_each(Closer::close);
        for thread in self.threads.drain(..) {
            // It has said what there was to say.
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared, mut stream: Stream) {
    let mut sender = Sender::default();
    let mut last = 0;
    loop {
        let pass = {
            let mut job = shared.job();
            loop {
                if job.quit {
                    return;
                }
                match &job.pass {
                    Some(pass) if pass.number() != last => break pass.clone(),
                    _ => {
                        job = shared.changed.wait(job).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        };
        last = pass.number();
        let result = send_share(shared, &pass, &mut sender, &mut stream);
        let all_sent = {
            let mut job = shared.job();
            if job.quit {
                return;
            }
            job.busy -= 1;
            job.busy == 0
        };
        match result {
            Ok(()) if all_sent && !pass.is_stopped() => (shared.say)(Word::Sent),
            Ok(()) => {}
            Err(error) => {
                if !pass.is_stopped() {
                    pass.stop();
                    (shared.say)(Word::Failed(error));
                }
            }
        }
    }
}

/// Sends chunks of the pass as long as there are any, then says that this was all.
fn send_share(
    shared: &Shared,
    pass: &Pass,
    sender: &mut Sender,
    stream: &mut Stream,
) -> Result<(), MotionError> {
    let mut totals = PassTotals::default();
    let mut pace = |bytes| shared.bandwidth.pace(bytes);
    while let Some(chunk) = pass.claim() {
        let sent = sender
            .send_chunk(&*shared.machine, pass, chunk, &mut pace, stream)
            .map_err(send_error)?;
        pass.count(sent);
        totals.add(sent);
    }
    if pass.is_stopped() {
        return Ok(());
    }
    let end = PassEnd { pass: pass.number(), data_pages: totals.data, zero_pages: totals.zero };
    wire::write_message(stream, &Message::PassEnd(end))
        .map_err(|e| MotionError::sending("sending pages", e))
}

pub(super) fn send_error(error: SendError) -> MotionError {
    match error {
        SendError::Machine(error) => error.into(),
        SendError::Link(error) => MotionError::sending("sending pages", error),
    }
}
