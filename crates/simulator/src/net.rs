//! The network: connections that carry bytes in order, late, in pieces, and not always.

use crate::book::Book;
use crate::life::Pid;
use crate::rng::Rng;
use std::collections::{BTreeMap, VecDeque};
use std::io;

pub type ConnId = u32;
/// Where a process listens.
pub type Port = u32;

/// An end of a connection: whoever dialled it, or whoever took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Dialler = 0,
    Listener = 1,
}

impl End {
    pub fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Listener,
            Self::Listener => Self::Dialler,
        }
    }
}

/// What arrives.
#[derive(Debug)]
pub enum Piece {
    /// Somebody dials.
    Open,
    Bytes(Vec<u8>),
    /// The other end closed it.
    Closed,
    /// It broke.
    Broken,
    /// Nobody listens there.
    Refused,
}

/// What a connection is for, as far as faults care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    Control,
    Data,
    Question,
}

/// One direction.
#[derive(Debug, Default)]
struct Pipe {
    queue: VecDeque<(u64, Piece)>,
    /// When the last of it arrives: nothing overtakes.
    last: u64,
    stalled_until: u64,
    /// What is written now goes nowhere.
    ended: bool,
    bytes: usize,
}

#[derive(Debug)]
pub struct Conn {
    pub port: Port,
    pub purpose: Use,
    /// Who holds the ends. The listener's is not known before it is taken.
    pub pids: [Option<Pid>; 2],
    /// `pipes[end]` brings what arrives at that end.
    pipes: [Pipe; 2],
    /// This end is closed, or knows that the connection is.
    over: [bool; 2],
}

/// What the links are like.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// One way, in nanoseconds.
    pub latency: u64,
    /// Up to so much more.
    pub jitter: u64,
    /// Nanoseconds for a page.
    pub page_time: u64,
    /// A reset may overtake what was sent before it.
    pub lossy: bool,
}

#[derive(Debug)]
pub struct Net {
    pub conditions: Conditions,
    conns: BTreeMap<ConnId, Conn>,
    next: ConnId,
    /// Nothing gets through before.
    partition_until: u64,
    /// Whoever dials before is turned away.
    refuse_until: u64,
    /// So many of the next answers to questions are lost.
    lost_answers: u32,
}

impl Net {
    pub fn new(conditions: Conditions) -> Self {
        Self {
            conditions,
            conns: BTreeMap::new(),
            next: 0,
            partition_until: 0,
            refuse_until: 0,
            lost_answers: 0,
        }
    }

    /// The next thing that arrives: when, where. `busy` says until when a process takes nothing.
    pub fn next(&self, busy: impl Fn(Pid) -> u64) -> Option<(u64, ConnId, End)> {
        let mut best: Option<(u64, ConnId, End)> = None;
        for (id, conn) in &self.conns {
            for end in [End::Dialler, End::Listener] {
                let pipe = &conn.pipes[end as usize];
                let Some((at, _)) = pipe.queue.front() else { continue };
                let free = conn.pids[end as usize].map_or(0, &busy);
                let at = (*at).max(pipe.stalled_until).max(self.partition_until).max(free);
                if best.is_none_or(|(earliest, ..)| at < earliest) {
                    best = Some((at, *id, end));
                }
            }
        }
        best
    }

    pub fn take(&mut self, id: ConnId, end: End) -> Option<Piece> {
        let conn = self.conns.get_mut(&id)?;
        let pipe = &mut conn.pipes[end as usize];
        let (_, piece) = pipe.queue.pop_front()?;
        if let Piece::Bytes(bytes) = &piece {
            pipe.bytes -= bytes.len();
        }
        if matches!(piece, Piece::Closed | Piece::Broken | Piece::Refused) {
            conn.over[end as usize] = true;
        }
        let finished = conn.over == [true; 2] && conn.pipes.iter().all(|p| p.queue.is_empty());
        if finished {
            self.conns.remove(&id);
        }
        Some(piece)
    }

    pub fn get(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(&id)
    }

    pub fn dial(&mut self, rng: &mut Rng, now: u64, pid: Pid, port: Port, purpose: Use) -> ConnId {
        self.next += 1;
        let mut conn = Conn {
            port,
            purpose,
            pids: [Some(pid), None],
            pipes: Default::default(),
            over: [false; 2],
        };
        let at = now + self.delay(rng);
        let pipe = &mut conn.pipes[End::Listener as usize];
        pipe.queue.push_back((at, Piece::Open));
        // The dialler may write once it has heard back.
        pipe.last = at + self.delay(rng) + self.delay(rng);
        self.conns.insert(self.next, conn);
        self.next
    }

