//! One thread that waits for all descriptors of a machine's devices.
//!
//! Handlers run on that thread, one after another, so they must not block. Readiness is level
//! triggered: a handler that leaves something to do is called again.

use crate::lock;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What a handler wants to be called for. Hang-ups and errors are always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// There is something to read.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
}

impl Interest {
    /// Reading only.
    pub const READ: Self = Self { read: true, write: false };

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, self.read);
        flags.set(epoll::EventFlags::OUT, self.write);
        flags
    }
}

type Handler = Arc<Mutex<dyn FnMut() + Send>>;

/// The first token that is given out; 0 is the loop's own.
const FIRST_TOKEN: u64 = 1;
const OWN_TOKEN: u64 = 0;

struct Core {
    epoll: OwnedFd,
    bell: Doorbell,
    stopping: AtomicBool,
    watches: Mutex<Watches>,
}

struct Watches {
    next: u64,
    handlers: HashMap<u64, Handler>,
}

/// The loop and its thread, which ends when this is dropped.
#[derive(Debug)]
pub struct EventLoop {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl EventLoop {
    /// Starts the thread.
    ///
    /// # Errors
    /// What the kernel said when it gave no descriptor or no thread.
    pub fn start(name: &str) -> io::Result<Self> {
        let core = Arc::new(Core {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            bell: Doorbell::new()?,
            stopping: AtomicBool::new(false),
            watches: Mutex::new(Watches { next: FIRST_TOKEN, handlers: HashMap::new() }),
        });
        let own = epoll::EventData::new_u64(OWN_TOKEN);
        epoll::add(&core.epoll, core.bell.fd(), own, Interest::READ.flags())?;
        let thread = {
            let core = core.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || core.run())?
        };
        Ok(Self { handle: Handle { core }, thread: Some(thread) })
    }

    /// Where to register descriptors.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.handle.core.stopping.store(true, Ordering::Release);
        self.handle.core.bell.ring();
        // A handler may be what ends the loop; its thread cannot wait for itself.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the device event loop panicked");
        }
    }
}

impl Core {
    fn run(&self) {
        let mut events = Vec::with_capacity(16);
        while !self.stopping.load(Ordering::Acquire) {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "waiting for devices failed; they stop here");
                    return;
                }
            }
            for event in events.drain(..) {
                let token = event.data.u64();
                if token == OWN_TOKEN {
                    self.bell.silence();
                }
                // Taken out of the map's lock, so that a handler can add and drop watches.
                let handler = lock(&self.watches).handlers.get(&token).cloned();
                if let Some(handler) = handler {
                    lock(&handler)();
                }
            }
        }
    }
}

/// Where descriptors are registered.
#[derive(Debug, Clone)]
pub struct Handle {
    core: Arc<Core>,
}

impl Handle {
    /// Calls `handler` on the loop's thread whenever `fd` is ready as `interest` says.
    ///
    /// # Errors
    /// What the kernel said; `PermissionDenied` for a file that is always ready, such as a regular
    /// one.
    pub fn watch(
        &self,
        fd: Arc<OwnedFd>,
        interest: Interest,
        handler: impl FnMut() + Send + 'static,
    ) -> io::Result<Watch> {
        let token = {
            let mut watches = lock(&self.core.watches);
            let token = watches.next;
            watches.next += 1;
            watches.handlers.insert(token, Arc::new(Mutex::new(handler)));
            token
        };
        let data = epoll::EventData::new_u64(token);
        if let Err(error) = epoll::add(&self.core.epoll, &*fd, data, interest.flags()) {
            lock(&self.core.watches).handlers.remove(&token);
            return Err(error.into());
        }
        Ok(Watch { core: self.core.clone(), token, fd, interest })
    }
}

/// A registered descriptor, which is kept open; dropping this ends it. A call of the handler that
/// has begun on the loop's thread may still be under way then.
#[derive(Debug)]
pub struct Watch {
    core: Arc<Core>,
    token: u64,
    fd: Arc<OwnedFd>,
    interest: Interest,
}

