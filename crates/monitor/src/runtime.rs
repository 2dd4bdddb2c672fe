//! The runtime folder: where running machines of one user are found by name.
//!
//! Per machine it holds `NAME.lock`, locked for as long as its process lives, and `NAME.sock`, its
//! control socket. `handover/` beside them holds the records of handovers.

use crate::{Error, MachineName};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, ftruncate, lstat, open};
use rustix::io::{Errno, pwrite};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use state::Code;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a look at whether a name is free may hold it.
const LOOK_TIME: Duration = Duration::from_millis(200);
/// How long a machine that was told to end may take.
const END_TIME: Duration = Duration::from_secs(10);

/// Names another runtime folder.
pub const RUNTIME_DIR: &str = "WHIMBREL_RUNTIME_DIR";

/// The runtime folder of this user.
#[derive(Debug, Clone)]
pub struct RuntimeDir(PathBuf);

impl RuntimeDir {
    /// The folder that the environment names: `WHIMBREL_RUNTIME_DIR`, for root `/run/whimbrel`, for
    /// others `$XDG_RUNTIME_DIR/whimbrel`, else one of their own in `/tmp`.
    ///
    /// # Errors
    /// When it cannot be made, or is not this user's alone: whoever could put a socket there would
    /// be taken for a machine.
    pub fn from_environment() -> Result<Self, Error> {
        let uid = geteuid();
        let path = if let Some(path) = std::env::var_os(RUNTIME_DIR).filter(|p| !p.is_empty()) {
            PathBuf::from(path)
        } else if uid.is_root() {
            PathBuf::from("/run/whimbrel")
        } else if let Some(base) = std::env::var_os("XDG_RUNTIME_DIR").filter(|p| !p.is_empty()) {
            Path::new(&base).join("whimbrel")
        } else {
            PathBuf::from(format!("/tmp/whimbrel-{}", uid.as_raw()))
        };
        Self::at(&path)
    }

