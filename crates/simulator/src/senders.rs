//! The workers of a source, as steps: each sends one chunk at a time.

use crate::env::{Env, MICROSECOND};
use crate::machine::SimMachine;
use crate::net::{ConnId, End};
use motion::MotionError;
use motion::clock::{Moment, nanos};
use motion::ram::PIECE_PAGES;
use motion::ram::send::{PageSink, SendError, Sender};
use motion::ram::{Pacer, Pass, PassTotals};
use motion::source::Event;
use std::cell::Cell;
use std::io::{self, Write};
use std::sync::Arc;
use wire::{Message, PassEnd};

/// What the kernel takes of a data connection before a write has to wait, in bytes.
const WINDOW: usize = 256 << 10;

pub struct Senders {
    all: Vec<One>,
    /// Those that have not ended the pass.
    busy: usize,
    /// Bytes of pages that all of them have sent.
    sent: u64,
}

struct One {
    conn: ConnId,
    pass: Option<Arc<Pass>>,
    sent: PassTotals,
    /// Bytes of pages, in all passes.
    total: u64,
    sender: Sender,
    /// When it does its next step.
    at: u64,
    blocked_since: Option<u64>,
}

impl Senders {
    pub fn new(conns: Vec<ConnId>) -> Self {
        let one = |conn| One {
            conn,
            pass: None,
            sent: PassTotals::default(),
            total: 0,
            sender: Sender::default(),
            at: 0,
            blocked_since: None,
        };
        Self { all: conns.into_iter().map(one).collect(), busy: 0, sent: 0 }
    }

    /// Has all of them send a pass.
    pub fn start(&mut self, env: &mut Env, pass: &Arc<Pass>, now: u64) {
        self.busy = self.all.len();
        for one in &mut self.all {
            one.pass = Some(pass.clone());
            one.sent = PassTotals::default();
            one.at = now + env.rng.below(100 * MICROSECOND);
        }
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn deadline(&self) -> Option<u64> {
        self.all.iter().filter(|one| one.pass.is_some()).map(|one| one.at).min()
    }

    /// The next step of whoever is first.
    pub fn step(
        &mut self,
        env: &mut Env,
        machine: &SimMachine,
        pacer: &mut Pacer,
        stall: u64,
    ) -> Option<Event> {
        let one = self.all.iter_mut().filter(|one| one.pass.is_some()).min_by_key(|one| one.at)?;
        let pass = one.pass.clone()?;
        let before = one.total;
        let stepped = one.step(env, &pass, machine, pacer, stall);
        self.sent += one.total - before;
        let over = match stepped {
            Ok(false) => return None,
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        one.pass = None;
        self.busy -= 1;
        if pass.is_stopped() {
            return None;
        }
        match over {
            Ok(()) => (self.busy == 0).then_some(Event::PassSent),
            Err(error) => {
                pass.stop();
                Some(Event::Lost(error))
            }
        }
    }

    pub fn stop(self, env: &mut Env, now: u64) {
        for one in self.all {
            env.net.close(&mut env.rng, one.conn, End::Dialler, now);
        }
    }
}

impl One {
    /// Sends a chunk. True when there was none left.
    fn step(
        &mut self,
        env: &mut Env,
        pass: &Pass,
        machine: &SimMachine,
        pacer: &mut Pacer,
        stall: u64,
    ) -> Result<bool, MotionError> {
        let sending = |e: io::Error| MotionError::sending("sending pages", e);
        let now = env.now;
        let drained = env.net.drained_at(self.conn, End::Dialler, WINDOW);
        if drained > now {
            let since = *self.blocked_since.get_or_insert(now);
            if now - since >= stall {
                return Err(sending(io::ErrorKind::TimedOut.into()));
            }
            self.at = drained.min(since + stall);
            return Ok(false);
        }
        self.blocked_since = None;
        let Some(chunk) = pass.claim() else {
            if !pass.is_stopped() {
                let end = PassEnd {
                    pass: pass.number(),
                    data_pages: self.sent.data,
                    zero_pages: self.sent.zero,
                };
                self.write(env, now, Message::PassEnd(end).encode()).map_err(sending)?;
            }
            return Ok(true);
        };
        let waited = Cell::new(0);
        let mut pieces = Pieces { waited: &waited, all: Vec::new() };
        let mut pace = |sent| {
            machine.interlude();
            let wait = nanos(pacer.grant(sent, Moment(now + waited.get())));
            waited.set(waited.get() + wait);
            pacer.piece(PIECE_PAGES)
        };
        let sent = self
            .sender
            .send_chunk(machine, pass, chunk, &mut pace, &mut pieces)
            .map_err(send_error)?;
        let (pieces, waited) = (pieces.all, waited.get());
        pass.count(sent);
        self.sent.add(sent);
        self.total += sent.bytes;
        for (after, bytes) in pieces {
            self.write(env, now + after, bytes).map_err(sending)?;
        }
        self.at = now + waited + 20 * MICROSECOND + env.rng.below(20 * MICROSECOND);
        Ok(false)
    }

    fn write(&self, env: &mut Env, now: u64, bytes: Vec<u8>) -> io::Result<()> {
        env.net.write(&mut env.rng, self.conn, End::Dialler, now, bytes)
    }
}

/// What is written of a chunk, and after how much waiting.
struct Pieces<'a> {
    waited: &'a Cell<u64>,
    all: Vec<(u64, Vec<u8>)>,
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let waited = self.waited.get();
        match self.all.last_mut() {
            Some((after, piece)) if *after == waited => piece.extend_from_slice(bytes),
            _ => self.all.push((waited, bytes.to_vec())),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PageSink for Pieces<'_> {}

pub fn send_error(error: SendError) -> MotionError {
    match error {
        SendError::Machine(error) => error.into(),
        SendError::Link(error) => MotionError::sending("sending pages", error),
    }
}
