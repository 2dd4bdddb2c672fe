//! Replacing the program of a process, which stays the same process.
//!
//! The guest takes a detour. It goes over to a child that runs the new program, which is rehearsal and
//! guardian in one: it has built the whole machine, and the guest runs there. Then this process executes the
//! new program, which takes its address space apart while nobody waits for it, and takes the guest over
//! from the child as from any other process. If anything is wrong with the new image (it crashes, hangs,
//! refuses, or cannot be executed) the guest runs on in the child.

use super::channel::{Channel, Kind};
use super::namespace;
use crate::Error;
use devices::lock;
use motion::ErrorReport;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getppid, pidfd_open, pidfd_send_signal, waitpid,
};
use state::Code;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a process is told whose machine is to come back to the process before it.
const WORDS: [&str; 3] = ["run", "--incoming", "update:stdin"];
/// How long an image that does not take its machine may need to let go of what it has of it.
const TURNING: Duration = Duration::from_secs(5);

/// What is to be executed once the child has the guest.
pub(crate) struct Image {
    program: PathBuf,
    /// This process's end of the channel on which the machine comes back.
    back: OwnedFd,
}

impl Image {
    /// The image, and the other end of its channel, which is the child's.
    pub fn of(program: &Path) -> Result<(Self, OwnedFd), Error> {
        let failed = |e| Error::host("cannot make a channel for the new image", &e);
        let (back, there) = Channel::pair().map_err(failed)?;
        let back = back.into_inner();
        Ok((Self { program: program.to_owned(), back }, there))
    }

    /// Becomes it. Only these descriptors are kept: stdin, which is the channel, stdout and stderr. Returns
    /// only if it cannot be, and then as soon as this process may end without ending the guest.
    pub fn execute(self) -> io::Error {
        let Self { program, back } = self;
        if let Err(error) = rustix::stdio::dup2_stdin(&back) {
            return error.into();
        }
        tracing::info!(program = %program.display(), "becoming the new program");
        let error = Command::new(&program).args(WORDS).exec();
        if namespace::is_first() {
            tracing::error!(%error, "this process only waits for the others of its PID namespace now");
            // The child is to hear that nobody is at the other end.
            drop(back);
            let nothing = std::fs::File::open("/dev/null").map(rustix::stdio::dup2_stdin);
            if !matches!(nothing, Ok(Ok(()))) {
                tracing::warn!(?nothing, "letting go of the channel");
            }
            namespace::outlive_the_others();
        }
        error
    }
}

/// The program of this process as it runs, whatever has become of its file.
pub(super) fn running_program() -> io::Result<OwnedFd> {
    std::fs::File::open("/proc/self/exe").map(OwnedFd::from)
}

/// Becomes the program that this process was before: the new one refuses its machine. Returns only if that
/// cannot be.
pub(super) fn execute_old(program: &OwnedFd, channel: impl AsFd) -> io::Error {
    if let Err(error) = rustix::stdio::dup2_stdin(channel) {
        return error.into();
    }
    Command::new(format!("/proc/self/fd/{}", program.as_raw_fd())).args(WORDS).exec()
}

/// The process that the machine is to go back to, as its child sees it.
pub(crate) struct Parent {
    process: OwnedFd,
    /// With it end all others of its PID namespace, this one too.
    pub is_first: bool,
    /// The channel to whatever it becomes.
    pub channel: Arc<Channel>,
    /// The program that it was.
    pub program: OwnedFd,
    /// That program by name and version.
    pub builder: String,
    /// It was read of whatever it has become that it does not take the machine.
    refuses: AtomicBool,
    /// Why the new program has not taken it.
    refusal: Mutex<Option<ErrorReport>>,
}

impl Parent {
    /// The parent of this process, if it is process `pid`.
    pub fn of(pid: u32, channel: OwnedFd, program: OwnedFd, builder: String) -> io::Result<Self> {
        let parent = getppid().filter(|parent| {
            u32::try_from(parent.as_raw_nonzero().get()).is_ok_and(|parent| parent == pid)
        });
        let parent =
            parent.ok_or_else(|| io::Error::other("its process is not this one's parent"))?;
        let process = pidfd_open(parent, PidfdFlags::empty())?;
        Ok(Self {
            process,
            is_first: pid == 1,
            channel: Arc::new(Channel::over(channel)),
            program,
            builder,
            refuses: AtomicBool::new(false),
            refusal: Mutex::default(),
        })
    }

    /// It was read that the machine is not taken.
    pub fn has_refused(&self) {
        self.refuses.store(true, Ordering::Release);
    }

    /// Whether what it has become, which did not take the machine for this reason, becomes the program again
    /// that it was: it says so before it does, and reads nothing any more from then on.
    pub fn turns_back(&self, error: &ErrorReport) -> bool {
        let mut refuses = self.refuses.swap(false, Ordering::AcqRel);
        // Whoever is silent has had its time.
        while !refuses && error.code != Code::LinkStalled {
            match self.channel.receive(TURNING) {
                Ok(Some(letter)) => refuses = letter.kind == Kind::Refused,
                Ok(None) | Err(_) => break,
            }
        }
        if refuses {
            lock(&self.refusal).get_or_insert_with(|| error.clone());
        }
        refuses
    }

    /// Why the machine goes back to the program that the process was and not to a new one.
    pub fn refusal(&self) -> Option<ErrorReport> {
        let ErrorReport { code, why } = lock(&self.refusal).clone()?;
        let why = format!(
            "the new image of the process does not take the machine back: {why}; it is the old program \
             again, and the guest goes on there"
        );
        Some(ErrorReport { code, why })
    }

    /// Makes sure that whatever it has become is gone.
    pub fn end(&self) {
        match pidfd_send_signal(&self.process, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(%error, "ending the image that did not take its machine"),
        }
    }
}

/// Waits for a child that had the guest meanwhile, so that nothing of it is left.
pub(super) fn reap(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    // Not a child of this process, unless it was one before this became the new program.
    while let Err(rustix::io::Errno::INTR) = waitpid(Some(pid), WaitOptions::empty()) {}
}
