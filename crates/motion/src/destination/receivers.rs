//! The receivers: threads that take pages, from data connections that are all equal.

use super::phase::AsRam;
use crate::MotionError;
use crate::ram::receive::{ReceiveError, Received, Receiver};
use courtesy::Courtesy;
use links::{Closer, Stream};
use state::Code;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use wire::PassEnd;

/// What a receiver says.
pub(super) enum Word {
    /// A pass has ended on its connection.
    PassEnd(PassEnd),
    /// It cannot go on.
    Failed(MotionError),
}

/// Threads that put pages into RAM from one connection: a polite one the first pass, which is all of
/// RAM, and a prompt one whatever comes after it, which a stopped guest may be waiting for. End with
/// the value.
pub(super) struct ReceiverThread {
    closer: Closer,
    threads: Vec<JoinHandle<()>>,
}

/// A connection and what it brings. Whoever serves it has it.
struct Lane {
    stream: Stream,
    ram: Arc<dyn AsRam>,
    receiver: Receiver,
    received: Arc<AtomicU64>,
    say: Box<dyn Fn(Word) + Send>,
}

impl ReceiverThread {
    /// Starts receiving on a connection, one of so many.
    pub(super) fn start(
        index: u16,
        connections: u16,
        stream: Stream,
        ram: Arc<dyn AsRam>,
        received: Arc<AtomicU64>,
        say: impl Fn(Word) + Send + 'static,
    ) -> Result<Self, MotionError> {
        let closer = stream.closer();
        let mut lane =
            Lane { stream, ram, receiver: Receiver::default(), received, say: Box::new(say) };
        let (hand_over, handed) = mpsc::channel::<Lane>();
        let mut this = Self { closer, threads: Vec::new() };
        this.spawn(format!("move-recv-{index}"), move || {
            // An error is what the polite thread has ended with.
            if let Ok(mut lane) = handed.recv() {
                lane.receive(|_| false);
            }
        })?;
        this.spawn(format!("move-polite-{index}"), move || {
            let mut courtesy = Courtesy::begin(connections.into());
            let goes_on = lane.receive(|received| match (received, &mut courtesy) {
                (Received::Pages(_), Some(courtesy)) => {
                    courtesy.give_way();
                    courtesy.is_starved()
                }
                (Received::PassEnd(_), _) | (_, None) => true,
            });
            if goes_on {
                // It waits for just this.
                let _ = hand_over.send(lane);
            }
        })?;
        Ok(this)
    }

    fn spawn(
        &mut self,
        name: String,
        task: impl FnOnce() + Send + 'static,
    ) -> Result<(), MotionError> {
        let thread = thread::Builder::new().name(name).spawn(task).map_err(|e| {
            MotionError::new(Code::HostIo, format!("starting a thread to receive pages: {e}"))
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Lane {
    /// Receives until something came after which another thread is to go on: then `true`.
    fn receive(&mut self, mut is_enough: impl FnMut(&Received) -> bool) -> bool {
        loop {
            let received = match self.receiver.receive(self.ram.as_ram(), &mut self.stream) {
                Ok(received) => received,
                Err(error) => {
                    (self.say)(Word::Failed(receive_error(&error)));
                    return false;
                }
            };
            match received {
                Received::Pages(bytes) => {
                    self.received.fetch_add(bytes, Ordering::Relaxed);
                }
                Received::PassEnd(end) => (self.say)(Word::PassEnd(end)),
            }
            if is_enough(&received) {
                return true;
            }
        }
    }
}

impl Drop for ReceiverThread {
    fn drop(&mut self) {
        self.closer.close();
        for thread in self.threads.drain(..) {
            // It has said what there was to say.
            let _ = thread.join();
        }
    }
}

fn receive_error(error: &ReceiveError) -> MotionError {
    match error {
        ReceiveError::Frame(frame) => MotionError::link("receiving pages", frame),
        ReceiveError::Ram(_) => MotionError::new(Code::HostIo, error.to_string()),
        ReceiveError::Incomplete { .. } => MotionError::new(Code::ProtocolError, error.to_string()),
    }
}
