//! The workers: threads that carry pages on lanes that are all equal, as data connections are.

use crate::MotionError;
use crate::SourceMachine;
use crate::clock::Moment;
use crate::ram::send::{SendError, Sender};
use crate::ram::{PIECE_PAGES, Pacer, Pass, PassTotals};
use courtesy::Courtesy;
use links::{Closer, Stream};
use memory::PageRange;
use state::Code;
use std::sync::atomic::{AtomicBool, Ordering};
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
        lock(&self.pacer)
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

/// Where a lane goes to.
pub(super) trait Carry: Send + 'static {
    /// Takes the pages of one claimed chunk, as [`crate::ram`] says.
    fn carry(
        &mut self,
        machine: &dyn SourceMachine,
        pass: &Pass,
        chunk: PageRange,
        pace: &mut dyn FnMut(u64) -> u64,
    ) -> Result<PassTotals, MotionError>;

    /// This was the lane's part of the pass, so much in all.
    fn end(
        &mut self,
        pass: &Pass,
        totals: PassTotals,
        pace: &mut dyn FnMut(u64) -> u64,
    ) -> Result<(), MotionError>;
}

impl Carry for Box<dyn Carry> {
    fn carry(
        &mut self,
        machine: &dyn SourceMachine,
        pass: &Pass,
        chunk: PageRange,
        pace: &mut dyn FnMut(u64) -> u64,
    ) -> Result<PassTotals, MotionError> {
        (**self).carry(machine, pass, chunk, pace)
    }

    fn end(
        &mut self,
        pass: &Pass,
        totals: PassTotals,
        pace: &mut dyn FnMut(u64) -> u64,
    ) -> Result<(), MotionError> {
        (**self).end(pass, totals, pace)
    }
}

/// A data connection.
pub(super) struct Connection {
    stream: Stream,
    sender: Sender,
}

impl Carry for Connection {
    fn carry(
        &mut self,
        machine: &dyn SourceMachine,
        pass: &Pass,
        chunk: PageRange,
        pace: &mut dyn FnMut(u64) -> u64,
    ) -> Result<PassTotals, MotionError> {
        let mut to = &self.stream;
        self.sender.send_chunk(machine, pass, chunk, pace, &mut to).map_err(send_error)
    }

    fn end(
        &mut self,
        pass: &Pass,
        totals: PassTotals,
        _: &mut dyn FnMut(u64) -> u64,
    ) -> Result<(), MotionError> {
        let end = PassEnd { pass: pass.number(), data_pages: totals.data, zero_pages: totals.zero };
        wire::write_message(&mut self.stream, &Message::PassEnd(end))
            .map_err(|e| MotionError::sending("sending pages", e))
    }
}

/// Two threads for each lane, of which one serves: a polite one while the guest runs, a prompt one
/// when it is stopped or the polite one starves. They end with the value.
pub(super) struct Workers<C: Carry> {
    shared: Arc<Shared<C>>,
    threads: Vec<JoinHandle<()>>,
    leave: Leave,
}

/// How the threads are had to end.
pub(super) enum Leave {
    /// This breaks off whatever they do, and then they are waited for.
    BrokenOff(Box<dyn Fn() + Send>),
    /// By themselves, when what they do is done: it may hang.
    Alone,
}

struct Shared<C> {
    machine: Arc<dyn SourceMachine>,
    bandwidth: Bandwidth,
    lanes: Vec<Mutex<Lane<C>>>,
    job: Mutex<Job>,
    /// Set when polite threads starve: prompt ones do the rest of the motion.
    hurried: AtomicBool,
    changed: Condvar,
    say: Box<dyn Fn(Word) + Send + Sync>,
}

/// A lane. Whoever serves it holds it.
struct Lane<C> {
    carrier: C,
    /// What it has taken of the pass under way.
    totals: PassTotals,
}

/// How a thread competes with the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Manner {
    /// On what it leaves.
    #[default]
    Polite,
    /// As an equal.
    Prompt,
}

#[derive(Default)]
struct Job {
    pass: Option<Arc<Pass>>,
    manner: Manner,
    /// Of each lane, the last pass that it has ended.
    ended: Vec<u32>,
    /// Lanes that have not ended the pass yet.
    busy: usize,
    quit: bool,
}

impl<C> Shared<C> {
    fn job(&self) -> MutexGuard<'_, Job> {
        lock(&self.job)
    }

    fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Relaxed)
    }

    /// Has prompt threads do what is left.
    fn hurry(&self) {
        let mut job = self.job();
        if !self.hurried.swap(true, Ordering::Relaxed) {
            tracing::debug!("polite threads get next to no processor: sending as an equal now");
        }
        job.manner = Manner::Prompt;
        self.changed.notify_all();
    }
}

impl Workers<Connection> {
    /// Starts the workers of each connection.
    pub(super) fn over(
        streams: Vec<Stream>,
        machine: Arc<dyn SourceMachine>,
        bandwidth: Bandwidth,
        say: Box<dyn Fn(Word) + Send + Sync>,
    ) -> Result<Self, MotionError> {
        let closers: Vec<_> = streams.iter().map(Stream::closer).collect();
        let leave = Leave::BrokenOff(Box::new(move || closers.iter().for_each(Closer::close)));
        let connection = |stream| Connection { stream, sender: Sender::default() };
        let lanes = streams.into_iter().map(connection).collect();
        Self::start(machine, bandwidth, lanes, leave, say)
    }
}

