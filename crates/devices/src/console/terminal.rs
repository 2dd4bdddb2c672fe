//! The terminal that a person sits at, in raw mode, and given back as it was.

use super::escape::Escape;
use crate::lock;
use rustix::termios::{
    self, LocalModes, OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetpgrp,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// The terminal that is in raw mode, and what it was before.
static RAW: Mutex<Option<(Arc<OwnedFd>, Termios)>> = Mutex::new(None);

/// Gives the terminal back as it was. Does nothing where it is not in raw mode.
///
/// Dropping the console does this. It is for whoever ends the process without that: a handler of
/// SIGTERM, a panic hook, `std::process::exit`.
pub fn restore_terminal() {
    if let Some((terminal, before)) = lock(&RAW).take()
        && let Err(error) = termios::tcsetattr(&*terminal, OptionalActions::Now, &before)
    {
        tracing::warn!(%error, "the terminal could not be given back as it was; try `reset`");
    }
}

/// A terminal that a person types at.
pub(super) struct Terminal {
    pub raw: RawMode,
    pub escape: Escape,
}

impl Terminal {
    /// Puts `terminal` into raw mode.
    pub fn enter(terminal: Arc<OwnedFd>) -> io::Result<Self> {
        Ok(Self { raw: RawMode::enter(terminal)?, escape: Escape::default() })
    }
}

/// A terminal in raw mode for as long as this lives, unless it is [disclaimed](Self::disclaim).
pub(super) struct RawMode {
    pub terminal: Arc<OwnedFd>,
    pub before: Termios,
}

impl RawMode {
    /// Puts `terminal` into raw mode: every key goes to the guest, and nothing is echoed. Output
    /// is still cooked, so that messages of ours do not run down the screen in steps.
    fn enter(terminal: Arc<OwnedFd>) -> io::Result<Self> {
        let mut raw = lock(&RAW);
        check_free(raw.as_ref())?;
        let before = tcgetattr(&*terminal)?;
        let mut modes = before.clone();
        modes.make_raw();
        modes.output_modes.insert(OutputModes::OPOST);
        modes.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(&*terminal, OptionalActions::Now, &modes)?;
        *raw = Some((terminal.clone(), before.clone()));
        Ok(Self { terminal, before })
    }

    /// A terminal that another process has put into raw mode. It is that one's to give back until
    /// it is [claimed](Self::claim).
    pub fn adopt(terminal: Arc<OwnedFd>, before: Termios) -> io::Result<Self> {
        check_free(lock(&RAW).as_ref())?;
        Ok(Self { terminal, before })
    }

    /// From now on the terminal is for this process to give back.
    pub fn claim(&self) {
        *lock(&RAW) = Some((self.terminal.clone(), self.before.clone()));
    }

    /// From now on the terminal is another process's to give back: it stays raw.
    pub fn disclaim(&self) {
        lock(&RAW).take_if(|(terminal, _)| Arc::ptr_eq(terminal, &self.terminal));
    }

    fn is_claimed(&self) -> bool {
        let raw = lock(&RAW);
        raw.as_ref().is_some_and(|(terminal, _)| Arc::ptr_eq(terminal, &self.terminal))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if self.is_claimed() {
            restore_terminal();
        }
    }
}

fn check_free(raw: Option<&(Arc<OwnedFd>, Termios)>) -> io::Result<()> {
    match raw {
        Some(_) => Err(io::Error::other("another console of this process has its terminal")),
        None => Ok(()),
    }
}

/// Whose terminal this is. One that belongs to another job would stop this process for reading
/// from it or setting it up.
pub(super) fn ownership(fd: impl AsFd) -> Ownership {
    if !isatty(&fd) {
        return Ownership::NoTerminal;
    }
    match tcgetpgrp(&fd) {
        Ok(foreground) if foreground != rustix::process::getpgrp() => Ownership::InBackground,
        // Not the terminal that controls us: nobody else's jobs run there.
        _ => Ownership::Ours,
    }
}

/// Whose terminal it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    NoTerminal,
    Ours,
    InBackground,
}
