//! Where a snapshot is read from.

use crate::ReadError;
use crate::storage::{Failure, Storage, not_regular};
use memory::PAGE_SIZE;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// Where a snapshot is.
#[derive(Debug)]
pub enum Origin {
    /// At a path.
    Path {
        /// The path.
        path: PathBuf,
        /// Where in the file it begins, in bytes.
        offset: u64,
    },
    /// In an open file.
    Descriptor {
        /// The file.
        file: OwnedFd,
        /// The same file, opened with `O_DIRECT`.
        direct: Option<OwnedFd>,
        /// Where in the file it begins, in bytes.
        offset: u64,
        /// What to call it in messages.
        name: String,
    },
}

/// A file that is being read: one descriptor, from the first byte to the last.
#[derive(Debug)]
pub(crate) struct Opened {
    pub storage: Storage,
    pub name: String,
    /// Where it was found, if at a path.
    pub path: Option<PathBuf>,
    device: u64,
    inode: u64,
    /// Whether it was opened for writing, too.
    pub is_writable: bool,
}

impl Opened {
    /// Opens a file; around the page cache if that is asked for and can be had.
    pub(crate) fn open(origin: Origin, direct: bool) -> Result<Self, ReadError> {
        let (file, offset, name, path) = match origin {
            Origin::Path { path, offset } => {
                let name = path.display().to_string();
                let direct = direct && offset.is_multiple_of(PAGE_SIZE);
                let file =
                    open_path(&path, direct).map_err(|e| io(&name, "opening it", e.into()))?;
                (file, offset, name, Some(path))
            }
            Origin::Descriptor { file, direct: around, offset, name } => {
                let around = around.filter(|_| direct && offset.is_multiple_of(PAGE_SIZE));
                if let Some(around) = &around
                    && identity(around, &name)? != identity(&file, &name)?
                {
                    let source = std::io::Error::other("they are of different files");
                    return Err(io(&name, "looking at its two descriptors", source));
                }
                (around.unwrap_or(file), offset, name, None)
            }
        };
        let about = rustix::fs::fstat(&file).map_err(|e| io(&name, "looking at it", e.into()))?;
        if let Some(what) = not_regular(about.st_mode) {
            return Err(ReadError::NotRegular { name, what });
        }
        let flags = rustix::fs::fcntl_getfl(&file).unwrap_or(OFlags::RDONLY);
        Ok(Self {
            storage: Storage::new(file, offset),
            name,
            path,
            device: about.st_dev,
            inode: about.st_ino,
            is_writable: flags.intersects(OFlags::RDWR | OFlags::WRONLY),
        })
    }

    /// Length of the file in bytes, and how many it takes on disk.
    pub(crate) fn size(&self) -> Result<(u64, u64), ReadError> {
        let about = rustix::fs::fstat(self.storage.file())
            .map_err(|e| io(&self.name, "looking at it", e.into()))?;
        let number = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok((number(about.st_size), number(about.st_blocks).saturating_mul(512)))
    }

    /// Whether the file still has `needed` bytes, and is what its path leads to.
    pub(crate) fn check(&self, needed: u64) -> Result<(), ReadError> {
        let (found, _) = self.size()?;
        if found < needed {
            return Err(ReadError::Truncated { name: self.name.clone(), needed, found });
        }
        let Some(path) = &self.path else { return Ok(()) };
        match rustix::fs::stat(path) {
            Ok(now) if (now.st_dev, now.st_ino) == (self.device, self.inode) => Ok(()),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {
                Err(ReadError::Replaced(self.name.clone()))
            }
            Err(error) => Err(io(&self.name, "looking at its path", error.into())),
        }
    }

    /// Fills `bytes` from `at`, bytes from the start of the snapshot.
    pub(crate) fn read(
        &self,
        action: &'static str,
        bytes: &mut [u8],
        at: u64,
    ) -> Result<(), ReadError> {
        self.storage.read(action, bytes, at).map_err(|failure| self.error(failure))
    }

    fn error(&self, failure: Failure) -> ReadError {
        let Failure { action, offset, source } = failure;
        ReadError::Io { name: self.name.clone(), action, offset, source }
    }

    /// The same file opened once more, for writing: with an open file of its own, which shares no
    /// lock with a descriptor that others may have a copy of.
    pub(crate) fn writable(&self) -> std::io::Result<OwnedFd> {
        use std::os::fd::AsRawFd;
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match &self.path {
            Some(path) => Ok(rustix::fs::open(path, flags, Mode::empty())?),
            // Whoever handed over a descriptor for reading only did not mean it to be written.
            None if !self.is_writable => Err(Errno::BADF.into()),
            None => {
                let path = format!("/proc/self/fd/{}", self.storage.file().as_raw_fd());
                rustix::fs::open(path, flags, Mode::empty())
                    .or_else(|_| rustix::io::dup(self.storage.file()))
                    .map_err(Into::into)
            }
        }
    }

    /// Whether `file` is this one.
    pub(crate) fn is(&self, file: impl AsFd) -> bool {
        rustix::fs::fstat(file)
            .is_ok_and(|about| (about.st_dev, about.st_ino) == (self.device, self.inode))
    }
}

/// Opens for reading only, without waiting where the path leads to a pipe.
fn open_path(path: &std::path::Path, direct: bool) -> Result<OwnedFd, Errno> {
    let plain = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if direct {
        match rustix::fs::open(path, plain | OFlags::DIRECT, Mode::empty()) {
            Err(Errno::INVAL) => {}
            opened => return opened,
        }
    }
    rustix::fs::open(path, plain, Mode::empty())
}

fn identity(file: &OwnedFd, name: &str) -> Result<(u64, u64), ReadError> {
    let about = rustix::fs::fstat(file).map_err(|e| io(name, "looking at it", e.into()))?;
    Ok((about.st_dev, about.st_ino))
}

pub(crate) fn io(name: &str, action: &'static str, source: std::io::Error) -> ReadError {
    ReadError::Io { name: name.to_owned(), action, offset: None, source }
}
