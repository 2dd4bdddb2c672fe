//! Whoever fills a guest's RAM while it runs: the engine's page service, and in place of threads, steps.

use super::restore::Builder;
use crate::env::{MICROSECOND, MILLISECOND, SECOND};
use crate::gate::Gatekeeper;
use crate::machine::SimMachine;
use crate::rng::Rng;
use memory::GuestRam;
use motion::fill::{Duty, FillDesk, FillOptions, Means, Pager, Reader, Staff};
use motion::ram::on_demand::Claim;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// A read that takes longer is an outage.
pub const STALL: u64 = 5 * SECOND;
/// Between two looks whether anybody hangs.
const LOOK: u64 = STALL / 10;
/// ENOMEM.
const NO_MEMORY: i32 = 12;

/// How many chunks are streamed at once (as in `motion/src/fill/threads.rs`).
const STREAM_CHUNKS: u64 = 4;

pub struct Crew {
    builder: Arc<Builder>,
    /// Of a clock that stands still: its times are this and the world's.
    epoch: Instant,
    state: Mutex<State>,
}

struct State {
    rng: Rng,
    now: u64,
    /// It has the crew, too.
    desk: Weak<FillDesk>,
    hands: Vec<Hand>,
    watches: bool,
    looks_at: u64,
    /// The next so many cannot be hired.
    refused: u32,
    /// What is asked next takes this long, in nanoseconds.
    hangs: Option<u64>,
    /// So many steps are made before the restore goes on.
    early: u64,
    /// Pages could not be had even then.
    failed_early: bool,
}

/// One who reads.
struct Hand {
    duty: Duty,
    reader: Arc<Reader>,
    claim: Option<(Claim, u64)>,
    at: u64,
    /// How often it has found nothing to do.
    idle: u32,
}

