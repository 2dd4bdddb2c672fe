//! What was copied for writers that waited, until it is written to where it goes.

use crate::rules::{Rule, keeps};
use memory::PageRange;
use snapshot::Buffer;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of copies that may wait to be written: what a guest can write at once without waiting for the
/// disk, and what a snapshot may cost the host in memory.
pub(super) const LIMIT: u64 = 64 << 20;
/// Between two looks whether it is over, which nobody tells.
const LOOK: Duration = Duration::from_millis(20);

/// Pages as they were.
#[derive(Debug)]
pub(crate) struct Copy {
    pub range: PageRange,
    /// They are at its beginning.
    pub buffer: Buffer,
}

/// What there is to write when nothing is left to stream.
#[derive(Debug)]
pub(crate) enum Next {
    Copy(Copy),
    /// Not now: look whether the job goes on, and ask again.
    Later,
    /// Nothing, and nothing will come.
    None,
}

/// Somebody who waits for room for a copy.
#[derive(Debug)]
pub struct Waiting {
    since: Instant,
    /// How many were given back when that began.
    written: u64,
}

/// What there is for whoever wants a buffer.
#[derive(Debug)]
pub(super) enum Room {
    Buffer(Buffer),
    /// It is over.
    Over,
    /// None now.
    Later,
    /// None for this long.
    Late(Duration),
}

/// The buffers, and those of them that are full. All are of one size, which is that of a chunk.
#[derive(Debug)]
pub(super) struct Buffers {
    chunk_pages: u64,
    most: u64,
    state: Mutex<State>,
    freed: Condvar,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Buffer>,
    full: VecDeque<Copy>,
    /// Buffers that there are: free, full, or in use.
    made: u64,
    /// How many were given back, ever.
    written: u64,
    waited: u64,
}

impl Buffers {
    pub fn new(chunk_pages: u64, limit: u64) -> Self {
        let most = (limit / (chunk_pages * memory::PAGE_SIZE)).max(2);
        Self {
            chunk_pages,
            most,
            state: Mutex::default(),
            freed: Condvar::new(),
            filled: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer. `None` when it is over meanwhile.
    ///
    /// # Errors
    /// None was given back for this long.
    pub fn get(
        &self,
        patience: Duration,
        is_over: impl Fn() -> bool,
    ) -> Result<Option<Buffer>, Duration> {
        let mut state = self.state();
        let mut waiting = None;
        loop {
            match self.room(&mut state, &mut waiting, Instant::now(), patience, &is_over) {
                Room::Over => return Ok(None),
                Room::Buffer(buffer) => return Ok(Some(buffer)),
                Room::Late(waited) => return Err(waited),
                Room::Later => {}
            }
            let (next, _) =
                self.freed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
    }

    /// The same, without waiting.
    pub fn try_get(
        &self,
        waiting: &mut Option<Waiting>,
        now: Instant,
        patience: Duration,
        is_over: impl Fn() -> bool,
    ) -> Room {
        self.room(&mut self.state(), waiting, now, patience, &is_over)
    }

    fn room(
        &self,
        state: &mut State,
        waiting: &mut Option<Waiting>,
        now: Instant,
        patience: Duration,
        is_over: &dyn Fn() -> bool,
    ) -> Room {
        if is_over() {
            return Room::Over;
        }
        if let Some(buffer) = state.free.pop() {
            return Room::Buffer(buffer);
        }
        if state.made < self.most {
            state.made += 1;
            return Room::Buffer(Buffer::new(self.chunk_pages));
        }
        let written = state.written;
        let waiting = waiting.get_or_insert_with(|| {
            state.waited += 1;
            Waiting { since: now, written }
        });
        // It is the disk that is waited for, not one's turn.
        if waiting.written != written {
            *waiting = Waiting { since: now, written };
        }
        let waited = now.saturating_duration_since(waiting.since);
        if waited >= patience && keeps(Rule::WritersGoOn) {
            Room::Late(waited)
        } else {
            Room::Later
        }
    }

    /// A buffer is full.
    pub fn queue(&self, copy: Copy) {
        self.state().full.push_back(copy);
        self.filled.notify_one();
    }

    /// What a full one holds, if there is one.
    pub fn next(&self) -> Option<Copy> {
        self.state().full.pop_front()
    }

    /// The same; waits a little for one unless none will come.
    pub fn wait(&self, none_comes: impl Fn() -> bool) -> Next {
        // In this order: what is queued is queued before it counts as copied.
        let over = none_comes();
        let mut state = self.state();
        if let Some(copy) = state.full.pop_front() {
            return Next::Copy(copy);
        }
        if over {
            return Next::None;
        }
        state = self.filled.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        state.full.pop_front().map_or(Next::Later, Next::Copy)
    }

    /// The same, without waiting.
    pub fn look(&self, none_comes: impl Fn() -> bool) -> Next {
        let over = none_comes();
        match self.next() {
            Some(copy) => Next::Copy(copy),
            None if over => Next::None,
            None => Next::Later,
        }
    }

    /// A buffer is of no use any more.
    pub fn give_back(&self, buffer: Buffer) {
        let mut state = self.state();
        state.free.push(buffer);
        state.written += 1;
        self.freed.notify_one();
    }

    /// Something changed that those who wait should look at.
    pub fn tell(&self) {
        self.freed.notify_all();
        self.filled.notify_all();
    }

    /// The most bytes that they can hold.
    pub fn limit(&self) -> u64 {
        self.most * self.chunk_pages * memory::PAGE_SIZE
    }

    /// The most bytes that they held, and how often somebody had to wait for one.
    pub fn used(&self) -> (u64, u64) {
        let state = self.state();
        (state.made * self.chunk_pages * memory::PAGE_SIZE, state.waited)
    }
}
