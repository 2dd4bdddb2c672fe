//! Opening what a console is made of.

use super::escape::Escape;
use super::terminal::{Ownership, RawMode, ownership};
use super::{ConsoleError, Spec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::pty::OpenptFlags;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a person's typing means, and whom to tell.
pub(super) struct Keys {
    pub escape: Escape,
    pub quit: Box<dyn Fn() + Send + Sync>,
}

/// A descriptor and what it is for.
pub(super) struct Peer {
    pub fd: Arc<OwnedFd>,
    pub reads: bool,
    pub writes: bool,
}

/// What a console is made of.
#[derive(Default)]
pub(super) struct Backend {
    pub peers: Vec<Peer>,
    pub listener: Option<Listener>,
    pub keys: Option<Keys>,
    pub raw: Option<RawMode>,
    /// The other end of our pseudo-terminal, kept open so that it does not hang up whenever a
    /// reader goes away.
    pub slave: Option<OwnedFd>,
    pub location: Option<PathBuf>,
}

/// A listening socket, whose path is removed with it.
pub(super) struct Listener {
    pub fd: Arc<OwnedFd>,
    path: PathBuf,
    inode: u64,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have put another socket there since.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens what `spec` says.
pub(super) fn open(
    spec: &Spec,
    quit: Box<dyn Fn() + Send + Sync>,
) -> Result<Backend, ConsoleError> {
    let failed = |action: &'static str| {
        move |source: io::Error| ConsoleError::Open { spec: spec.clone(), action, source }
    };
    match spec {
        Spec::Off => Ok(Backend::default()),
        Spec::Stdio => {
            let (input, output) = (rustix::stdio::stdin(), rustix::stdio::stdout());
            stdio(input, output, quit).map_err(failed("setting up standard input and output"))
        }
        Spec::Pty => pty().map_err(failed("making a pseudo-terminal")),
        Spec::File(path) => {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            let fd = Arc::new(OwnedFd::from(file.map_err(failed("opening the file"))?));
            let peers = vec![Peer { fd, reads: false, writes: true }];
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
pub(super) fn stdio(
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    quit: Box<dyn Fn() + Send + Sync>,
) -> io::Result<Backend> {
    let mut backend = Backend::default();
    let owner = ownership(input);
    if owner == Ownership::InBackground {
        tracing::warn!("the terminal belongs to another job: the console takes no input");
    } else {
        let fd = Arc::new(input.try_clone_to_owned()?);
        if owner == Ownership::Ours {
            backend.raw = Some(RawMode::enter(fd.clone())?);
            backend.keys = Some(Keys { escape: Escape::default(), quit });
        }
        backend.peers.push(Peer { fd, reads: true, writes: false });
    }
    let fd = Arc::new(without_blocking(output)?);
    backend.peers.push(Peer { fd, reads: false, writes: true });
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
    let peers = vec![Peer { fd: Arc::new(master), reads: true, writes: true }];
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
    let listener = UnixListener::bind(path)?;
    let inode = std::fs::symlink_metadata(path)?.ino();
    let listener = Listener { fd: Arc::new(listener.into()), path: path.to_owned(), inode };
    // The console is its owner's alone, whatever the umask.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    rustix::io::ioctl_fionbio(listener.fd.as_fd(), true)?;
    Ok(listener)
}
