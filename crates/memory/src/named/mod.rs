//! RAM in a file with a name, which outlives the process and, on storage that lasts, the host's reboot.
//!
//! Beside the file lies its sidecar (`NAME.lock`), which whoever has the machine holds locked, and which
//! says what is in the file: whose RAM, and of which *generation*. The generation is raised, durably,
//! before a guest runs on the file, so that a state that was saved with it fits once and never again.

mod bus;
mod error;
mod probe;
mod sidecar;

use self::sidecar::{Record, Sidecar, failed, flock};
use crate::fuse::{self, Act, Course};
pub use error::MemoryFileError;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A named file that one machine's RAM lies in, locked for as long as this lives in any process.
#[derive(Debug)]
pub struct MemoryFile {
    file: File,
    path: PathBuf,
    sidecar: Sidecar,
    used: Mutex<Use>,
    /// Holes of it were never touched, and nothing else is a hole.
    tells_touched: bool,
    /// It was found too short.
    lost: AtomicBool,
}

/// How the file is used.
#[derive(Debug)]
struct Use {
    record: Record,
    /// Its generation was raised for the guest that runs on it.
    entered: bool,
    /// The sidecar may say more than `record`.
    in_doubt: bool,
    /// Others may have it by now.
    released: bool,
}

impl MemoryFile {
    /// Begins `size` bytes of RAM anew for a machine, named `identity`. What is in the file already is
    /// only given up when that was said (`discard`). There has to be room for all of it, unless it was
    /// said that it will not be needed (`overcommit`).
    ///
    /// # Errors
    /// [`MemoryFileError`]; what is in the file is as it was, or was discarded.
    pub fn create(
        path: &Path,
        size: u64,
        machine: [u8; 16],
        identity: [u8; 16],
        discard: bool,
        overcommit: bool,
    ) -> Result<Self, MemoryFileError> {
        let file = open(path, OFlags::CREATE)?;
        let sidecar = Sidecar::lock(path, true)?;
        let before = sidecar.read()?;
        let system = |action| move |e: io::Error| failed(action, path, e);
        let length = file.metadata().map_err(system("looking at"))?.len();
        if length > 0 && !discard {
            return Err(MemoryFileError::Occupied { path: path.to_owned() });
        }
        let sequence = before.map_or(0, |record| record.sequence) + 1;
        let record = Record { identity, machine, size, generation: 0, sequence };
        // First, so that no state that fitted what was there fits what comes.
        sidecar.write(&record).map_err(|e| failed("writing", sidecar.path(), e))?;
        file.set_len(0).map_err(system("emptying"))?;
        if !overcommit {
            has_room(&file, path, size)?;
        }
        file.set_len(size).map_err(system("sizing"))?;
        let folder = File::open(folder(path)).and_then(|folder| folder.sync_all());
        file.sync_all().and(folder).map_err(system("making durable"))?;
        Self::of(file, path, sidecar, record, false)
    }

    /// Opens one that holds a guest's RAM.
    ///
    /// # Errors
    /// [`MemoryFileError`]: it is in use, or what is in it is not known, or not all there.
    pub fn open(path: &Path) -> Result<Self, MemoryFileError> {
        let file = open(path, OFlags::empty())?;
        let sidecar = Sidecar::lock(path, false)?;
        let unknown = || MemoryFileError::Unknown { sidecar: sidecar.path().to_owned() };
        let record = sidecar.read()?.ok_or_else(unknown)?;
        Self::of(file, path, sidecar, record, false)
    }

    /// Takes over what another process of the same machine has open, with the locks that belong to it:
    /// the descriptors [`Self::as_fd`] and [`Self::sidecar_fd`] of its own. `entered` is what
    /// [`Self::has_entered`] says there.
    ///
    /// # Errors
    /// [`MemoryFileError`].
    pub fn inherit(
        path: &Path,
        file: OwnedFd,
        sidecar: OwnedFd,
        entered: bool,
    ) -> Result<Self, MemoryFileError> {
        let file = checked(File::from(file), path)?;
        let sidecar = Sidecar::inherit(sidecar.into(), path);
        flock(sidecar.file(), path)?;
        let unknown = || MemoryFileError::Unknown { sidecar: sidecar.path().to_owned() };
        let record = sidecar.read()?.ok_or_else(unknown)?;
        Self::of(file, path, sidecar, record, entered)
    }

    fn of(
        file: File,
        path: &Path,
        sidecar: Sidecar,
        record: Record,
        entered: bool,
    ) -> Result<Self, MemoryFileError> {
        // Under another name it has another sidecar.
        flock(&file, path)?;
        let found = file.metadata().map_err(|e| failed("looking at", path, e))?.len();
        if found != record.size {
            let why = format!("it is {found} bytes long, and the RAM in it {}", record.size);
            return Err(MemoryFileError::Other { path: path.to_owned(), why });
        }
        let tells_touched =
            probe::tells_touched(folder(path)).map_err(|e| failed("trying out", path, e))?;
        bus::explain();
        Ok(Self {
            file,
            path: path.to_owned(),
            sidecar,
            used: Mutex::new(Use { record, entered, in_doubt: false, released: false }),
            tells_touched,
            lost: AtomicBool::new(false),
        })
    }

