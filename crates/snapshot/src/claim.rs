//! Marking a saved guest as continued.

use crate::buffer::Buffer;
use crate::origin::io;
use crate::places::CLAIM;
use crate::reader::Reader;
use crate::record::Claim;
use crate::storage::Storage;
use crate::{ClaimError, Damage, ReadError};
use memory::fuse::{self, Act, Course};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

impl Reader {
    /// Who has continued the guest, as of when the file was opened.
    #[must_use]
    pub fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref().ok().and_then(Option::as_ref)
    }

    /// What is wrong with the claim record, if it cannot be read. The guest may have been continued.
    #[must_use]
    pub fn claim_damage(&self) -> Option<&Damage> {
        self.claim.as_ref().err()
    }

    /// Marks the guest as continued, durably. Of several processes that try at once, one succeeds.
    /// With `replace`, a claim that is there, or was damaged, is overwritten.
    ///
    /// # Errors
    /// [`ClaimError`]. The guest must not run then.
    pub fn write_claim(&self, claim: &Claim, replace: bool) -> Result<(), ClaimError> {
        let name = || self.file.name.clone();
        let page = claim.page(self.header.snapshot).ok_or(ClaimError::Host)?;
        let file = self.open_to_claim()?;
        // Released when the descriptor is closed, whatever way this ends. A descriptor that shares
        // its open file with others would keep it; it is let go explicitly, too.
        let locking = |error| ClaimError::File(io(&self.file.name, "locking it", error));
        if fuse::pass(Act::Lock).map_err(locking)? == Course::Done {
            let exclusively = FlockOperation::NonBlockingLockExclusive;
            rustix::fs::flock(&file, exclusively).map_err(|error| match error {
                Errno::WOULDBLOCK => ClaimError::Contended(name()),
                error => locking(error.into()),
            })?;
        }
        let storage = Storage::new(file, self.file.storage.place(0));
        let done = self.claim_locked(&storage, &page, replace);
        let _ = rustix::fs::flock(storage.file(), FlockOperation::Unlock);
        done
    }

    /// Whether a claim can be written, so that nothing is built in vain. Writes nothing.
    ///
    /// # Errors
    /// [`ClaimError`], as far as it can be known beforehand.
    pub fn can_claim(&self) -> Result<(), ClaimError> {
        self.open_to_claim().map(drop)
    }

    fn open_to_claim(&self) -> Result<OwnedFd, ClaimError> {
        let name = || self.file.name.clone();
        self.check_identity().map_err(ClaimError::File)?;
        let file =
            self.file.writable().map_err(|source| ClaimError::ReadOnly { name: name(), source })?;
        if !self.file.is(&file) {
            return Err(ClaimError::File(ReadError::Replaced(name())));
        }
        Ok(file)
    }

    fn claim_locked(
        &self,
        storage: &Storage,
        page: &[u8],
        replace: bool,
    ) -> Result<(), ClaimError> {
        let name = || self.file.name.clone();
        let mut before = Buffer::new(1);
        storage.read("reading its claim record", before.as_mut_slice(), CLAIM).map_err(
            |failure| ClaimError::File(io(&self.file.name, failure.action, failure.source)),
        )?;
        match Claim::decode(before.as_slice(), self.header.snapshot) {
            _ if replace => {}
            Ok(None) => {}
            Ok(Some(Claim { host, .. })) => return Err(ClaimError::Claimed { name: name(), host }),
            Err(_) => return Err(ClaimError::Damaged(name())),
        }
        storage
            .write_padded("writing its claim record", page, CLAIM)
            .and_then(|()| storage.sync())
            .map_err(|failure| ClaimError::Io {
                name: name(),
                action: failure.action,
                source: failure.source,
            })
    }
}
