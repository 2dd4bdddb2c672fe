//! The process that takes over.

use super::channel::Channel;
use crate::Error;
use state::Code;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a process that was killed may take to be gone: the kernel takes its memory apart first.
const GONE: Duration = Duration::from_secs(10);

/// A process that was started to take over. It is ended with this value, unless it was
/// [let go](Self::let_go).
pub(super) struct Successor {
    child: Option<Child>,
    program: PathBuf,
}

impl Successor {
    /// Starts `program`. It gets its end of the channel where others read from.
    pub fn start(program: &Path) -> Result<(Self, Channel), Error> {
        let failed = |e: io::Error| {
            let doing = format!("cannot start the new binary {}", program.display());
            Error::host(doing, &e)
        };
        let (here, there) = Channel::pair().map_err(failed)?;
        let child = Command::new(program)
            .args(["run", "--incoming", "update:stdin"])
            .stdin(Stdio::from(there))
            .spawn()
            .map_err(failed)?;
        Ok((Self { child: Some(child), program: program.to_owned() }, here))
    }

    /// Why nothing comes from it any more, as far as that can be told.
    pub fn fate(&mut self) -> String {
        let status = self.wait(Duration::from_secs(1));
        let program = self.program.display();
        match status {
            Some(status) if status.code() == Some(2) => format!(
                "{program} ended ({status}): it does not understand how it was started, and may be \
                 too old to take a guest over"
            ),
            Some(status) => format!("{program} ended ({status})"),
            None => format!("{program} runs and says nothing"),
        }
    }

    /// It has the guest now.
    pub fn let_go(&mut self) {
        self.child = None;
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.as_mut().map(Child::try_wait) {
                Some(Ok(None)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Some(Ok(status)) => return status,
                Some(Err(error)) => {
                    tracing::warn!(%error, "looking after the new process");
                    return None;
                }
                None => return None,
            }
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.wait(Duration::ZERO).is_some() {
            return;
        }
        let Some(child) = &mut self.child else { return };
        if let Err(error) = child.kill() {
            tracing::warn!(%error, "ending the new process");
        }
        if self.wait(GONE).is_none() {
            tracing::error!(program = %self.program.display(), "the new process does not end");
        }
    }
}

/// The program of this process, as it lies on disk now: the one that replaced it, where it was.
pub(super) fn own_program() -> Result<PathBuf, Error> {
    let failed = |e: io::Error| Error::host("cannot find the binary of this process", &e);
    let path = std::env::current_exe().map_err(failed)?;
    // What the kernel says of a file that was removed or replaced (proc_pid_exe(5)).
    let text = path.to_string_lossy();
    match text.strip_suffix(" (deleted)") {
        Some(text) if !path.exists() => Ok(PathBuf::from(text)),
        _ => Ok(path),
    }
}

/// The channel of a process that another machine monitor has started, which is its stdin.
///
/// # Errors
/// When stdin is no socket.
pub fn channel_of_stdin() -> Result<OwnedFd, Error> {
    let failed = |e: rustix::io::Errno| Error::host("cannot use stdin as a channel", &e.into());
    let channel = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(failed)?;
    let kind = rustix::fs::fstat(&channel).map_err(failed)?.st_mode;
    if rustix::fs::FileType::from_raw_mode(kind) != rustix::fs::FileType::Socket {
        let why = "`--incoming update:stdin` is for a process that another machine monitor starts: \
                   stdin is no socket";
        return Err(Error::new(Code::InvalidArgument, why));
    }
    Ok(channel)
}

/// The channel of a process that somebody else has started: the first connection to a Unix socket
/// there, for the owner of the process only. The socket's file is removed again.
///
/// # Errors
/// When the socket cannot be made.
pub fn channel_on(path: &Path) -> Result<OwnedFd, Error> {
    let doing = || format!("cannot wait for a machine to take over at {}", path.display());
    let failed = |e: io::Error| Error::host(doing(), &e);
    let address = links::Address::Unix(path.to_owned());
    let listener = links::Listener::bind(&address, &links::Descriptors::none())
        .map_err(|e| Error::new(e.code(), format!("{}: {e}", doing())))?;
    let stream = listener.accept(None).map_err(|e| failed(io::Error::other(e)))?;
    let gone = || failed(io::ErrorKind::NotConnected.into());
    std::os::fd::AsFd::as_fd(&stream.ok_or_else(gone)?).try_clone_to_owned().map_err(failed)
}
