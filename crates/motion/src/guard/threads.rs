//! The threads that serve writers that wait.

use super::Guard;
use crate::fault_events::FaultEvents;
use memory::userfault::WriteProtection;
use std::io;
use std::sync::Arc;
use std::thread;

/// Pages that are copied at once where nobody waits: a MiB, beside which system calls are nothing, and
/// which a writer that comes just then waits for no longer than a moment.
pub(super) const STREAM_PAGES: u64 = 256;

/// Starts as many as can be of use.
pub(super) fn start(guard: &Arc<Guard>, protection: &Arc<WriteProtection>) -> io::Result<()> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..processors.clamp(2, 8) {
        let events = FaultEvents::new(&**protection, &guard.over)?;
        let (guard, protection) = (guard.clone(), protection.clone());
        thread::Builder::new().name("copy-faults".to_owned()).spawn(move || {
            while !guard.is_done() {
                let fault = match protection.take_fault() {
                    Ok(Some(fault)) => fault,
                    Ok(None) => match events.wait(None) {
                        Ok(()) => continue,
                        Err(e) => return guard.give_up(failed(&e)),
                    },
                    Err(e) => return guard.give_up(failed(&e)),
                };
                guard.serve(fault.page, fault.thread);
            }
        })?;
    }
    Ok(())
}

fn failed(error: &io::Error) -> crate::MotionError {
    let why = format!("serving writes to guest RAM: {error}");
    crate::MotionError::new(state::Code::HostIo, why)
}