    fn delay(&self, rng: &mut Rng) -> u64 {
        self.conditions.latency + rng.below(self.conditions.jitter + 1)
    }

    /// Somebody listens there, and takes it.
    pub fn accept(&mut self, id: ConnId, pid: Pid) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.pids[End::Listener as usize] = Some(pid);
        }
    }

    /// Nobody does.
    pub fn refuse(&mut self, rng: &mut Rng, id: ConnId, now: u64) {
        let at = now + self.delay(rng);
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.over[End::Listener as usize] = true;
            conn.pipes[End::Listener as usize].end();
            conn.pipes[End::Dialler as usize].queue.push_back((at, Piece::Refused));
        }
    }

    pub fn is_refusing(&self, now: u64) -> bool {
        now < self.refuse_until
    }

    /// Writes at one end.
    pub fn write(
        &mut self,
        rng: &mut Rng,
        id: ConnId,
        from: End,
        now: u64,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        let delay = self.delay(rng);
        let pages = bytes.len() as u64 / 4096;
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.over[from as usize]) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let pipe = &mut conn.pipes[from.other() as usize];
        if pipe.ended || bytes.is_empty() {
            return Ok(());
        }
        let answers = conn.purpose == Use::Question && from == End::Listener;
        // The greeting is none.
        if answers && self.lost_answers > 0 && !bytes.starts_with(&wire::MAGIC) {
            self.lost_answers -= 1;
            self.cut(rng, id, now, false);
            return Ok(());
        }
        let at = pipe.last.max(now + delay) + pages * self.conditions.page_time;
        pipe.last = at;
        pipe.bytes += bytes.len();
        // Where a message ends is nobody's business on the way.
        if bytes.len() > 1 && rng.chance(30) {
            let mut first = bytes;
            let second = first.split_off(1 + rng.index(first.len() - 1));
            let later = at + rng.below(self.conditions.jitter + 1);
            pipe.last = later;
            pipe.queue.push_back((at, Piece::Bytes(first)));
            pipe.queue.push_back((later, Piece::Bytes(second)));
        } else {
            pipe.queue.push_back((at, Piece::Bytes(bytes)));
        }
        Ok(())
    }

    /// When no more than `window` of the bytes written at this end will be on their way, as far as
    /// can be told now.
    pub fn drained_at(&self, id: ConnId, from: End, window: usize) -> u64 {
        let Some(conn) = self.conns.get(&id) else { return 0 };
        let pipe = &conn.pipes[from.other() as usize];
        let mut left = pipe.bytes;
        let mut at = 0;
        for (arrives, piece) in &pipe.queue {
            if left <= window {
                break;
            }
            at = (*arrives).max(pipe.stalled_until).max(self.partition_until);
            left -= if let Piece::Bytes(bytes) = piece { bytes.len() } else { 0 };
        }
        at
    }

    /// One end closes, or its process dies.
    pub fn close(&mut self, rng: &mut Rng, id: ConnId, by: End, now: u64) {
        let delay = self.delay(rng);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut conn.over[by as usize], true) {
            return;
        }
        let unread = !conn.pipes[by as usize].queue.is_empty();
        conn.pipes[by as usize].end();
        let pipe = &mut conn.pipes[by.other() as usize];
        // A close with unread bytes is a reset.
        let reset = unread && self.conditions.lossy && rng.chance(30);
        if reset {
            pipe.truncate(rng);
        }
        if !pipe.ended {
            let at = pipe.last.max(now + delay);
            pipe.last = at;
            pipe.queue.push_back((at, if reset { Piece::Broken } else { Piece::Closed }));
        }
        pipe.ended = true;
        if conn.over == [true; 2] {
            self.conns.remove(&id);
        }
    }

    /// The connection breaks, in the middle of whatever is on its way; perhaps without anybody being
    /// told, as where something in between forgets it.
    fn cut(&mut self, rng: &mut Rng, id: ConnId, now: u64, silently: bool) {
        let delay = self.delay(rng);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        for end in 0..2 {
            let pipe = &mut conn.pipes[end];
            if pipe.ended {
                continue;
            }
            pipe.truncate(rng);
            let at = pipe.queue.back().map_or(now, |(at, _)| *at).max(now + rng.below(delay + 1));
            if !silently {
                pipe.queue.push_back((at, Piece::Broken));
            }
            pipe.ended = true;
        }
    }

    fn of_use(&self, purpose: Option<Use>) -> Vec<ConnId> {
        let wanted = |conn: &Conn| purpose.is_none_or(|purpose| conn.purpose == purpose);
        self.conns.iter().filter(|(_, conn)| wanted(conn)).map(|(id, _)| *id).collect()
    }

    /// Cuts one connection of this use, or all of all.
    pub fn cut_some(
        &mut self,
        rng: &mut Rng,
        purpose: Option<Use>,
        silently: bool,
        now: u64,
        book: &Book,
    ) {
        let mut ids = self.of_use(purpose);
        if purpose.is_some() && !ids.is_empty() {
            ids = vec![ids[rng.index(ids.len())]];
        }
        for id in ids {
            book.note(|| format!("connection {id} is cut, silently: {silently}"));
            self.cut(rng, id, now, silently);
        }
    }

    /// Bytes stop on one connection of this use, in one direction or both.
    pub fn stall(&mut self, rng: &mut Rng, purpose: Use, until: u64, book: &Book) {
        let ids = self.of_use(Some(purpose));
        if ids.is_empty() {
            return;
        }
        let id = ids[rng.index(ids.len())];
        let which = rng.pick(&[[true, true], [true, false], [false, true]]);
        book.note(|| format!("connection {id} stalls, {which:?}"));
        if let Some(conn) = self.conns.get_mut(&id) {
            for (pipe, stalled) in conn.pipes.iter_mut().zip(which) {
                if stalled {
                    pipe.stalled_until = pipe.stalled_until.max(until);
                }
            }
        }
    }

    /// Nothing more arrives of what the dialler says on control connections.
    pub fn stall_there(&mut self, until: u64, book: &Book) {
        for id in self.of_use(Some(Use::Control)) {
            book.note(|| format!("connection {id} takes nothing more"));
            if let Some(conn) = self.conns.get_mut(&id) {
                let pipe = &mut conn.pipes[End::Listener as usize];
                pipe.stalled_until = pipe.stalled_until.max(until);
            }
        }
    }

    pub fn partition(&mut self, until: u64) {
        self.partition_until = self.partition_until.max(until);
    }

    pub fn lose_answers(&mut self, answers: u32) {
        self.lost_answers = answers;
    }

    pub fn refuse_all(&mut self, until: u64) {
        self.refuse_until = self.refuse_until.max(until);
    }

    /// Whatever was stalled goes on.
    pub fn heal(&mut self, now: u64) {
        self.partition_until = self.partition_until.min(now);
        self.refuse_until = self.refuse_until.min(now);
        self.lost_answers = 0;
        for pipe in self.conns.values_mut().flat_map(|conn| &mut conn.pipes) {
            pipe.stalled_until = pipe.stalled_until.min(now);
        }
    }

    /// Nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        self.conns.values().flat_map(|conn| &conn.pipes).all(|pipe| pipe.queue.is_empty())
    }

    /// A process is dead: its host closes everything that it had open.
    pub fn drop_process(&mut self, rng: &mut Rng, pid: Pid, now: u64) {
        for id in self.of_use(None) {
            for end in [End::Dialler, End::Listener] {
                if self.conns.get(&id).is_some_and(|c| c.pids[end as usize] == Some(pid)) {
                    self.close(rng, id, end, now);
                }
            }
        }
    }
}

impl Pipe {
    /// Its reader is gone.
    fn end(&mut self) {
        self.queue.clear();
        self.bytes = 0;
        self.ended = true;
    }

    /// A part of what is on its way never arrives, wherever in a message that ends.
    fn truncate(&mut self, rng: &mut Rng) {
        let keep = rng.index(self.queue.len() + 1);
        let open = matches!(self.queue.front(), Some((_, Piece::Open)));
        let keep = keep.max(usize::from(open));
        let mut lost = self.queue.split_off(keep);
        if let Some((at, Piece::Bytes(mut bytes))) = lost.pop_front()
            && rng.chance(70)
        {
            bytes.truncate(rng.index(bytes.len()));
            if !bytes.is_empty() {
                self.queue.push_back((at, Piece::Bytes(bytes)));
            }
        }
        self.bytes = self
            .queue
            .iter()
            .map(|(_, piece)| if let Piece::Bytes(bytes) = piece { bytes.len() } else { 0 })
            .sum();
    }
}
