//! What stands between a guest and its RAM: pages that are yet to come, and writes that are to wait. In
//! life that is userfaultfd's.

use crate::machine::SimMachine;
use memory::{GuestRam, PageRange, PageSet};
use motion::fill::Pager;
use motion::guard::Protector;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// So many processors wait at once, at most; then nothing of the guest runs.
const PROCESSORS: usize = 3;
/// ENOENT and ENOMEM.
const NOT_REGISTERED: i32 = 2;
const NO_MEMORY: i32 = 12;

/// What a processor of the guest does.
#[derive(Debug, Clone, Copy)]
pub enum Access {
    Write { page: u64, value: u64 },
    Look { page: u64 },
}

impl Access {
    fn page(self) -> u64 {
        match self {
            Self::Write { page, .. } | Self::Look { page } => page,
        }
    }
}

#[derive(Default)]
pub struct Gate(Mutex<State>);

#[derive(Default)]
struct State {
    /// Pages that are missing wait here, and those of them that are.
    registered: Option<PageSet>,
    missing: Option<PageSet>,
    protected: Option<PageSet>,
    /// Who waits, and since when.
    waiting: Vec<(Access, u64)>,
    /// Of those that nobody has taken yet, the pages.
    faults: VecDeque<u64>,
    /// So many parts can still be protected before that fails.
    protects: Option<u64>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while holding it")
    }

    /// Whether anything is, or could be, in the guest's way.
    pub fn stands(&self) -> bool {
        let state = self.state();
        state.registered.is_some() || state.protected.is_some()
    }

    /// No processor of the guest is free to do anything.
    pub fn all_wait(&self) -> bool {
        self.state().waiting.len() >= PROCESSORS
    }

    /// Whether it has to wait; then it does, and somebody is to be told.
    pub fn stops(&self, access: Access, now: u64) -> bool {
        let mut state = self.state();
        let page = access.page();
        let is_missing = state.missing.as_ref().is_some_and(|set| set.contains(page));
        let is_protected = matches!(access, Access::Write { .. })
            && state.protected.as_ref().is_some_and(|set| set.contains(page));
        if is_missing || is_protected {
            state.waiting.push((access, now));
            state.faults.push_back(page);
        }
        is_missing || is_protected
    }

    /// The processors are brought out of it: what they were about to do was not done.
    pub fn interrupt(&self) {
        self.state().waiting.clear();
    }

    /// Since when somebody waits.
    pub fn waits_since(&self) -> Option<u64> {
        self.state().waiting.iter().map(|(_, since)| *since).min()
    }

    /// Somebody who waits, whom nobody was told of.
    pub fn take_fault(&self) -> Option<u64> {
        self.state().faults.pop_front()
    }

    pub fn has_faults(&self) -> bool {
        !self.state().faults.is_empty()
    }

    /// Pages that are yet to come.
    pub fn missing(&self) -> Option<PageSet> {
        self.state().missing.clone()
    }

    /// The guest has given a page back that it had.
    pub fn discarded(&self, page: u64) -> bool {
        let mut state = self.state();
        let is_there = state.missing.as_ref().is_some_and(|set| !set.contains(page));
        let waits = state.registered.as_ref().is_some_and(|set| set.contains(page));
        if is_there && waits {
            let page = PageRange::new(page, 1);
            state.missing.iter_mut().for_each(|set| set.insert(page));
        }
        is_there && waits
    }

    /// After so many more parts protecting fails.
    pub fn protect_fails_after(&self, parts: u64) {
        self.state().protects = Some(parts);
    }

    fn release(&self, range: PageRange) -> Vec<Access> {
        let mut state = self.state();
        let (out, left) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(|(access, _)| (range.start..range.end()).contains(&access.page()));
        state.waiting = left;
        let out: Vec<(Access, u64)> = out;
        out.into_iter().map(|(access, _)| access).collect()
    }
}