impl<C: Carry> Workers<C> {
    /// Starts the workers of each lane.
    pub(super) fn start(
        machine: Arc<dyn SourceMachine>,
        bandwidth: Bandwidth,
        lanes: Vec<C>,
        leave: Leave,
        say: Box<dyn Fn(Word) + Send + Sync>,
    ) -> Result<Self, MotionError> {
        let count = lanes.len();
        let lane = |carrier| Mutex::new(Lane { carrier, totals: PassTotals::default() });
        let shared = Arc::new(Shared {
            machine,
            bandwidth,
            lanes: lanes.into_iter().map(lane).collect(),
            job: Mutex::new(Job { ended: vec![0; count], ..Job::default() }),
            hurried: AtomicBool::new(false),
            changed: Condvar::new(),
            say,
        });
        let mut workers = Self { shared, threads: Vec::new(), leave };
        for index in 0..count {
            for (manner, name) in [(Manner::Polite, "polite"), (Manner::Prompt, "send")] {
                let shared = workers.shared.clone();
                let thread = thread::Builder::new()
                    .name(format!("move-{name}-{index}"))
                    .spawn(move || work(&shared, index, manner))
                    .map_err(|e| {
                        let why = format!("starting a thread to send pages: {e}");
                        MotionError::new(Code::HostIo, why)
                    })?;
                workers.threads.push(thread);
            }
        }
        Ok(workers)
    }

    /// Has all of them send a pass: politely if a guest runs beside it.
    pub(super) fn send(&self, pass: &Arc<Pass>) {
        let runs = self.shared.machine.is_running();
        let mut job = self.shared.job();
        // Under the lock: whoever hurries sets both.
        let polite = runs && !self.shared.is_hurried();
        job.busy = self.shared.lanes.len();
        job.pass = Some(pass.clone());
        job.manner = if polite { Manner::Polite } else { Manner::Prompt };
        self.shared.changed.notify_all();
    }
}

impl<C: Carry> Drop for Workers<C> {
    fn drop(&mut self) {
        self.shared.job().quit = true;
        self.shared.changed.notify_all();
        let Leave::BrokenOff(break_off) = &self.leave else { return };
        break_off();
        for thread in self.threads.drain(..) {
            // It has said what there was to say.
            let _ = thread.join();
        }
    }
}

/// How a thread's part in a pass ended.
enum Share {
    /// Nothing is left, and the destination was told so.
    Sent,
    /// The pass was stopped.
    Stopped,
    /// A thread of the other manner goes on.
    HandedOver,
}

fn work<C: Carry>(shared: &Shared<C>, index: usize, manner: Manner) {
    let mut courtesy = match manner {
        Manner::Prompt => None,
        Manner::Polite => match Courtesy::begin(shared.lanes.len()) {
            Some(courtesy) => Some(courtesy),
            None => return shared.hurry(),
        },
    };
    while let Some(pass) = next_pass(shared, index, manner) {
        let Some((result, all_sent)) = serve(shared, index, &pass, &mut courtesy) else { continue };
        match result {
            Ok(Share::Sent) if all_sent && !pass.is_stopped() => (shared.say)(Word::Sent),
            Ok(_) => {}
            Err(error) => {
                if !pass.is_stopped() {
                    pass.stop();
                    (shared.say)(Word::Failed(error));
                }
            }
        }
    }
}

/// Serves one lane: how that ended, and whether it was the last one of the pass. `None` if it is, or
/// was, the other thread's to end it, or if there is nobody left to tell.
///
/// The lane is held until it is known to have ended the pass: its other thread may be called upon
/// just then, and must not end it a second time.
fn serve<C: Carry>(
    shared: &Shared<C>,
    index: usize,
    pass: &Pass,
    courtesy: &mut Option<Courtesy>,
) -> Option<(Result<Share, MotionError>, bool)> {
    let mut lane = lock(&shared.lanes[index]);
    if shared.job().ended[index] == pass.number() {
        return None;
    }
    let result = send_share(shared, pass, &mut lane, courtesy);
    let mut job = shared.job();
    if job.quit || matches!(result, Ok(Share::HandedOver)) {
        return None;
    }
    job.ended[index] = pass.number();
    job.busy -= 1;
    Some((result, job.busy == 0))
}

/// Waits for a pass that is this thread's to serve. `None` when there will be none.
fn next_pass<C>(shared: &Shared<C>, index: usize, manner: Manner) -> Option<Arc<Pass>> {
    let mut job = shared.job();
    loop {
        if job.quit {
            return None;
        }
        match &job.pass {
            Some(pass) if job.manner == manner && pass.number() != job.ended[index] => {
                return Some(pass.clone());
            }
            _ => job = shared.changed.wait(job).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Sends chunks of the pass as long as there are any, then says that this was all.
fn send_share<C: Carry>(
    shared: &Shared<C>,
    pass: &Pass,
    lane: &mut Lane<C>,
    courtesy: &mut Option<Courtesy>,
) -> Result<Share, MotionError> {
    let mut pace = |bytes| shared.bandwidth.pace(bytes);
    loop {
        if let Some(courtesy) = courtesy {
            if courtesy.is_starved() {
                shared.hurry();
            }
            if shared.is_hurried() {
                return Ok(Share::HandedOver);
            }
        }
        let Some(chunk) = pass.claim() else { break };
        let mut pace_politely = |bytes| {
            if let Some(courtesy) = courtesy {
                courtesy.give_way();
            }
            pace(bytes)
        };
        let sent = lane.carrier.carry(&*shared.machine, pass, chunk, &mut pace_politely)?;
        pass.count(sent);
        lane.totals.add(sent);
    }
    let totals = std::mem::take(&mut lane.totals);
    if pass.is_stopped() {
        return Ok(Share::Stopped);
    }
    lane.carrier.end(pass, totals, &mut pace)?;
    Ok(Share::Sent)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn send_error(error: SendError) -> MotionError {
    match error {
        SendError::Machine(error) => error.into(),
        SendError::Link(error) => MotionError::sending("sending pages", error),
    }
}

#[cfg(test)]
mod tests;