impl Crew {
    pub fn new(builder: Arc<Builder>, mut rng: Rng, now: u64) -> Arc<Self> {
        let early = rng.pick(&[0, 0, 8, 32]);
        let state = State {
            rng,
            now,
            desk: Weak::new(),
            hands: Vec::new(),
            watches: false,
            looks_at: now + LOOK,
            refused: 0,
            hangs: None,
            early,
            failed_early: false,
        };
        Arc::new(Self { builder, epoch: Instant::now(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// What is being filled, if anything is.
    pub fn desk(&self) -> Option<Arc<FillDesk>> {
        self.state().desk.upgrade()
    }

    /// Whether pages could not be had before the guest was loaded.
    pub fn failed_early(&self) -> bool {
        self.state().failed_early
    }

    pub fn refuses(&self, times: u32) {
        self.state().refused = times;
    }

    pub fn hangs(&self, time: u64) {
        self.state().hangs = Some(time);
    }

    /// Nothing hangs any more.
    pub fn disk_is_back(&self) {
        let mut state = self.state();
        (state.hangs, state.refused) = (None, 0);
        let now = state.now;
        state.hands.iter_mut().for_each(|hand| hand.at = hand.at.min(now + MILLISECOND));
    }

    /// When somebody does something next.
    pub fn deadline(&self) -> u64 {
        let state = self.state();
        state.hands.iter().map(|hand| hand.at).chain([state.looks_at]).min().unwrap_or(u64::MAX)
    }

    /// Since when somebody has been reading what will take too long.
    pub fn hangs_since(&self) -> Option<u64> {
        let state = self.state();
        let waited_for = state.hands.iter().filter(|hand| !hand.reader.is_given_up());
        waited_for.filter_map(|hand| Some(hand.claim.as_ref()?.1)).min()
    }

    /// Somebody does what is due.
    pub fn work(&self, now: u64, machine: &SimMachine) {
        let desk = {
            let mut state = self.state();
            state.now = now;
            state.desk.upgrade()
        };
        let Some(desk) = desk else { return };
        let due = {
            let mut state = self.state();
            if state.watches && state.looks_at <= now {
                state.looks_at = now + LOOK;
                None
            } else {
                let at = state.hands.iter().position(|hand| hand.at <= now);
                let Some(at) = at else { return };
                Some(state.hands.remove(at))
            }
        };
        let Some(mut hand) = due else { return desk.watch(self.moment(now)) };
        let has_read = hand.claim.is_some();
        let stays = match hand.claim.take() {
            Some((claim, _)) => {
                let source = desk.source().clone();
                let mut lane = source.lane();
                let contents = lane.read(desk.pages_of(&claim), &mut || ());
                desk.end(&hand.reader, &claim, contents)
            }
            None => {
                self.begin(&desk, &mut hand, machine, now);
                true
            }
        };
        if stays {
            let mut state = self.state();
            let soon = 20 * MICROSECOND + state.rng.below(200 * MICROSECOND);
            let hangs = hand.claim.as_ref().and_then(|_| state.hangs.take());
            hand.idle = if hand.claim.is_some() || has_read { 0 } else { (hand.idle + 1).min(12) };
            hand.at = now + hangs.unwrap_or(soon << hand.idle);
            state.hands.push(hand);
        }
    }

    /// Somebody waits: whoever serves those that do, and has nothing to do, hears of it.
    pub fn hears(&self, machine: &SimMachine) {
        if machine.gate.has_faults() {
            let mut state = self.state();
            let soon = state.now + 20 * MICROSECOND;
            let serves = |hand: &&mut Hand| hand.duty == Duty::Faults && hand.claim.is_none();
            state.hands.iter_mut().filter(serves).for_each(|hand| hand.at = hand.at.min(soon));
        }
    }

    /// One who does nothing looks for something to do.
    fn begin(&self, desk: &Arc<FillDesk>, hand: &mut Hand, machine: &SimMachine, now: u64) {
        if !desk.is_filling() {
            return;
        }
        let claim = match hand.duty {
            Duty::Faults => {
                let fault = machine.gate.take_fault();
                fault.and_then(|page| desk.answer(page, 0))
            }
            Duty::Stream => {
                let most = self.state().rng.pick(&[1, STREAM_CHUNKS]);
                desk.next(most)
            }
        };
        if let Some(claim) = claim {
            desk.begin(&hand.reader, &claim, self.moment(now));
            hand.claim = Some((claim, now));
        }
    }

    fn moment(&self, now: u64) -> Instant {
        self.epoch + Duration::from_nanos(now)
    }
}

/// The crew, as the engine hires it.
struct Agency(Arc<Crew>);

impl Staff for Agency {
    fn hire(&self, desk: &Arc<FillDesk>, duty: Duty, reader: &Arc<Reader>) -> io::Result<()> {
        let mut state = self.0.state();
        if state.refused > 0 {
            state.refused -= 1;
            return Err(io::Error::from_raw_os_error(NO_MEMORY));
        }
        state.desk = Arc::downgrade(desk);
        let at = state.now + state.rng.below(100 * MICROSECOND);
        state.hands.push(Hand { duty, reader: reader.clone(), claim: None, at, idle: 0 });
        Ok(())
    }

    fn watch(&self, desk: &Arc<FillDesk>) -> io::Result<()> {
        let early = {
            let mut state = self.0.state();
            state.watches = true;
            state.early
        };
        let machine = self.0.builder.built();
        let Some(machine) = machine else { return Ok(()) };
        // They are at work before the state is loaded. All of that takes no time.
        for _ in 0..early {
            let due = self.0.deadline().min(self.0.state().looks_at - 1);
            self.0.work(due, &machine);
        }
        let is_out = desk.outage().is_some();
        self.0.state().failed_early = is_out;
        Ok(())
    }
}

pub struct CrewMeans(pub Arc<Crew>);

impl Means for CrewMeans {
    fn begin(&self, _: &Arc<GuestRam>) -> io::Result<(Arc<dyn Pager>, Box<dyn Staff>)> {
        let machine = self.0.builder.built();
        let machine = machine.ok_or_else(|| io::Error::other("nothing was built"))?;
        Ok((Gatekeeper::of(&machine), Box::new(Agency(self.0.clone()))))
    }

    fn options(&self) -> FillOptions {
        let mut state = self.0.state();
        let (fault_threads, stream_threads) = (state.rng.pick(&[1, 2]), state.rng.pick(&[1, 2]));
        FillOptions { fault_threads, stream_threads, ..FillOptions::default() }
    }
}
