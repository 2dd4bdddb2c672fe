//! A host's journal of handovers: it outlives processes, it can fail, and a record belongs to the
//! process that wrote it for as long as that lives, as in `DirJournal`.

use crate::book::Book;
use crate::life::{Life, Pid};
use crate::scenario::Ailment;
use motion::handover::{Decision, Journal, JournalError, Key, MemoryJournal, Record, Role, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    journal: MemoryJournal,
    owners: BTreeMap<Key, Pid>,
    dead: BTreeSet<Pid>,
    /// How many removals fail next.
    stuck: u32,
    /// What is there cannot be read.
    torn: bool,
    /// Nobody can say what is there.
    unlisted: bool,
    /// Records whose last write failed.
    unwritten: BTreeSet<Key>,
}

/// The disk as one process sees it.
pub struct ProcessJournal {
    pub disk: Disk,
    pub life: Arc<Life>,
    pub book: Book,
    /// A mutant: it says that it has written, and has not.
    pub lies: Option<(Role, Decision)>,
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while holding it")
    }

    /// It fails so many times; where reading does, until it is mended.
    pub fn fail(&self, ailment: Ailment, times: u32) {
        let mut state = self.state();
        match ailment {
            Ailment::Full => state.journal.failures = times,
            Ailment::ReadOnly => (state.journal.failures, state.stuck) = (times, times),
            Ailment::Torn => state.torn = true,
            Ailment::Unlisted => state.unlisted = true,
        }
    }

    pub fn heal(&self) {
        let mut state = self.state();
        (state.journal.failures, state.stuck) = (0, 0);
        (state.torn, state.unlisted) = (false, false);
    }

    /// The host died: nothing is left.
    pub fn lose(&self) {
        let mut state = self.state();
        state.journal = MemoryJournal::default();
        state.owners.clear();
    }

    /// A process is dead: its records can be adopted.
    pub fn died(&self, pid: Pid) {
        self.state().dead.insert(pid);
    }

    /// What stands there, whoever it belongs to.
    pub fn decision(&self, token: Token, role: Role) -> Option<Decision> {
        let state = self.state();
        state.journal.get(Key { token, role }).ok().flatten().map(|record| record.decision)
    }

    /// Whether it stands there, unless the disk failed to write it.
    pub fn has(&self, token: Token, role: Role, decisions: &[Decision]) -> bool {
        let found = self.decision(token, role);
        found.is_some_and(|decision| decisions.contains(&decision))
            || self.state().unwritten.contains(&Key { token, role })
    }

    /// Keys of this role that belong to nobody alive.
    pub fn orphans(&self, role: Role) -> Vec<Key> {
        let state = self.state();
        let keys = state.journal.list().unwrap_or_default();
        keys.into_iter().filter(|key| key.role == role && state.owner(*key).is_none()).collect()
    }
}

impl State {
    fn owner(&self, key: Key) -> Option<Pid> {
        self.owners.get(&key).copied().filter(|pid| !self.dead.contains(pid))
    }
}

impl ProcessJournal {
    fn in_use(&self, key: Key) -> bool {
        self.disk.state().owner(key).is_some_and(|owner| owner != self.life.pid)
    }
}

impl Journal for ProcessJournal {
    fn put(&mut self, record: &Record) -> Result<(), JournalError> {
        if !self.life.acts() {
            return Ok(());
        }
        let (key, pid) = (record.key(), self.life.pid);
        let mut state = self.disk.state();
        let known = state.journal.get(key)?.is_some();
        if known && state.owners.get(&key) != Some(&pid) {
            return Err(JournalError::InUse("simulated".into()));
        }
        let lies = self.lies == Some((record.role, record.decision));
        let result = if lies { Ok(()) } else { state.journal.put(record) };
        self.book.note(|| {
            let (role, decision) = (record.role.name(), record.decision.name());
            format!("p{pid} records {role} {decision}: {result:?}")
        });
        if result.is_ok() {
            state.owners.insert(key, pid);
            state.unwritten.remove(&key);
        } else {
            state.unwritten.insert(key);
        }
        result
    }

    fn remove(&mut self, key: Key) -> Result<(), JournalError> {
        if !self.life.acts() {
            return Ok(());
        }
        let mut state = self.disk.state();
        if state.owners.get(&key) != Some(&self.life.pid) {
            return match state.journal.get(key)? {
                Some(_) => Err(JournalError::InUse("simulated".into())),
                None => Ok(()),
            };
        }
        if state.stuck > 0 {
            state.stuck -= 1;
            return Err(JournalError::ToldTo);
        }
        state.owners.remove(&key);
        self.book.note(|| format!("p{} forgets its {} record", self.life.pid, key.role.name()));
        state.journal.remove(key)
    }

    fn get(&self, key: Key) -> Result<Option<Record>, JournalError> {
        let state = self.disk.state();
        if state.torn { Err(JournalError::ToldTo) } else { state.journal.get(key) }
    }

    fn adopt(&mut self, key: Key) -> Result<Option<Record>, JournalError> {
        if self.in_use(key) {
            return Err(JournalError::InUse("simulated".into()));
        }
        let mut state = self.disk.state();
        if state.torn {
            return Err(JournalError::ToldTo);
        }
        let record = state.journal.get(key)?;
        if record.is_some() {
            state.owners.insert(key, self.life.pid);
        }
        Ok(record)
    }

    fn list(&self) -> Result<Vec<Key>, JournalError> {
        let state = self.disk.state();
        if state.unlisted { Err(JournalError::ToldTo) } else { state.journal.list() }
    }
}