    /// A folder of that path, made if need be.
    ///
    /// # Errors
    /// As of [`RuntimeDir::from_environment`].
    pub fn at(path: &Path) -> Result<Self, Error> {
        let doing = || format!("cannot use the runtime folder {}", path.display());
        let path = std::path::absolute(path).map_err(|e| Error::host(doing(), &e))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|e| Error::host(format!("{}; set {RUNTIME_DIR} to another", doing()), &e))?;
        let meta = path.symlink_metadata().map_err(|e| Error::host(doing(), &e))?;
        if !meta.is_dir() || meta.uid() != geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(Error::new(
                Code::HostIo,
                format!(
                    "{}: it must be a folder that is yours and that nobody else may write to; set \
                     {RUNTIME_DIR} to another",
                    doing()
                ),
            ));
        }
        Ok(Self(path))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The control socket of a machine.
    #[must_use]
    pub fn socket(&self, name: &MachineName) -> PathBuf {
        self.0.join(format!("{name}.sock"))
    }

    /// Where a machine in the background writes what it has to say.
    #[must_use]
    pub fn log(&self, name: &MachineName) -> PathBuf {
        self.0.join(format!("{name}.log"))
    }

    /// The folder of handover records, made if need be.
    ///
    /// # Errors
    /// As of [`RuntimeDir::at`].
    pub fn handovers(&self) -> Result<PathBuf, Error> {
        Ok(Self::at(&self.0.join("handover"))?.0)
    }

    fn lock(&self, name: &MachineName) -> PathBuf {
        self.0.join(format!("{name}.lock"))
    }

    /// Takes a name for as long as the claim lives. What a dead process left behind is removed.
    ///
    /// # Errors
    /// [`Code::NameTaken`] when a live process has it.
    pub fn claim(&self, name: &MachineName) -> Result<Claim, Error> {
        let deadline = Instant::now() + LOOK_TIME;
        loop {
            if let Some(claim) = self.try_claim(name)? {
                return Ok(claim);
            }
            if Instant::now() > deadline {
                return Err(Error::new(
                    Code::NameTaken,
                    format!(
                        "a machine named `{name}` is running already; choose another --name, or \
                         end it with `whimbrel kill {name}`"
                    ),
                ));
            }
            // It may only be somebody who looks whether it is free.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes a name if nobody has it. To be able to is to know that its process is dead, so this is
    /// also how that is found out.
    fn try_claim(&self, name: &MachineName) -> Result<Option<Claim>, Error> {
        let doing = || format!("cannot take the name `{name}`");
        let lock = lock_file(&self.lock(name)).map_err(|e| Error::host(doing(), &e))?;
        let Some(lock) = lock else { return Ok(None) };
        remove(&self.socket(name)).map_err(|e| Error::host(doing(), &e))?;
        ftruncate(&lock, 0)
            .and_then(|()| pwrite(&lock, std::process::id().to_string().as_bytes(), 0))
            .map_err(|e| Error::host(doing(), &e.into()))?;
        Ok(Some(Claim { lock, files: [self.socket(name), self.lock(name)] }))
    }

    /// Ends the process of a machine, whatever it is doing, and removes what it leaves behind.
    ///
    /// # Errors
    /// [`Code::NoSuchMachine`] when there is none; [`Code::HostIo`] when it cannot be ended.
    pub fn kill(&self, name: &MachineName) -> Result<(), Error> {
        let doing = || format!("cannot end the process of `{name}`");
        let pid = std::fs::read_to_string(self.lock(name)).ok();
        let pid = pid.and_then(|text| Pid::from_raw(text.parse().ok()?));
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // While its owner holds the lock, the number in it is its owner's and nobody else's.
        let (Some(process), None) = (process, self.try_claim(name)?) else {
            return Err(Error::new(
                Code::NoSuchMachine,
                format!("no machine named `{name}` is running here; see `whimbrel list`"),
            ));
        };
        match pidfd_send_signal(&process, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => self.wait_gone(name),
            Err(errno) => Err(Error::host(doing(), &errno.into())),
        }
    }

    /// Waits until the name is free, because the machine that had it has ended.
    ///
    /// # Errors
    /// When it has not after [`END_TIME`].
    pub fn wait_gone(&self, name: &MachineName) -> Result<(), Error> {
        let deadline = Instant::now() + END_TIME;
        while self.try_claim(name)?.is_none() {
            if Instant::now() > deadline {
                return Err(Error::new(
                    Code::HostIo,
                    format!(
                        "`{name}` has not ended within {END_TIME:?}; `whimbrel kill --force \
                         {name}` ends its process"
                    ),
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The names of all machines whose processes live, sorted. Files of dead ones are removed.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(&self) -> Result<Vec<MachineName>, Error> {
        let doing = || format!("cannot read the runtime folder {}", self.0.display());
        let mut names = Vec::new();
        for entry in self.0.read_dir().map_err(|e| Error::host(doing(), &e))? {
            let file = entry.map_err(|e| Error::host(doing(), &e))?.file_name();
            let name = file.to_str().and_then(|f| f.strip_suffix(".lock"));
            let Some(name) = name.and_then(|n| n.parse::<MachineName>().ok()) else { continue };
            if self.try_claim(&name)?.is_none() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

/// A name taken, until dropped.
#[derive(Debug)]
pub struct Claim {
    lock: OwnedFd,
    /// Removed while the lock is still held.
    files: [PathBuf; 2],
}

impl Claim {
    /// A descriptor of the lock, which keeps the name taken for whoever has it.
    ///
    /// # Errors
    /// When the process has none left.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.lock.try_clone()
    }

    /// Goes on with the name of a process that this one replaces, whose lock this is.
    ///
    /// # Errors
    /// When it is not the lock of that name, or it cannot be written to.
    pub(crate) fn adopt(
        runtime: &RuntimeDir,
        name: &MachineName,
        lock: OwnedFd,
    ) -> Result<Self, Error> {
        let doing = || format!("cannot take over the name `{name}`");
        let path = runtime.lock(name);
        let (ours, there) = (fstat(&lock), lstat(&path));
        let is_it = matches!((&ours, &there), (Ok(ours), Ok(there))
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino));
        if !is_it {
            let why = format!("{}: {} is not what is locked", doing(), path.display());
            return Err(Error::new(Code::HostIo, why));
        }
        let pid = std::process::id().to_string();
        ftruncate(&lock, 0)
            .and_then(|()| pwrite(&lock, pid.as_bytes(), 0))
            .map_err(|e| Error::host(doing(), &e.into()))?;
        Ok(Self { lock, files: [runtime.socket(name), path] })
    }

    /// Another process has the name from now on: its files stay.
    pub(crate) fn leave(mut self) {
        self.files = Default::default();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        for file in self.files.iter().filter(|file| !file.as_os_str().is_empty()) {
            if let Err(error) = remove(file) {
                tracing::warn!(file = %file.display(), %error, "cannot remove");
            }
        }
    }
}

/// Locks a file, making it if need be. `None` when another process has it locked.
fn lock_file(path: &Path) -> io::Result<Option<OwnedFd>> {
    loop {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = open(path, flags, Mode::RUSR | Mode::WUSR)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        // The one who had it may have removed the file since we opened it: then our lock is on
        // a file that nobody else will ever look at.
        let (ours, there) = (fstat(&file)?, lstat(path));
        if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)) {
            return Ok(Some(file));
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    fn folder() -> (tempfile::TempDir, RuntimeDir) {
        let temp = tempfile::tempdir().unwrap();
        let runtime = RuntimeDir::at(&temp.path().join("run")).unwrap();
        (temp, runtime)
    }

    fn name(text: &str) -> MachineName {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_taken_once_and_free_again_when_its_owner_is_gone() {
        let (_temp, runtime) = folder();
        let claim = runtime.claim(&name("a")).unwrap();
        let error = runtime.claim(&name("a")).unwrap_err();
        assert_eq!(error.code, Code::NameTaken);
        assert!(error.message.contains("whimbrel kill a"), "{error}");
        let _other = runtime.claim(&name("b")).unwrap();
        drop(claim);
        let _again = runtime.claim(&name("a")).unwrap();
    }

    #[test]
    fn whoever_looks_at_the_names_does_not_take_one() {
        let (_temp, runtime) = folder();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    runtime.names().unwrap();
                }
            });
            let claims: Vec<_> = (0..200).map(|_| runtime.claim(&name("a")).map(drop)).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(claims.iter().all(Result::is_ok), "{claims:?}");
        });
    }

    #[test]
    fn files_of_dead_processes_are_cleaned_and_only_living_ones_listed() {
        let (_temp, runtime) = folder();
        let _alive = runtime.claim(&name("alive")).unwrap();
        write(runtime.socket(&name("alive")), "").unwrap();
        for file in ["dead.lock", "dead.sock"] {
            write(runtime.path().join(file), "").unwrap();
        }
        write(runtime.path().join("not a name.lock"), "").unwrap();
        assert_eq!(runtime.names().unwrap(), [name("alive")]);
        assert!(runtime.socket(&name("alive")).exists());
        assert!(!runtime.path().join("dead.lock").exists());
        assert!(!runtime.path().join("dead.sock").exists());
        assert!(runtime.path().join("not a name.lock").exists());
    }

    #[test]
    fn nothing_of_a_machine_stays_behind() {
        let (_temp, runtime) = folder();
        let claim = runtime.claim(&name("a")).unwrap();
        write(runtime.socket(&name("a")), "").unwrap();
        drop(claim);
        assert_eq!(runtime.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let (_temp, runtime) = folder();
        set_permissions(runtime.path(), Permissions::from_mode(0o770)).unwrap();
        let error = RuntimeDir::at(runtime.path()).unwrap_err();
        assert!(error.message.contains("nobody else may write"), "{error}");
        assert!(error.message.contains(RUNTIME_DIR), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let (temp, _runtime) = folder();
        let file = temp.path().join("file");
        write(&file, "").unwrap();
        let error = RuntimeDir::at(&file.join("x")).unwrap_err();
        assert!(error.message.contains("file/x"), "{error}");
    }
}
