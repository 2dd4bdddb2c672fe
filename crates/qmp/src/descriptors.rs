//! Descriptors that a client has passed and named.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::carry::Packer;
use crate::error::Error;
use crate::saved::SavedNamed;

/// The named descriptors of one client. They close with the client, unless taken before.
#[derive(Debug, Clone)]
pub(crate) struct Descriptors {
    named: Arc<Mutex<BTreeMap<String, OwnedFd>>>,
    limit: usize,
}

impl Descriptors {
    pub(crate) fn new(limit: usize) -> Self {
        Self { named: Arc::default(), limit }
    }

    /// `getfd`: names a descriptor; one that had the name before is closed.
    pub(crate) fn insert(&self, name: &str, fd: Option<OwnedFd>) -> Result<(), Error> {
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Error::invalid(format!(
                "getfd: a descriptor's name may not be empty or start with a digit, as `{name}` does"
            )));
        }
        let fd = fd.ok_or_else(|| {
            Error::invalid("getfd: no descriptor came with this command; pass one with SCM_RIGHTS")
        })?;
        let mut named = self.lock();
        if named.len() >= self.limit && !named.contains_key(name) {
            return Err(Error::invalid(format!(
                "getfd: this client has named {} descriptors, which is the most it may; close one \
                 with closefd",
                named.len()
            )));
        }
        named.insert(name.to_owned(), fd);
        Ok(())
    }

    /// `closefd`: closes a named descriptor.
    pub(crate) fn close(&self, name: &str) -> Result<(), Error> {
        self.take(name).map(drop)
    }

    /// Hands a named descriptor to whoever uses it; the name is free again.
    pub(crate) fn take(&self, name: &str) -> Result<OwnedFd, Error> {
        self.lock().remove(name).ok_or_else(|| {
            Error::invalid(format!(
                "no descriptor is named `{name}` on this connection; pass one with getfd"
            ))
        })
    }

    /// What is needed to have them in another process, in the order of their names.
    pub(crate) fn save(&self, packer: &mut Packer) -> io::Result<Vec<SavedNamed>> {
        // The limit is the server's.
        let Self { named: _, limit: _ } = self;
        self.lock()
            .iter()
            .map(|(name, fd)| {
                Ok(SavedNamed { name: name.clone(), descriptor: packer.pack(fd.as_fd())? })
            })
            .collect()
    }

    /// Has them, if one client could.
    pub(crate) fn restore(named: Vec<(String, OwnedFd)>, limit: usize) -> Result<Self, String> {
        let descriptors = Self::new(limit);
        let count = named.len();
        for (name, fd) in named {
            descriptors.insert(&name, Some(fd)).map_err(|error| error.desc)?;
        }
        if descriptors.lock().len() < count {
            return Err("two of its descriptors have the same name".to_owned());
        }
        Ok(descriptors)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        // Nothing can panic half way through a change of the map.
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