/// The gate of one machine, as the engine has it.
pub struct Gatekeeper {
    ram: Arc<GuestRam>,
    machine: Weak<SimMachine>,
    gate: Arc<Gate>,
}

impl fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gatekeeper")
    }
}

impl Gatekeeper {
    pub fn of(machine: &Arc<SimMachine>) -> Arc<Self> {
        use motion::Machine as _;
        let (ram, gate) = (machine.ram().clone(), machine.gate.clone());
        Arc::new(Self { ram, machine: Arc::downgrade(machine), gate })
    }

    /// Whoever waits there tries again.
    fn lets_go(&self, range: PageRange) {
        let released = self.gate.release(range);
        if let Some(machine) = self.machine.upgrade() {
            released.into_iter().for_each(|access| machine.access(access));
        }
    }

    fn all(&self) -> PageRange {
        PageRange::new(0, self.ram.pages())
    }

    /// The pages that are missing get these contents.
    fn fill(&self, range: PageRange, contents: Option<&[u8]>) -> io::Result<u64> {
        let mut provided = 0;
        {
            let mut state = self.gate.state();
            let is_known =
                state.registered.as_ref().is_some_and(|set| set.count_in(range) == range.count);
            let missing = state.missing.as_mut().filter(|_| is_known);
            let Some(missing) = missing else {
                return Err(io::Error::from_raw_os_error(NOT_REGISTERED));
            };
            let runs: Vec<PageRange> = missing.runs_in(range).collect();
            for run in runs {
                if let Some(contents) = contents {
                    let at = |page: u64| {
                        usize::try_from((page - range.start) * memory::PAGE_SIZE)
                            .expect("RAM is small")
                    };
                    self.ram.slice(run)?.copy_from(&contents[at(run.start)..at(run.end())]);
                }
                missing.remove(run);
                provided += run.count;
            }
        }
        self.lets_go(range);
        Ok(provided)
    }
}

impl Pager for Gatekeeper {
    fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    fn unit(&self) -> u64 {
        1
    }

    fn register(&self, range: PageRange) -> io::Result<()> {
        let mut state = self.gate.state();
        let State { registered, missing, .. } = &mut *state;
        for set in [registered, missing] {
            set.get_or_insert_with(|| PageSet::new(self.ram.pages())).insert(range);
        }
        Ok(())
    }

    fn unregister_all(&self) -> io::Result<()> {
        {
            let mut state = self.gate.state();
            (state.registered, state.missing) = (None, None);
            state.faults.clear();
        }
        self.lets_go(self.all());
        Ok(())
    }

    fn provide(&self, range: PageRange, contents: &[u8]) -> io::Result<u64> {
        self.fill(range, Some(contents))
    }

    fn provide_zero(&self, range: PageRange) -> io::Result<u64> {
        self.fill(range, None)
    }

    fn wake(&self, range: PageRange) -> io::Result<()> {
        self.lets_go(range);
        Ok(())
    }
}

impl Protector for Gatekeeper {
    fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    fn unit(&self) -> u64 {
        1
    }

    fn protect(&self, range: PageRange) -> io::Result<()> {
        let mut state = self.gate.state();
        match &mut state.protects {
            Some(0) => {
                state.protects = None;
                return Err(io::Error::from_raw_os_error(NO_MEMORY));
            }
            Some(more) => *more -= 1,
            None => {}
        }
        state.protected.get_or_insert_with(|| PageSet::new(self.ram.pages())).insert(range);
        drop(state);
        if let Some(machine) = self.machine.upgrade() {
            // 15 ms for each GiB.
            machine.life.takes(range.count * 60);
        }
        Ok(())
    }

    fn let_through(&self, range: PageRange) -> io::Result<()> {
        self.gate.state().protected.iter_mut().for_each(|set| set.remove(range));
        self.lets_go(range);
        Ok(())
    }

    fn unregister(&self) -> io::Result<()> {
        {
            let mut state = self.gate.state();
            state.protected = None;
            state.faults.clear();
        }
        self.lets_go(self.all());
        Ok(())
    }
}
