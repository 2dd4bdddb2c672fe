//! The receivers: a thread for each data connection, all equal.

use super::phase::AsRam;
use crate::MotionError;
use crate::ram::receive::{ReceiveError, Received, Receiver};
use links::{Closer, Stream};
use state::Code;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use wire::PassEnd;

/// What a receiver says.
pub(super) enum Word {
    /// A pass has ended on its connection.
    PassEnd(PassEnd),
    /// It cannot go on.
    Failed(MotionError),
}

/// One thread that puts pages into RAM. Ends with the value.
pub(super) struct ReceiverThread {
    closer: Closer,
    thread: Option<JoinHandle<()>>,
}

impl ReceiverThread {
    /// Starts receiving on a connection.
    pub(super) fn start(
        index: u16,
        mut stream: Stream,
        ram: Arc<dyn AsRam>,
        received: Arc<AtomicU64>,
        say: impl Fn(Word) + Send + 'static,
    ) -> Result<Self, MotionError> {
        let closer = stream.closer();
        let thread = thread::Builder::new()
            .name(format!("move-recv-{index}"))
            .spawn(move || {
                let mut receiver = Receiver::default();
                loop {
                    match receiver.receive(ram.as_ram(), &mut stream) {
                        Ok(Received::Pages(bytes)) => {
                            received.fetch_add(bytes, Ordering::Relaxed);
                        }
                        Ok(Received::PassEnd(end)) => say(Word::PassEnd(end)),
                        Err(error) => return say(Word::Failed(receive_error(&error))),
                    }
                }
            })
            .map_err(|e| {
                MotionError::new(Code::HostIo, format!("starting a thread to receive pages: {e}"))
            })?;
        Ok(Self { closer, thread: Some(thread) })
    }
}

impl Drop for ReceiverThread {
    fn drop(&mut self) {
        self.closer.close();
        if let Some(thread) = self.thread.take() {
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
