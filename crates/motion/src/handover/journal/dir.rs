//! A journal of one file per record.

use super::{Journal, JournalError};
use crate::handover::record::MAX_RECORD_LEN;
use crate::handover::{Decision, Key, Record, Role};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

/// How long a decided record that nobody claims is kept.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// So many times somebody is let look at a record before it is taken over.
const MOST_LOOKS: u32 = 200;

/// A journal of one file per record, `handover-TOKEN-ROLE`, in a folder that is private to the user.
///
/// A file is written beside its name and renamed into place, so that a reader finds the old record
/// or the new one. There is no fsync: a record has to outlive the process, not the host. Its process
/// holds a lock on the file (`flock`) for as long as it lives, whatever its end; that is how others
/// know whether they may speak for it.
#[derive(Debug)]
pub struct DirJournal {
    folder: PathBuf,
    owned: HashMap<Key, File>,
}

impl DirJournal {
    /// The journal in a folder, which must exist.
    ///
    /// # Errors
    /// [`JournalError::Io`]
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, JournalError> {
        let folder = folder.into();
        fs::read_dir(&folder).map_err(failed("open the folder of", &folder))?;
        Ok(Self { folder, owned: HashMap::new() })
    }

    /// Removes what no living process claims and what nobody will ask about any more: decided records
    /// that are more than seven days old, and files that were never completed. Records without a
    /// decision stay until someone decides. Returns how many files went.
    ///
    /// # Errors
    /// [`JournalError::Io`]
    pub fn sweep(&mut self, now: SystemTime) -> Result<usize, JournalError> {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let is_old = |since| since_1970.saturating_sub(Duration::from_millis(since)) > KEPT_FOR;
        let mut removed = 0;
        for key in self.list()? {
            // Whoever reads an unreadable or claimed record next will say so; sweeping is no reason.
            let Ok(Some(record)) = self.get(key) else { continue };
            if record.decision != Decision::Open
                && is_old(record.particulars.since())
                && !self.owned.contains_key(&key)
                && let Ok(Some(_)) = self.adopt(key)
            {
                self.remove(key)?;
                removed += 1;
            }
        }
        for path in self.paths()?.filter(|path| name_of(path).is_some_and(is_unfinished)) {
            let age =
                fs::metadata(&path).and_then(|m| m.modified()).map(|at| now.duration_since(at));
            if let Ok(Ok(age)) = age
                && age > KEPT_FOR
            {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Whether the process that a record belongs to is dead, and no other has taken it over. False where
    /// there is no record.
    ///
    /// # Errors
    /// [`JournalError::Io`]
    pub fn is_orphan(&self, key: Key) -> Result<bool, JournalError> {
        let path = self.path(key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(failed("open", &path)(e)),
        };
        // Whoever wants to take it over while this is held waits for so long: see `adopt`.
        match file.try_lock_shared() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(failed("lock", &path)(e)),
        }
    }

    fn path(&self, key: Key) -> PathBuf {
        self.folder.join(format!("handover-{}-{}", key.token, key.role.name()))
    }

    fn paths(&self) -> Result<impl Iterator<Item = PathBuf>, JournalError> {
        let entries = fs::read_dir(&self.folder)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(failed("list the folder of", &self.folder))?;
        Ok(entries.into_iter().map(|entry| entry.path()))
    }

    /// Writes a file that is locked before anybody can find it under its name.
    fn write(&self, path: &Path, unfinished: &Path, bytes: &[u8]) -> io::Result<File> {
        let create =
            || OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished);
        let mut file = match create() {
            // Left by a process that died in the middle of this.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                fs::remove_file(unfinished)?;
                create()?
            }
            other => other?,
        };
        file.try_lock().map_err(io::Error::from)?;
        file.write_all(bytes)?;
        fs::rename(unfinished, path)?;
        Ok(file)
    }
}

impl Journal for DirJournal {
    fn put(&mut self, record: &Record) -> Result<(), JournalError> {
        let key = record.key();
        let path = self.path(key);
        if !self.owned.contains_key(&key) && fs::symlink_metadata(&path).is_ok() {
            return Err(JournalError::InUse(path));
        }
        let unfinished =
            self.folder.join(format!(".handover-{}-{}.new", key.token, key.role.name()));
        match self.write(&path, &unfinished, &record.encode()) {
            Ok(file) => {
                self.owned.insert(key, file);
                Ok(())
            }
            Err(e) => {
                // It may not even exist; the error to tell is the first one.
                let _ = fs::remove_file(&unfinished);
                Err(failed("write", &path)(e))
            }
        }
    }

    fn remove(&mut self, key: Key) -> Result<(), JournalError> {
        let path = self.path(key);
        if self.owned.remove(&key).is_none() {
            return match fs::symlink_metadata(&path) {
                Ok(_) => Err(JournalError::InUse(path)),
                Err(_) => Ok(()),
            };
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    fn get(&self, key: Key) -> Result<Option<Record>, JournalError> {
        let path = self.path(key);
        match File::open(&path) {
            Ok(file) => read(&file, &path, key).map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("open", &path)(e)),
        }
    }

    fn adopt(&mut self, key: Key) -> Result<Option<Record>, JournalError> {
        let path = self.path(key);
        let mut looks = 0;
        loop {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(failed("open", &path)(e)),
            };
            match file.try_lock() {
                Ok(()) => {}
                // Who only looks shares it, and not for long.
                Err(TryLockError::WouldBlock)
                    if looks < MOST_LOOKS && file.try_lock_shared().is_ok() =>
                {
                    drop(file);
                    looks += 1;
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Err(JournalError::InUse(path)),
                Err(TryLockError::Error(e)) => return Err(failed("lock", &path)(e)),
            }
            // A process that lives may have replaced the file in between, and so let go of this one.
            let opened = file.metadata().map_err(failed("look at", &path))?;
            let current = fs::metadata(&path);
            if current.is_ok_and(|now| (now.dev(), now.ino()) == (opened.dev(), opened.ino())) {
                let record = read(&file, &path, key)?;
                self.owned.insert(key, file);
                return Ok(Some(record));
            }
        }
    }

    fn list(&self) -> Result<Vec<Key>, JournalError> {
        Ok(self.paths()?.filter_map(|path| key_of(name_of(&path)?)).collect())
    }
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> JournalError + 'a {
    move |source| JournalError::Io { doing, path: path.to_owned(), source }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn key_of(name: &str) -> Option<Key> {
    let (token, role) = name.strip_prefix("handover-")?.split_once('-')?;
    let role = [Role::Source, Role::Destination].into_iter().find(|r| r.name() == role)?;
    Some(Key { token: token.parse().ok()?, role })
}

fn is_unfinished(name: &str) -> bool {
    name.strip_prefix('.')
        .and_then(|name| name.strip_suffix(".new"))
        .is_some_and(|name| key_of(name).is_some())
}

fn read(file: &File, path: &Path, key: Key) -> Result<Record, JournalError> {
    let mut bytes = Vec::new();
    // One byte more than a record can have, so that a longer file is seen to be longer.
    file.take(MAX_RECORD_LEN as u64 + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    let record = Record::decode(&bytes)
        .and_then(|record| {
            let filed_right = record.key() == key;
            filed_right.then_some(record).ok_or(crate::handover::RecordError::Damaged(
                "it is about another handover than its name says",
            ))
        })
        .map_err(|source| JournalError::Record { path: path.to_owned(), source })?;
    Ok(record)
}
