//! How a file comes to its name: as a whole, and only when it is complete.

use crate::WriteError;
use crate::storage::{Failure, Storage, failure, not_regular};
use memory::fuse::{self, Act, Course};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// The file holds a guest's memory: nobody else is to read it.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Longest name of a file, in bytes (`NAME_MAX`).
const LONGEST: usize = 255;

/// Where a snapshot goes.
#[derive(Debug)]
pub(crate) enum Place {
    /// To a path of its own, beside which it waits to be complete.
    Beside(Beside),
    /// Into a file that is there already and belongs to somebody else.
    Within,
}

/// A file that waits beside its path.
///
/// Where the file system can, it has no name at all until it is complete (`O_TMPFILE`): what a
/// `kill -9` leaves behind then is nothing. Elsewhere it has a name in the same folder that says what
/// it is and whose.
#[derive(Debug)]
pub(crate) struct Beside {
    folder: OwnedFd,
    path: PathBuf,
    name: OsString,
    temporary: OsString,
    force: bool,
    is_named: AtomicBool,
}

impl Beside {
    /// Opens a new file that is to come to `path`.
    pub(crate) fn open(
        path: &Path,
        force: bool,
        direct: bool,
        snapshot: Uuid,
    ) -> Result<(Self, OwnedFd), WriteError> {
        // Through a link, the file that it leads to is replaced and not the link.
        let path = match path.symlink_metadata() {
            Ok(about) if about.is_symlink() => {
                path.canonicalize().map_err(|source| io(path, "following the link", source))?
            }
            _ => path.to_owned(),
        };
        let name = path
            .file_name()
            .ok_or_else(|| io(&path, "looking at its name", Errno::ISDIR.into()))?
            .to_owned();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(parent, flags, Mode::empty())
            .map_err(|e| io(parent, "opening the folder", e.into()))?;
        let temporary = temporary(&name, snapshot);
        let is_named = AtomicBool::new(false);
        let this = Self { folder, path, name, temporary, force, is_named };
        this.check_free()?;
        let file = this.create(direct)?;
        Ok((this, file))
    }