impl Watch {
    /// Changes what the handler is called for.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set(&mut self, interest: Interest) -> io::Result<()> {
        if interest != self.interest {
            let data = epoll::EventData::new_u64(self.token);
            epoll::modify(&self.core.epoll, &*self.fd, data, interest.flags())?;
            self.interest = interest;
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.core.watches).handlers.remove(&self.token);
        if let Err(error) = epoll::delete(&self.core.epoll, &*self.fd) {
            tracing::debug!(%error, "a descriptor was gone from the event loop already");
        }
    }
}

/// A descriptor by which any thread can have a handler called.
#[derive(Debug, Clone)]
pub struct Doorbell {
    event: Arc<OwnedFd>,
}

impl Doorbell {
    /// A silent one.
    ///
    /// # Errors
    /// What the kernel said when it gave no descriptor.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event: Arc::new(event) })
    }

    /// The descriptor to watch.
    #[must_use]
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.event
    }

    /// Makes it readable. It stays so until [`silence`](Self::silence).
    pub fn ring(&self) {
        // The only error is that it has been rung 2^64 - 2 times: it is readable then.
        let _ = rustix::io::write(&*self.event, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable: done first by whoever answers it, so that no later ring is lost.
    pub fn silence(&self) {
        // The only error is that it was silent already.
        let _ = rustix::io::read(&*self.event, &mut [0; 8]);
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLoop").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::RecvTimeoutError::Disconnected;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_handler_runs_when_its_descriptor_is_ready() {
        let events = EventLoop::start("test").unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let reader = Arc::new(OwnedFd::from(reader));
        let (tell, told) = channel();
        let source = reader.clone();
        let handler = move || {
            let mut byte = [0];
            rustix::io::read(&*source, &mut byte).unwrap();
            tell.send(byte[0]).unwrap();
        };
        let watch = events.handle().watch(reader, Interest::READ, handler).unwrap();
        rustix::io::write(&writer, &[7]).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(7));
        rustix::io::write(&writer, &[8]).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(8));
        drop(watch);
        let end = told.recv_timeout(LONG);
        assert_eq!(end, Err(Disconnected), "a dropped watch has dropped its handler");
    }

    #[test]
    fn interest_can_be_withdrawn_and_given_again() {
        let events = EventLoop::start("test").unwrap();
        let (bell, other) = (Doorbell::new().unwrap(), Doorbell::new().unwrap());
        let (tell, told) = channel();
        let answer = {
            let (bell, tell) = (bell.clone(), tell.clone());
            move || {
                bell.silence();
                tell.send(1).unwrap();
            }
        };
        let mut watch = events.handle().watch(bell.fd().clone(), Interest::READ, answer).unwrap();
        let answer = {
            let other = other.clone();
            move || {
                other.silence();
                tell.send(2).unwrap();
            }
        };
        let _other = events.handle().watch(other.fd().clone(), Interest::READ, answer).unwrap();
        watch.set(Interest::default()).unwrap();
        bell.ring();
        other.ring();
        assert_eq!(told.recv_timeout(LONG), Ok(2));
        assert!(told.try_recv().is_err());
        watch.set(Interest::READ).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(1));
    }

    #[test]
    fn a_handler_may_drop_its_own_watch() {
        let events = EventLoop::start("test").unwrap();
        let bell = Doorbell::new().unwrap();
        let (tell, told) = channel();
        let own = Arc::new(Mutex::new(None::<Watch>));
        let answer = {
            let own = own.clone();
            move || {
                drop(lock(&own).take());
                tell.send(()).unwrap();
            }
        };
        let mut slot = lock(&own);
        *slot = Some(events.handle().watch(bell.fd().clone(), Interest::READ, answer).unwrap());
        drop(slot);
        bell.ring();
        assert_eq!(told.recv_timeout(LONG), Ok(()));
        let end = told.recv_timeout(LONG);
        assert_eq!(end, Err(Disconnected), "its handler is gone, though it was never silenced");
    }

    #[test]
    fn a_regular_file_is_refused_as_always_ready() {
        let events = EventLoop::start("test").unwrap();
        let file = Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        let refused = events.handle().watch(file, Interest::READ, || {});
        assert_eq!(refused.err().map(|e| e.kind()), Some(io::ErrorKind::PermissionDenied));
    }
}
