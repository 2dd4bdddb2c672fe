//! The host's end of the serial line: where console output goes and input comes from.
//!
//! The guest never waits for whoever reads its console: output goes into a bounded queue, and the
//! event loop's thread writes it out. A reader that does not read costs the oldest output, which is
//! counted; only a console on a file makes the guest wait, and no longer than a moment. Input is
//! read only as far as the UART has room, so that it is held back where it comes from.
//!
//! A console is *frozen* whenever its machine might not be the one that runs: from when it is
//! opened until [`Console::thaw`], and from [`Console::freeze`] on. Frozen, it neither writes nor
//! reads. What is unwritten then belongs to whoever runs the guest next.
//!
//! Where the guest goes on in another process of this host, so does the host's end of its console:
//! [`Console::ends`] gives it, a [vacant](Console::vacant) console there [adopts](Console::adopt) it,
//! and until one of the two is thawed the other can be. No byte is lost by that: from then on nothing is
//! read, so what was not read waits in the kernel, and what was read is in the UART; output is written
//! where the guest runs until that console is frozen, and what was not written is in [`SavedConsole`].

mod backend;
mod ends;
mod escape;
mod output;
mod saved;
mod spec;
mod terminal;
mod worker;

pub use ends::{
    SavedConsoleEnd, SavedDescriptor, SavedKind, SavedRole, SavedSocket, SavedTerminal,
};
pub use output::OUTPUT_CAPACITY;
pub use saved::SavedConsole;
pub use spec::{Spec, SpecError};
pub use terminal::restore_terminal;

use crate::event_loop::{Doorbell, Handle};
use crate::uart::{Line, Uart};
use crate::{InvalidState, lock};
use backend::Backend;
use output::Output;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use worker::{Quit, Worker};

/// How long a guest waits for a file that takes no more output.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a console could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// A system call failed.
    #[error("opening the console {spec} failed at {action}: {source}")]
    Open {
        /// The console.
        spec: Spec,
        /// What was being done.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another process listens on the socket.
    #[error("the console socket {} is in use by another process: choose another path", .0.display())]
    InUse(PathBuf),
    /// The path of the socket is taken by something else.
    #[error("the console socket {} cannot be made: a file that is no socket is there", .0.display())]
    NotASocket(PathBuf),
    /// What came from another process is not what it should be.
    #[error("taking over the console {spec} from another process failed: {reason}")]
    Adopt {
        /// The console.
        spec: Spec,
        /// What is wrong with it.
        reason: String,
    },
}

/// What the UART, the event loop and the machine share.
struct Shared {
    spec: Spec,
    /// Known as soon as there is a host's end.
    location: OnceLock<PathBuf>,
    output: Mutex<Output>,
    /// Told whenever output was written.
    written: Condvar,
    bell: Doorbell,
    /// The guest had no room for input, and we are to be told when it has.
    starved: AtomicBool,
    uart: Mutex<Weak<Mutex<Uart>>>,
    /// Losing output is worse than holding up the guest for a moment. Only for a console without
    /// input: the guest waits with its UART locked.
    patient: bool,
    /// Output is thrown away.
    off: bool,
}

impl Line for Shared {
    fn send(&self, bytes: &[u8]) {
        if self.off {
            return;
        }
        let mut output = lock(&self.output);
        let mut ring = output.is_empty();
        for byte in bytes {
            if self.patient && output.is_full() {
                self.bell.ring();
                ring = true; // all of it may be written when the wait is over
                let full = |output: &mut Output| output.is_full();
                let waited = self.written.wait_timeout_while(output, PATIENCE, full);
                output = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            output.push(*byte);
        }
        drop(output);
        if ring {
            self.bell.ring();
        }
    }

    fn drained(&self) {
        if self.starved.swap(false, Ordering::AcqRel) {
            self.bell.ring();
        }
    }
}

/// A console. Clones are the same one; it closes with the last of them.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
    worker: Arc<Mutex<Worker>>,
}