    /// What is there already must be a file that may be replaced.
    fn check_free(&self) -> Result<(), WriteError> {
        match rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(io(&self.path, "looking whether it exists", error.into())),
            Ok(about) => match not_regular(about.st_mode) {
                Some(what) => {
                    Err(WriteError::NotRegular { name: self.path.display().to_string(), what })
                }
                None if self.force => Ok(()),
                None => Err(self.exists()),
            },
        }
    }

    fn exists(&self) -> WriteError {
        WriteError::Exists(self.path.display().to_string())
    }

    fn create(&self, direct: bool) -> Result<OwnedFd, WriteError> {
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
        if direct {
            flags |= OFlags::DIRECT;
        }
        // A file without a name is only good if it can be given one in the end, which is tried with
        // an empty one. An attempt with O_DIRECT says nothing about whether this is possible.
        if self.can_be_nameless()
            && let Ok(file) = rustix::fs::openat(&self.folder, ".", flags | OFlags::TMPFILE, MODE)
        {
            return Ok(file);
        }
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        match rustix::fs::openat(&self.folder, &self.temporary, flags, MODE) {
            Ok(file) => {
                self.is_named.store(true, Ordering::Relaxed);
                Ok(file)
            }
            Err(error) => {
                // With O_DIRECT, some file systems refuse only when the file has been created.
                if error == Errno::INVAL && direct {
                    let _ = rustix::fs::unlinkat(&self.folder, &self.temporary, AtFlags::empty());
                }
                Err(io(&self.path, "creating a file beside it", error.into()))
            }
        }
    }

    fn can_be_nameless(&self) -> bool {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
        let Ok(file) = rustix::fs::openat(&self.folder, ".", flags, MODE) else { return false };
        let can = self.link(&file).is_ok();
        if can {
            let _ = rustix::fs::unlinkat(&self.folder, &self.temporary, AtFlags::empty());
        }
        can
    }

    /// Gives a file without a name the temporary one.
    fn link(&self, file: &OwnedFd) -> rustix::io::Result<()> {
        use std::os::fd::AsRawFd;
        match rustix::fs::linkat(file, "", &self.folder, &self.temporary, AtFlags::EMPTY_PATH) {
            // Older kernels want CAP_DAC_READ_SEARCH for that, open(2) says what to do instead.
            Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let follow = AtFlags::SYMLINK_FOLLOW;
                rustix::fs::linkat(rustix::fs::CWD, path, &self.folder, &self.temporary, follow)
            }
            result => result,
        }
    }

    /// Brings the file, which is complete and durable, to its name, durably.
    pub(crate) fn publish(&self, storage: &Storage) -> Result<(), WriteError> {
        let failed = |action| move |e: Errno| io(&self.path, action, e.into());
        if !self.is_named.load(Ordering::Relaxed) {
            let action = "naming what is complete";
            fuse::pass(Act::Name).map_err(|e| io(&self.path, action, e))?;
            self.link(storage.file()).map_err(failed(action))?;
            self.is_named.store(true, Ordering::Relaxed);
        }
        let action = "bringing it to its name";
        fuse::pass(Act::Publish { name: &self.name }).map_err(|e| io(&self.path, action, e))?;
        let (from, to) = (&self.temporary, &self.name);
        let renamed = if self.force {
            rustix::fs::renameat(&self.folder, from, &self.folder, to)
        } else {
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&self.folder, from, &self.folder, to, flags) {
                // Not every file system can: a link refuses to replace, too.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    rustix::fs::linkat(&self.folder, from, &self.folder, to, AtFlags::empty())
                        .and_then(|()| rustix::fs::unlinkat(&self.folder, from, AtFlags::empty()))
                }
                result => result,
            }
        };
        match renamed {
            Err(Errno::EXIST) => return Err(self.exists()),
            result => result.map_err(failed(action))?,
        }
        self.sync_folder().map_err(|failure| self.error(failure))
    }

    /// Removes whatever name the file has, durably. It may be gone already.
    pub(crate) fn remove(&self, storage: &Storage) -> Result<(), WriteError> {
        let action = "removing it";
        let own = rustix::fs::fstat(storage.file())
            .map_err(|e| io(&self.path, "looking at it", e.into()))?;
        let mut removed = false;
        for name in [&self.temporary, &self.name] {
            let found = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW);
            // What is there may be somebody else's.
            let is_own =
                |about: &rustix::fs::Stat| (about.st_dev, about.st_ino) == (own.st_dev, own.st_ino);
            if found.is_ok_and(|about| is_own(&about)) {
                fuse::pass(Act::Remove { name }).map_err(|e| io(&self.path, action, e))?;
                rustix::fs::unlinkat(&self.folder, name, AtFlags::empty())
                    .map_err(|e| io(&self.path, action, e.into()))?;
                removed = true;
            }
        }
        if removed { self.sync_folder().map_err(|failure| self.error(failure)) } else { Ok(()) }
    }

    fn sync_folder(&self) -> Result<(), Failure> {
        let failed = failure("making its name durable (fsync of the folder)");
        match fuse::pass(Act::SyncFolder).map_err(&failed)? {
            Course::Done | Course::Part(_) => {
                rustix::fs::fsync(&self.folder).map_err(|e| failed(e.into()))
            }
            Course::Skipped => Ok(()),
        }
    }

    fn error(&self, failure: Failure) -> WriteError {
        io(&self.path, failure.action, failure.source)
    }
}

/// A name beside `name` that says what it is: `.NAME.whimbrel-1a2b3c4d.part`.
fn temporary(name: &std::ffi::OsStr, snapshot: Uuid) -> OsString {
    let end = format!(".whimbrel-{}.part", &snapshot.simple().to_string()[..8]);
    let mut bytes = vec![b'.'];
    bytes.extend_from_slice(&name.as_bytes()[..name.len().min(LONGEST - 1 - end.len())]);
    bytes.extend_from_slice(end.as_bytes());
    OsString::from_vec(bytes)
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> WriteError {
    WriteError::Io { name: path.display().to_string(), action, offset: None, source }
}
