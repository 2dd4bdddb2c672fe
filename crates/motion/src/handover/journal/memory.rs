//! A journal without a disk.

use super::{Journal, JournalError};
use crate::handover::{Key, Record};
use std::collections::BTreeMap;

/// A journal in memory: for what need not outlive the process, for tests and simulation. It can be
/// told to fail, and outlives what a test calls a process if the test keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct MemoryJournal {
    records: BTreeMap<Key, Record>,
    /// How many of the next writes fail.
    pub failures: u32,
}

impl Journal for MemoryJournal {
    fn put(&mut self, record: &Record) -> Result<(), JournalError> {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(JournalError::ToldTo);
        }
        self.records.insert(record.key(), record.clone());
        Ok(())
    }

    fn remove(&mut self, key: Key) -> Result<(), JournalError> {
        self.records.remove(&key);
        Ok(())
    }

    fn get(&self, key: Key) -> Result<Option<Record>, JournalError> {
        Ok(self.records.get(&key).cloned())
    }

    fn adopt(&mut self, key: Key) -> Result<Option<Record>, JournalError> {
        self.get(key)
    }

    fn list(&self) -> Result<Vec<Key>, JournalError> {
        Ok(self.records.keys().copied().collect())
    }
}