impl Console {
    /// Opens what `spec` says, frozen. `quit` is called on the event loop's thread when a person
    /// at a terminal types Ctrl-A x.
    ///
    /// # Errors
    /// [`ConsoleError`], and nothing is left behind.
    pub fn open(
        spec: &Spec,
        events: &Handle,
        quit: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, ConsoleError> {
        Self::on(backend::open(spec)?, spec, events, Box::new(quit))
    }

    /// A console that has no host's end yet, frozen: another process has it, and this one is to
    /// [adopt](Self::adopt) it. `quit` is as for [`Self::open`].
    ///
    /// # Errors
    /// [`ConsoleError`].
    pub fn vacant(
        spec: &Spec,
        events: &Handle,
        quit: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, ConsoleError> {
        Self::on(Backend::default(), spec, events, Box::new(quit))
    }

    fn on(
        backend: Backend,
        spec: &Spec,
        events: &Handle,
        quit: Quit,
    ) -> Result<Self, ConsoleError> {
        let failed = |source| ConsoleError::Open {
            spec: spec.clone(),
            action: "registering it with the event loop",
            source,
        };
        let shared = Arc::new(Shared {
            spec: spec.clone(),
            location: backend.location.clone().map_or_else(OnceLock::new, OnceLock::from),
            output: Mutex::new(Output::default()),
            written: Condvar::new(),
            bell: Doorbell::new().map_err(failed)?,
            starved: AtomicBool::new(false),
            uart: Mutex::new(Weak::new()),
            patient: matches!(spec, Spec::File(_)),
            off: matches!(spec, Spec::Off),
        });
        let worker = Worker::start(backend, shared.clone(), events, quit).map_err(failed)?;
        Ok(Self { shared, worker })
    }

    /// The UART's end of the line.
    #[must_use]
    pub fn line(&self) -> Arc<dyn Line> {
        self.shared.clone()
    }

    /// Says which UART takes the input from now on: a machine that was built for a guest that did
    /// not come makes room for the next.
    pub fn connect(&self, uart: &Arc<Mutex<Uart>>) {
        *lock(&self.shared.uart) = Arc::downgrade(uart);
        self.shared.bell.ring();
    }

    /// Where people find it: the pseudo-terminal, the socket or the file. None yet while it is
    /// [vacant](Self::vacant).
    #[must_use]
    pub fn location(&self) -> Option<&Path> {
        self.shared.location.get().map(PathBuf::as_path)
    }

    /// How many bytes of output were lost because nobody took them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        lock(&self.shared.output).forgotten()
    }

    /// Begins to write and read: the guest runs here. What was [given](Self::ends) to another process,
    /// or [adopted](Self::adopt) from it, is this process's from now on, and the other must
    /// [leave](Self::leave) it or end.
    pub fn thaw(&self) {
        lock(&self.worker).thaw();
        self.shared.bell.ring();
    }

    /// Stops writing and reading, and gives what is unwritten. When this returns, nothing is under
    /// way. Not to be called with the UART locked: input may be on its way to it.
    #[must_use]
    pub fn freeze(&self) -> SavedConsole {
        lock(&self.worker).freeze();
        SavedConsole { unwritten: lock(&self.shared.output).to_vec() }
    }

    /// Takes over what was unwritten elsewhere. It is written after [`Self::thaw`].
    ///
    /// # Errors
    /// [`InvalidState`] when there is more of it than a console can have.
    pub fn restore(&self, saved: SavedConsole) -> Result<(), InvalidState> {
        let unwritten = saved.check()?;
        if !self.shared.off {
            let mut output = lock(&self.shared.output);
            output.clear();
            unwritten.into_iter().for_each(|byte| output.push(byte));
        }
        Ok(())
    }

    /// Forgets what is unwritten: the machine runs elsewhere now, and it is written there.
    pub fn discard(&self) {
        lock(&self.shared.output).clear();
    }

    /// Everything that the host's end consists of, for another process of this host: what it is, and
    /// duplicates of its descriptors in the order of [`SavedConsoleEnd::descriptors`]. Clients are not
    /// let in and nothing is read from now on, and nothing of it is cleaned up when this process ends,
    /// until it is [thawed](Self::thaw) after all; or it is [left](Self::leave). Output goes on being
    /// written until it is [frozen](Self::freeze), which it has to be before the other is thawed.
    ///
    /// # Errors
    /// What the kernel said; nothing has changed then.
    pub fn ends(&self) -> io::Result<(SavedConsoleEnd, Vec<OwnedFd>)> {
        lock(&self.worker).lend()
    }

    /// Another process goes on with it: closes everything here and forgets what is unwritten, and
    /// neither hangs up on anybody, nor removes the socket, nor gives the terminal back.
    pub fn leave(&self) {
        lock(&self.worker).leave();
        self.discard();
    }

    /// Takes what another process has [given](Self::ends), into a console that is
    /// [vacant](Self::vacant). Nothing is read, written, let in or cleaned up before [`Self::thaw`]: a
    /// console that is dropped before leaves the other process's as it was.
    ///
    /// # Errors
    /// [`ConsoleError::Adopt`] when it is not what this console is to be, or a descriptor is not
    /// what it should be. It is vacant then.
    pub fn adopt(
        &self,
        saved: SavedConsoleEnd,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), ConsoleError> {
        let spec = &self.shared.spec;
        let refused = |reason| ConsoleError::Adopt { spec: spec.clone(), reason };
        let (backend, lost) = saved.check(spec, descriptors).map_err(refused)?;
        let location = backend.location.clone();
        lock(&self.worker).adopt(backend).map_err(|reason| refused(reason.to_owned()))?;
        if let Some(location) = location {
            self.shared.location.get_or_init(|| location);
        }
        lock(&self.shared.output).add_forgotten(lost);
        Ok(())
    }

    /// Waits until all output is written, but no longer than `limit`, and not where nobody takes
    /// it: for the end of a machine.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut output = lock(&self.shared.output);
        while !output.is_empty() && Instant::now() < deadline {
            drop(output);
            if !lock(&self.worker).can_write() {
                return;
            }
            output = lock(&self.shared.output);
            // The wait is short, since whoever takes the output can go away meanwhile.
            let step = Duration::from_millis(20);
            let more = |output: &mut Output| !output.is_empty();
            let waited = self.shared.written.wait_timeout_while(output, step, more);
            output = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("location", &self.location()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
