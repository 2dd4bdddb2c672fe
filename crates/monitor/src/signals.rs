//! Signals as something to wait for.

use crate::Error;
use links::{Waker, wait_readable};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The signals that ask a process to end, from when they are caught on. They no longer end it.
#[derive(Debug)]
pub struct Signals {
    pipes: Vec<(Signal, UnixStream)>,
    waker: Waker,
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Somebody asks this process to end.
    By(Signal),
    /// [`Signals::waker`] was used.
    Called,
    /// Time is up.
    TimedOut,
}

impl Signals {
    /// Catches SIGINT, SIGTERM and SIGHUP.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn catch() -> Result<Self, Error> {
        let failed = |e| Error::host("cannot catch signals", &e);
        let signals = [(SIGINT, Signal::INT), (SIGTERM, Signal::TERM), (SIGHUP, Signal::HUP)];
        let mut pipes = Vec::new();
        for (number, signal) in signals {
            let (ours, handlers) = UnixStream::pair().map_err(failed)?;
            ours.set_nonblocking(true).map_err(failed)?;
            signal_hook::low_level::pipe::register(number, handlers).map_err(failed)?;
            pipes.push((signal, ours));
        }
        Ok(Self { pipes, waker: Waker::new().map_err(failed)? })
    }

    /// Ends a wait from another thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits for a signal or a call, at most for `timeout`.
    ///
    /// # Errors
    /// When the kernel cannot wait.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Woken, Error> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let fds: Vec<_> = self.pipes.iter().map(|(_, pipe)| pipe.as_fd()).collect();
        let ready = wait_readable(&fds, &self.waker, deadline)
            .map_err(|e| Error::host("cannot wait for signals", &e))?;
        if let Some((signal, pipe)) = ready.readable.first().map(|&index| &self.pipes[index]) {
            // Several of the same kind are one; the read cannot fail where poll saw something.
            let _ = (&*pipe).read(&mut [0; 64]);
            return Ok(Woken::By(*signal));
        }
        Ok(if ready.woken { Woken::Called } else { Woken::TimedOut })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{getpid, kill_process};

    #[test]
    fn a_signal_is_told_once_and_the_process_lives_on() {
        let signals = Signals::catch().unwrap();
        assert_eq!(signals.wait(Some(Duration::ZERO)).unwrap(), Woken::TimedOut);
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            kill_process(getpid(), signal).unwrap();
            assert_eq!(signals.wait(None).unwrap(), Woken::By(signal));
        }
        assert_eq!(signals.wait(Some(Duration::ZERO)).unwrap(), Woken::TimedOut);
    }

    #[test]
    fn another_thread_ends_the_wait() {
        let signals = Signals::catch().unwrap();
        let waker = signals.waker();
        std::thread::scope(|scope| {
            scope.spawn(move || waker.wake());
            assert_eq!(signals.wait(None).unwrap(), Woken::Called);
        });
    }
}
