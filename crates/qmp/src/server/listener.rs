//! Listening sockets and their files.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, chmod, fcntl_getfl, lstat, unlink};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    getsockname, listen, socket_with,
};

use crate::carry::{AdoptError, Packer, Unpacker};
use crate::saved::{Identity, Role, SavedListener};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Why a control socket could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody listens there.
    #[error("cannot create the control socket {}: another process listens on it", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// There is a file, and it is no socket.
    #[error(
        "cannot create the control socket {}: there is a file of that name which is no socket; \
         remove it or choose another path",
        path.display()
    )]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot create the control socket {}: {step}: {source}", path.display())]
    System {
        /// Where.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The server has no descriptor left to be woken by.
    #[error("cannot create an event descriptor for the control server: {0}")]
    Resources(#[source] io::Error),
}

/// A listening socket. Its file is removed with it, unless another has taken its place.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Its file.
    file: Option<Identity>,
    /// Whether the file is this process's to remove.
    owned: bool,
}

impl Listener {
    pub(super) fn bind(path: &Path, mode: u32) -> Result<Self, BindError> {
        let failed = |step| {
            move |errno: Errno| BindError::System {
                path: path.to_owned(),
                step,
                source: errno.into(),
            }
        };
        let address = SocketAddrUnix::new(path)
            .map_err(failed("a socket's path has at most 107 bytes and no NUL"))?;
        remove_stale(path, &address)?;
        let socket = stream_socket().map_err(failed("creating a socket"))?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => return Err(BindError::InUse { path: path.to_owned() }),
            result => result.map_err(failed("binding it"))?,
        }
        let file = lstat(path).ok().as_ref().map(Identity::from);
        let listener = Self { socket, path: path.to_owned(), file, owned: true };
        // Nobody can connect before `listen`, so the mode is right when the first one can,
        // whatever the umask was.
        chmod(path, Mode::from_raw_mode(mode & 0o777)).map_err(failed("setting its mode"))?;
        listen(&listener.socket, BACKLOG).map_err(failed("listening on it"))?;
        Ok(listener)
    }

    /// What is needed to listen in another process.
    pub(super) fn save(&self, packer: &mut Packer) -> io::Result<SavedListener> {
        // Whoever has it owns the file, as soon as it is the one who serves.
        let Self { socket, path, file, owned: _ } = self;
        Ok(SavedListener {
            path: path.as_os_str().as_bytes().to_vec(),
            file: *file,
            socket: packer.pack(socket.as_fd())?,
        })
    }

    /// Listens in the place of another process. Until it is [owned](Self::own) the file is that
    /// one's.
    pub(super) fn adopt(saved: SavedListener, unpacker: &mut Unpacker) -> Result<Self, AdoptError> {
        let path = saved.path();
        let SavedListener { path: bytes, file, socket } = saved;
        let role = Role::Listener { path: path.clone() };
        let socket = unpacker.unpack_socket(role.clone(), socket, true)?;
        let bound = getsockname(&socket).and_then(SocketAddrUnix::try_from);
        let reason = if !bound.is_ok_and(|bound| bound.path_bytes() == Some(bytes.as_slice())) {
            "is bound elsewhere"
        } else if !fcntl_getfl(&socket).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK)) {
            "waits for clients"
        } else {
            return Ok(Self { socket, path, file, owned: false });
        };
        Err(AdoptError::Unfit { role, reason })
    }

    /// The file is this process's to remove from now on, or no longer.
    pub(super) fn own(&mut self, owned: bool) {
        self.owned = owned;
    }

    /// The next client, or `None` when no more wait.
    pub(super) fn accept(&self) -> Result<Option<OwnedFd>, Errno> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(client) => return Ok(Some(client)),
                Err(Errno::AGAIN) => return Ok(None),
                // The client has gone again, or a signal came: neither says anything of the next.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let now = lstat(&self.path).ok().as_ref().map(Identity::from);
        if self.owned && self.file.is_some() && now == self.file {
            let _ = unlink(&self.path);
        }
    }
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes a socket file that a process left behind when it ended without cleaning up.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    let failed = |step, errno: Errno| BindError::System {
        path: path.to_owned(),
        step,
        source: errno.into(),
    };
    match lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed("looking at what is there", errno)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let probe = stream_socket().map_err(|errno| failed("creating a socket", errno))?;
    match connect(&probe, address) {
        // EAGAIN: the queue of a listener is full, so there is one.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::InUse { path: path.to_owned() }),
        Err(Errno::CONNREFUSED) => match unlink(path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("removing a stale socket", errno)),
        },
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("asking whether anybody listens there", errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        for mode in [0o600, 0o666] {
            let listener = Listener::bind(&path, mode).unwrap();
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert!(metadata.file_type().is_socket());
            assert_eq!(metadata.permissions().mode() & 0o777, mode);
            UnixStream::connect(&path).unwrap();
            assert!(listener.accept().unwrap().is_some());
            assert!(listener.accept().unwrap().is_none());
            drop(listener);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        // The standard library leaves the file behind, as a killed process does.
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&path, 0o600).unwrap();
        assert!(matches!(Listener::bind(&path, 0o600), Err(BindError::InUse { .. })));
        UnixStream::connect(&path).unwrap();
        assert!(listener.accept().unwrap().is_some());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&path, 0o600), Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_path_that_cannot_be_is_an_error_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("x".repeat(108)), folder.path().join("no/such/folder")] {
            assert!(matches!(Listener::bind(&path, 0o600), Err(BindError::System { .. })));
        }
    }

    #[test]
    fn a_socket_that_another_has_replaced_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = Listener::bind(&path, 0o600).unwrap();
        fs::rename(&path, folder.path().join("aside")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }
}
