//! Filling in the page tables of the new process while the guest runs in the old one.

use courtesy::Courtesy;
use memory::GuestRam;
use std::io;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Threads that do it at most: memory is what they wait for.
const MOST: usize = 2;

/// Enters the pages that were touched, on processors that a guest with so many vCPUs leaves, and otherwise
/// politely. Where such threads get next to nothing, others compete as equals. All ask whether to `go_on`.
pub(super) fn populate(
    ram: &GuestRam,
    vcpus: u32,
    go_on: &(dyn Fn() -> bool + Sync),
) -> io::Result<()> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let vcpus = usize::try_from(vcpus).unwrap_or(usize::MAX);
    let threads = processors.saturating_sub(vcpus).clamp(1, MOST);
    // A thread cannot become less polite again, and those that it starts are as polite as it is.
    let starved = thread::scope(|scope| {
        let polite = scope.spawn(|| politely(ram, threads, go_on));
        polite.join().unwrap_or_else(|panic| resume_unwind(panic))
    })?;
    if starved {
        tracing::debug!("the guest leaves no processor: its pages are entered beside it");
        ram.populate(MOST, go_on)?;
    }
    Ok(())
}

/// Whether it was given up for want of a processor.
fn politely(ram: &GuestRam, threads: usize, go_on: &(dyn Fn() -> bool + Sync)) -> io::Result<bool> {
    let Some(courtesy) = Courtesy::begin(threads) else { return Ok(true) };
    let courtesy = Mutex::new((courtesy, false));
    let state = || courtesy.lock().unwrap_or_else(PoisonError::into_inner);
    ram.populate(threads, &|| {
        let had_its_turn = state().0.has_had_its_turn();
        if had_its_turn {
            thread::yield_now();
        }
        let (courtesy, starved) = &mut *state();
        *starved = *starved || courtesy.is_starved();
        !*starved && go_on()
    })?;
    Ok(state().1)
}
