//! Waiting for page faults.

use rustix::event::{Timespec, epoll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Something that is readable when there are faults, or nothing is left to do. Of the threads that wait,
/// each with one of these, one is woken for each fault.
pub(crate) struct FaultEvents(OwnedFd);

impl FaultEvents {
    pub fn new(faults: &impl AsFd, over: &OwnedFd) -> io::Result<Self> {
        use epoll::{CreateFlags, EventData, EventFlags};
        let events = epoll::create(CreateFlags::CLOEXEC)?;
        let one = EventFlags::IN | EventFlags::EXCLUSIVE;
        epoll::add(&events, faults, EventData::new_u64(0), one)?;
        epoll::add(&events, over, EventData::new_u64(1), EventFlags::IN)?;
        Ok(Self(events))
    }

    /// Waits for one or the other, at most so long.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<()> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut buffer = Vec::with_capacity(2);
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut buffer), limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}
