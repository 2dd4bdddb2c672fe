//! The terminal that a person sits at, in raw mode, and given back as it was.

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

/// A terminal in raw mode for as long as this lives.
#[derive(Debug)]
pub(super) struct RawMode;

impl RawMode {
    /// Puts `terminal` into raw mode: every key goes to the guest, and nothing is echoed. Output
    /// is still cooked, so that messages of ours do not run down the screen in steps.
    pub fn enter(terminal: Arc<OwnedFd>) -> io::Result<Self> {
        let mut raw = lock(&RAW);
        if raw.is_some() {
            return Err(io::Error::other("another console of this process has its terminal"));
        }
        let before = tcgetattr(&*terminal)?;
        let mut modes = before.clone();
        modes.make_raw();
        modes.output_modes.insert(OutputModes::OPOST);
        modes.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(&*terminal, OptionalActions::Now, &modes)?;
        *raw = Some((terminal, before));
        Ok(Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore_terminal();
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
