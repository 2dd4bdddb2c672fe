//! Opening what a console is made of.

use super::terminal::{Ownership, Terminal, ownership};
use super::{ConsoleError, Spec};
use crate::event_loop::Watch;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::pty::OpenptFlags;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A descriptor and what it is for.
pub(super) struct Peer {
    pub fd: Arc<OwnedFd>,
    pub reads: bool,
    pub writes: bool,
    pub watch: Option<Watch>,
}

impl Peer {
    pub fn new(fd: Arc<OwnedFd>, reads: bool, writes: bool) -> Self {
        Self { fd, reads, writes, watch: None }
    }
}

/// What a console is made of.
#[derive(Default)]
pub(super) struct Backend {
    pub peers: Vec<Peer>,
    pub listener: Option<Listener>,
    pub terminal: Option<Terminal>,
    /// The other end of our pseudo-terminal, kept open so that it does not hang up whenever a
    /// reader goes away.
    pub slave: Option<OwnedFd>,
    pub location: Option<PathBuf>,
}

impl Backend {
    /// Nothing was opened, or all of it is another process's now.
    pub fn is_vacant(&self) -> bool {
        let Self { peers, listener, terminal, slave, location } = self;
        peers.is_empty()
            && listener.is_none()
            && terminal.is_none()
            && slave.is_none()
            && location.is_none()
    }

    /// From now on it is this process that cleans up when the console closes.
    pub fn claim(&mut self) {
        if let Some(listener) = &mut self.listener {
            listener.is_ours = true;
        }
        if let Some(terminal) = &self.terminal {
            terminal.raw.claim();
        }
    }

    /// From now on it is not for this process to clean up: nothing of it shows when it is closed.
    pub fn disclaim(&mut self) {
        if let Some(listener) = &mut self.listener {
            listener.is_ours = false;
        }
        if let Some(terminal) = &self.terminal {
            terminal.raw.disclaim();
        }
    }
}

/// A listening socket, whose path is removed with it.
pub(super) struct Listener {
    pub fd: Arc<OwnedFd>,
    pub file: SocketFile,
    pub watch: Option<Watch>,
    /// Its path is for us to remove.
    pub is_ours: bool,
}

/// The path of a listening socket, and the file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocketFile {
    /// Absolute, so that whoever removes it may have another working folder.
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let SocketFile { path, device, inode } = &self.file;
        // Somebody may have put another socket there since.
        let is_there = |m: std::fs::Metadata| m.dev() == *device && m.ino() == *inode;
        if self.is_ours && std::fs::symlink_metadata(path).is_ok_and(is_there) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Opens what `spec` says.
pub(super) fn open(spec: &Spec) -> Result<Backend, ConsoleError> {
    let failed = |action: &'static str| {
        move |source: io::Error| ConsoleError::Open { spec: spec.clone(), action, source }
    };
    match spec {
        Spec::Off => Ok(Backend::default()),
        Spec::Stdio => {
            let (input, output) = (rustix::stdio::stdin(), rustix::stdio::stdout());
            stdio(input, output).map_err(failed("setting up standard input and output"))
        }
        Spec::Pty => pty().map_err(failed("making a pseudo-terminal")),
        Spec::File(path) => {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            let fd = Arc::new(OwnedFd::from(file.map_err(failed("opening the file"))?));
            let peers = vec![Peer::new(fd, false, true)];
            Ok(Backend { peers, location: Some(path.clone()), ..Backend::default() })
        }
        Spec::Unix(path) => {
            vacate(path)?;
            let listener = listen(path).map_err(failed("making the socket"))?;
            let location = Some(path.clone());
            Ok(Backend { listener: Some(listener), location, ..Backend::default() })
        }
    }
}

/// A console on two descriptors that belong to this process, such as its standard ones.
pub(super) fn stdio(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<Backend> {
    let mut backend = Backend::default();
    let owner = ownership(input);
    if owner == Ownership::InBackground {
        tracing::warn!("the terminal belongs to another job: the console takes no input");
    } else {
        let fd = Arc::new(input.try_clone_to_owned()?);
        if owner == Ownership::Ours {
            backend.terminal = Some(Terminal::enter(fd.clone())?);
        }
        backend.peers.push(Peer::new(fd, true, false));
    }
    let fd = Arc::new(without_blocking(output)?);
    backend.peers.push(Peer::new(fd, false, true));
    Ok(backend)
}

/// The same file, written without blocking where that is possible.
///
/// `O_NONBLOCK` belongs to the open file, which we share with the shell that started us and with
/// whoever else prints there, so terminals and pipes are opened anew. Where that is not allowed,
/// what is left is to write only after `poll` says that there is room.
fn without_blocking(output: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(output)?.st_mode);
    if matches!(kind, FileType::CharacterDevice | FileType::Fifo) {
        let path = format!("/proc/self/fd/{}", output.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) {
            return Ok(fd);
        }
    }
    output.try_clone_to_owned()
}

fn pty() -> io::Result<Backend> {
    let master =
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let path = rustix::pty::ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(&path, flags, Mode::empty())?;
    // Echo would come back to the guest as input.
    let mut modes = rustix::termios::tcgetattr(&slave)?;
    modes.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &modes)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    let location = PathBuf::from(path.into_string().map_err(io::Error::other)?);
    let peers = vec![Peer::new(Arc::new(master), true, true)];
    Ok(Backend { peers, slave: Some(slave), location: Some(location), ..Backend::default() })
}

/// Removes the socket of a process that is gone.
fn vacate(path: &Path) -> Result<(), ConsoleError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(ConsoleError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            // If it cannot be removed, making our own says why.
            let _ = std::fs::remove_file(path);
            Ok(())
        }
        _ => Err(ConsoleError::InUse(path.to_owned())),
    }
}

fn listen(path: &Path) -> io::Result<Listener> {
    let path = std::path::absolute(path)?;
    let listener = UnixListener::bind(&path)?;
    let metadata = std::fs::symlink_metadata(&path)?;
    let file = SocketFile { path, device: metadata.dev(), inode: metadata.ino() };
    let listener = Listener { fd: Arc::new(listener.into()), file, watch: None, is_ours: true };
    // The console is its owner's alone, whatever the umask.
    let owner_s = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&listener.file.path, owner_s)?;
    rustix::io::ioctl_fionbio(listener.fd.as_fd(), true)?;
    Ok(listener)
}