    /// Whether it holds the RAM that a state was saved with, as it was then.
    ///
    /// # Errors
    /// [`MemoryFileError::Other`] or [`MemoryFileError::RanOn`].
    pub fn check_fits(
        &self,
        identity: [u8; 16],
        machine: [u8; 16],
        size: u64,
        generation: u64,
    ) -> Result<(), MemoryFileError> {
        let Record { identity: named, machine: of, size: has, generation: now, .. } =
            self.lock().record;
        let other = |why: String| Err(MemoryFileError::Other { path: self.path.clone(), why });
        if of != machine {
            return other("it holds the RAM of another machine".to_owned());
        }
        if named != identity {
            return other("the machine was booted anew in it since".to_owned());
        }
        if has != size {
            return other(format!("it holds {has} bytes of RAM, and the machine has {size}"));
        }
        if now < generation {
            return other(format!(
                "it is older: its generation is {now}, and the state is of {generation}"
            ));
        }
        if now > generation {
            let path = self.path.clone();
            return Err(MemoryFileError::RanOn { path, saved: generation, now });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Use> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of RAM in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.lock().record.size
    }

    /// Names what is in it.
    #[must_use]
    pub fn identity(&self) -> [u8; 16] {
        self.lock().record.identity
    }

    /// How often it was begun to run a guest on it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.lock().record.generation
    }

    /// Whether its generation was raised for the guest that runs on it, or did before it was stopped.
    #[must_use]
    pub fn has_entered(&self) -> bool {
        self.lock().entered
    }

    /// The descriptor of its sidecar, which holds a lock.
    #[must_use]
    pub fn sidecar_fd(&self) -> BorrowedFd<'_> {
        self.sidecar.file().as_fd()
    }

    /// Raises the generation, durably, unless that was done: a guest is about to run on it.
    ///
    /// # Errors
    /// What the kernel said. No guest may run then.
    pub fn enter(&self) -> io::Result<()> {
        let mut used = self.lock();
        if used.released {
            return Err(io::Error::other("it was let go, and another machine may have it by now"));
        }
        if used.entered {
            return Ok(());
        }
        let Record { generation, sequence, .. } = used.record;
        let next = Record { generation: generation + 1, sequence: sequence + 1, ..used.record };
        self.write(&mut used, next)?;
        used.entered = true;
        Ok(())
    }

    /// Says that the guest stands still and is about to be saved: when it runs again the generation is
    /// raised again. Gives the generation that its state is of.
    ///
    /// # Errors
    /// What the kernel said, where raising it failed before and it is not known to what it was raised.
    pub fn leave(&self) -> io::Result<u64> {
        let mut used = self.lock();
        if used.in_doubt {
            let again = Record { sequence: used.record.sequence + 2, ..used.record };
            self.write(&mut used, again)?;
        }
        used.entered = false;
        Ok(used.record.generation)
    }

    /// Lets others have it: no guest runs on it here any more. Not for a process whose machine another
    /// one has taken over, which has the same locks.
    pub fn release(&self) {
        let mut used = self.lock();
        used.released = true;
        for file in [&self.file, self.sidecar.file()] {
            if let Err(error) = rustix::fs::flock(file, FlockOperation::Unlock) {
                tracing::warn!(%error, path = %self.path.display(), "unlocking a memory file");
            }
        }
    }

    fn write(&self, used: &mut Use, record: Record) -> io::Result<()> {
        used.in_doubt = true;
        self.sidecar.write(&record)?;
        *used = Use { record, in_doubt: false, ..*used };
        Ok(())
    }

    /// Makes what the guest has written durable, where the file's storage is.
    ///
    /// # Errors
    /// What the kernel said. It may be that a part was lost.
    pub fn make_durable(&self) -> io::Result<()> {
        match fuse::pass(Act::Sync { file: self.file.as_fd() })? {
            Course::Skipped => Ok(()),
            Course::Done | Course::Part(_) => self.file.sync_data(),
        }
    }

    /// Why it would be gone after a reboot of the host, if it would.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn is_volatile(&self) -> io::Result<Option<&'static str>> {
        probe::is_volatile(&self.file)
    }

    /// Whether the file itself tells what of it was touched.
    pub(crate) fn tells_touched(&self) -> bool {
        self.tells_touched
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether the file still has all pages, and always had.
    ///
    /// # Errors
    /// That it has not, or what the kernel said.
    pub fn check(&self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.size() {
            self.lost.store(true, Ordering::Relaxed);
        }
        if !self.lost.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the memory file {} was cut short while RAM was mapped from it: what the guest had there \
             is lost, and it cannot go on",
            self.path.display()
        )))
    }
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn open(path: &Path, flags: OFlags) -> Result<File, MemoryFileError> {
    let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    checked(file.map_err(|e| failed("opening", path, e))?.into(), path)
}

/// A regular file of pages of 4 KiB: of others RAM cannot be mapped as it is used.
fn checked(file: File, path: &Path) -> Result<File, MemoryFileError> {
    let refused = |what| MemoryFileError::NotUsable { path: path.to_owned(), what };
    let about = rustix::fs::fstat(&file).map_err(|e| failed("looking at", path, e))?;
    let what = match FileType::from_raw_mode(about.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a folder"),
        FileType::CharacterDevice => Some("a device: use a file of a file system on it"),
        FileType::BlockDevice => Some("a block device: use a file of a file system on it"),
        _ => Some("no regular file"),
    };
    if let Some(what) = what {
        return Err(refused(what));
    }
    match probe::is_volatile(&file) {
        Ok(Some("hugetlbfs")) => Err(refused("on hugetlbfs, whose files do not last")),
        Ok(_) => Ok(file),
        Err(e) => Err(failed("looking at the file system of", path, e)),
    }
}

fn has_room(file: &File, path: &Path, size: u64) -> Result<(), MemoryFileError> {
    let about = rustix::fs::fstatvfs(file).map_err(|e| failed("looking for room for", path, e))?;
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    if free >= size {
        return Ok(());
    }
    Err(MemoryFileError::NoRoom { path: path.to_owned(), needed: size, free })
}

#[cfg(test)]
mod tests;
