//! Waiting for several descriptors, and for word from another thread.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// Wakes a thread that is in [`wait_readable`]. Clones wake the same one.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A waker that has not been used yet.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Wakes the waiting thread, or the next one that would wait.
    pub fn wake(&self) {
        // The only error that an event counter knows is that it is full: then it is awake already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Forgets the wake-ups so far.
    pub fn reset(&self) {
        // The only error is that there was none.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What [`wait_readable`] saw. Empty when the deadline passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ready {
    /// Whether the waker was used; it has been reset.
    pub woken: bool,
    /// Indices of the descriptors that can be read without blocking: there is data, an end, or an
    /// error to be had.
    pub readable: Vec<usize>,
}

/// Waits until one of `fds` can be read, `waker` was used, or `deadline` has passed (`None`: never).
///
/// # Errors
/// When the kernel cannot wait at all, for lack of memory.
pub fn wait_readable(
    fds: &[BorrowedFd<'_>],
    waker: &Waker,
    deadline: Option<Instant>,
) -> io::Result<Ready> {
    let mut polled: Vec<PollFd<'_>> = std::iter::once(waker.as_fd())
        .chain(fds.iter().copied())
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN | PollFlags::RDHUP))
        .collect();
    poll_until(&mut polled, deadline)?;
    let woken = !polled[0].revents().is_empty();
    if woken {
        waker.reset();
    }
    let readable = (0..fds.len()).filter(|i| !polled[i + 1].revents().is_empty()).collect();
    Ok(Ready { woken, readable })
}

/// `poll(2)` up to a deadline, however often a signal interrupts it.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        // A deadline further away than a timespec reaches is none.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(fds, left.as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn a_wake_up_from_another_thread_ends_the_wait_and_is_seen_once() {
        let waker = Waker::new().unwrap();
        let other = waker.clone();
        let thread = std::thread::spawn(move || other.wake());
        let ready = wait_readable(&[], &waker, None).unwrap();
        assert!(ready.woken);
        thread.join().unwrap();
        waker.reset();
        assert_eq!(wait_readable(&[], &waker, Some(Instant::now())).unwrap(), Ready::default());
    }

    #[test]
    fn data_and_hang_up_are_told_by_index_and_silence_by_nothing() {
        let waker = Waker::new().unwrap();
        let (a, _a) = UnixStream::pair().unwrap();
        let (b, mut to_b) = UnixStream::pair().unwrap();
        let (c, to_c) = UnixStream::pair().unwrap();
        let fds = [a.as_fd(), b.as_fd(), c.as_fd()];
        let soon = || Some(Instant::now() + Duration::from_millis(1));
        assert_eq!(wait_readable(&fds, &waker, soon()).unwrap(), Ready::default());
        to_b.write_all(b"x").unwrap();
        drop(to_c);
        let ready = wait_readable(&fds, &waker, None).unwrap();
        assert_eq!(ready, Ready { woken: false, readable: vec![1, 2] });
    }
}
