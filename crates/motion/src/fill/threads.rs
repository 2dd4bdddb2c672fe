//! The threads of a page service: they serve faults, stream in the rest, and watch each other.

use super::desk::{FillDesk, Phase, Reader};
use super::pager::{Duty, Pager, Staff};
use super::source::PageLane;
use crate::fault_events::FaultEvents;
use crate::ram::on_demand::CHUNK_PAGES;
use courtesy::Courtesy;
use memory::userfault::{Fault, Userfault};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// Small chunks that are streamed as one read: a fault within it waits for no more than that.
const STREAM_CHUNKS: u64 = 4;
/// How long to wait when everything that is left is being fetched by others.
const IDLE: Duration = Duration::from_millis(20);

/// A userfaultfd, and the threads that serve it.
pub(super) fn over(userfault: Userfault) -> (Arc<dyn Pager>, Box<dyn Staff>) {
    let userfault = Arc::new(userfault);
    (userfault.clone(), Box::new(Threads { userfault }))
}

struct Threads {
    userfault: Arc<Userfault>,
}

impl Staff for Threads {
    fn hire(&self, desk: &Arc<FillDesk>, duty: Duty, reader: &Arc<Reader>) -> io::Result<()> {
        let (desk, reader, userfault) = (desk.clone(), reader.clone(), self.userfault.clone());
        let name = match duty {
            Duty::Faults => "fill-faults",
            Duty::Stream => "fill-stream",
        };
        // Nobody waits for it: it may hang in the source for ever.
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let ran = match duty {
                Duty::Faults => serve_faults(&desk, &reader, &userfault),
                Duty::Stream => stream(&desk, &reader),
            };
            if let Err(e) = ran {
                reader.give_up();
                desk.fail(0, format!("a thread that fills guest RAM: {e}"));
            }
        })?;
        Ok(())
    }

    /// A thread that never talks to the source.
    fn watch(&self, desk: &Arc<FillDesk>) -> io::Result<()> {
        let desk = desk.clone();
        let often = (desk.options.io_stall / 10)
            .clamp(Duration::from_millis(1), Duration::from_millis(500));
        thread::Builder::new().name("fill-watchdog".to_owned()).spawn(move || {
            loop {
                let phase = desk.phase();
                if matches!(*phase, Phase::Done | Phase::Abandoned) {
                    return;
                }
                drop(desk.wait(phase, often));
                desk.watch(Instant::now());
            }
        })?;
        Ok(())
    }
}

fn serve_faults(desk: &FillDesk, reader: &Reader, userfault: &Userfault) -> io::Result<()> {
    let source = desk.source.clone();
    let mut lane = source.lane();
    let events = FaultEvents::new(userfault, &desk.over)?;
    let mut stays = true;
    while stays && desk.goes_on() {
        if let Some(fault) = userfault.take_fault()? {
            stays = serve(desk, reader, &mut *lane, fault);
            continue;
        }
        let streams = desk.hurried.load(Relaxed);
        match streams.then(|| desk.next(1)).flatten() {
            Some(claim) => stays = desk.fetch(reader, &mut *lane, claim),
            None => events.wait(streams.then_some(IDLE))?,
        }
    }
    Ok(())
}

/// Serves one fault. `false` when the thread was given up.
fn serve(desk: &FillDesk, reader: &Reader, lane: &mut dyn PageLane, fault: Fault) -> bool {
    let claim = desk.answer(fault.page, fault.thread);
    claim.is_none_or(|claim| desk.fetch(reader, lane, claim))
}

fn stream(desk: &FillDesk, reader: &Reader) -> io::Result<()> {
    let source = desk.source.clone();
    let mut lane = source.lane();
    let mut courtesy = Courtesy::begin(desk.options.stream_threads.max(1));
    let small = desk.on_demand.chunk_pages() == CHUNK_PAGES;
    let most = if small { STREAM_CHUNKS } else { 1 };
    let mut stays = true;
    while stays && desk.goes_on() {
        if let Some(courtesy) = &mut courtesy {
            courtesy.give_way();
        }
        if courtesy.as_mut().is_none_or(Courtesy::is_starved) && !desk.hurried.swap(true, Relaxed) {
            tracing::debug!("polite threads get next to no processor: filling RAM as an equal now");
        }
        match desk.next(most) {
            Some(claim) => stays = desk.fetch(reader, &mut *lane, claim),
            None => drop(desk.wait(desk.phase(), IDLE)),
        }
    }
    Ok(())
}
