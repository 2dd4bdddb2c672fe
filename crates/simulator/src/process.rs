//! A process: what it is in the motions of its machines.

use crate::destination::DestinationSide;
use crate::env::Env;
use crate::life::Life;
use crate::machine::SimMachine;
use crate::net::{ConnId, Piece};
use crate::source::SourceSide;
use crate::witness::WitnessSide;
use std::sync::Arc;

pub struct Process {
    pub life: Arc<Life>,
    /// Its thread is busy until then.
    pub busy_until: u64,
    /// It does nothing at all until then, and nor does its guest.
    pub frozen_until: u64,
    /// The machine that was booted here.
    pub booted: Option<Arc<SimMachine>>,
    /// The last one is the motion under way.
    pub sources: Vec<SourceSide>,
    pub destination: Option<DestinationSide>,
    pub witnesses: Vec<WitnessSide>,
}

impl Process {
    pub fn new(life: Arc<Life>) -> Self {
        Self {
            life,
            busy_until: 0,
            frozen_until: 0,
            booted: None,
            sources: Vec::new(),
            destination: None,
            witnesses: Vec::new(),
        }
    }

    /// The machine that is here, booted or arrived.
    pub fn machine(&self) -> Option<Arc<SimMachine>> {
        let arrived = || self.destination.as_ref().and_then(DestinationSide::machine);
        self.booted.clone().or_else(arrived)
    }

    pub fn source(&self) -> Option<&SourceSide> {
        self.sources.last()
    }

    pub fn source_mut(&mut self) -> Option<&mut SourceSide> {
        self.sources.last_mut()
    }

    /// When it has something to do.
    pub fn deadline(&self) -> Option<u64> {
        let sources = self.sources.iter().filter_map(SourceSide::deadline);
        let destination = self.destination.iter().filter_map(DestinationSide::deadline);
        let witnesses = self.witnesses.iter().filter_map(WitnessSide::deadline);
        let first = sources.chain(destination).chain(witnesses).min();
        first.map(|at| at.max(self.busy_until))
    }

    /// Does one thing that is due.
    pub fn wake(&mut self, env: &mut Env) {
        let due = |deadline: Option<u64>| deadline.is_some_and(|at| at <= env.now);
        if let Some(source) = self.sources.iter_mut().find(|side| due(side.deadline())) {
            source.wake(env);
        } else if let Some(destination) =
            self.destination.as_mut().filter(|side| due(side.deadline()))
        {
            destination.wake(env);
        } else if let Some(witness) = self.witnesses.iter_mut().find(|side| due(side.deadline())) {
            witness.wake(env);
        }
    }

    pub fn deliver(&mut self, env: &mut Env, conn: ConnId, piece: &Piece) {
        let _taken = self.sources.iter_mut().any(|side| side.deliver(env, conn, piece))
            || self.destination.as_mut().is_some_and(|side| side.deliver(env, conn, piece))
            || self.witnesses.iter_mut().any(|side| side.deliver(env, conn, piece));
    }

    /// What it did took time.
    pub fn settle(&mut self, now: u64) {
        self.busy_until = self.busy_until.max(now + self.life.caught_up());
    }

    /// Somebody wants something of it: that waits until it is free.
    pub fn wait_until_free(&self, now: u64) {
        self.life.takes(self.busy_until.saturating_sub(now));
    }
}
