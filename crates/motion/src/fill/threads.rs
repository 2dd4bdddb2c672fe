//! The threads of a page service: they serve faults, stream in the rest, and watch each other.

use super::service::{Duty, Phase, Reader, Service};
use super::source::PageLane;
use crate::courtesy::Courtesy;
use crate::fault_events::FaultEvents;
use crate::ram::on_demand::{Answer, CHUNK_PAGES};
use memory::userfault::Fault;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// Small chunks that are streamed as one read: a fault within it waits for no more than that.
const STREAM_CHUNKS: u64 = 4;
/// How long to wait when everything that is left is being fetched by others.
const IDLE: Duration = Duration::from_millis(20);

/// Starts a thread that reads from the source.
pub(super) fn start(service: &Arc<Service>, duty: Duty, reader: Arc<Reader>) -> io::Result<()> {
    let service = service.clone();
    let (name, run): (_, fn(&Service, &Reader) -> io::Result<()>) = match duty {
        Duty::Faults => ("fill-faults", serve_faults),
        Duty::Stream => ("fill-stream", stream),
    };
    // Nobody waits for it: it may hang in the source for ever.
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(e) = run(&service, &reader) {
            reader.give_up();
            service.fail(0, format!("a thread that fills guest RAM: {e}"));
        }
    })?;
    Ok(())
}

/// Starts the thread that notices when others hang. It never talks to the source.
pub(super) fn start_watchdog(service: &Arc<Service>) -> io::Result<()> {
    let service = service.clone();
    let often =
        (service.options.io_stall / 10).clamp(Duration::from_millis(1), Duration::from_millis(500));
    thread::Builder::new().name("fill-watchdog".to_owned()).spawn(move || {
        loop {
            let phase = service.phase();
            if matches!(*phase, Phase::Done | Phase::Abandoned) {
                return;
            }
            drop(service.wait(phase, often));
            service.watch();
        }
    })?;
    Ok(())
}

fn serve_faults(service: &Service, reader: &Reader) -> io::Result<()> {
    let source = service.source.clone();
    let mut lane = source.lane();
    let events = FaultEvents::new(&service.userfault, &service.over)?;
    let mut stays = true;
    while stays && service.goes_on() {
        if let Some(fault) = service.userfault.take_fault()? {
            stays = serve(service, reader, &mut *lane, fault);
            continue;
        }
        let streams = service.hurried.load(Relaxed);
        match streams.then(|| service.on_demand.next(1)).flatten() {
            Some(claim) => stays = service.fetch(reader, &mut *lane, claim),
            None => events.wait(streams.then_some(IDLE))?,
        }
    }
    Ok(())
}

/// Serves one fault. `false` when the thread was given up.
fn serve(service: &Service, reader: &Reader, lane: &mut dyn PageLane, fault: Fault) -> bool {
    let since = Instant::now();
    let chunk = fault.page / service.on_demand.chunk_pages();
    let ask = || {
        let answer = service.on_demand.fault(fault.page);
        let waits = answer != Answer::Zero;
        (answer, waits)
    };
    match service.waits.ask(fault.thread, chunk, since, ask) {
        Answer::Underway => true,
        Answer::Zero => {
            if let Err(e) = service.provide_zero(fault.page) {
                service.fail(fault.page, format!("putting a page into guest RAM: {e}"));
            }
            service.waits.over_of(fault.thread, since);
            true
        }
        Answer::Fetch(claim) => service.fetch(reader, lane, claim),
    }
}

fn stream(service: &Service, reader: &Reader) -> io::Result<()> {
    let source = service.source.clone();
    let mut lane = source.lane();
    let mut courtesy = Courtesy::begin(service.options.stream_threads.max(1));
    let small = service.on_demand.chunk_pages() == CHUNK_PAGES;
    let most = if small { STREAM_CHUNKS } else { 1 };
    let mut stays = true;
    while stays && service.goes_on() {
        if courtesy.as_mut().is_none_or(Courtesy::is_starved)
            && !service.hurried.swap(true, Relaxed)
        {
            tracing::debug!("polite threads get next to no processor: filling RAM as an equal now");
        }
        match service.on_demand.next(most) {
            Some(claim) => stays = service.fetch(reader, &mut *lane, claim),
            None => drop(service.wait(service.phase(), IDLE)),
        }
    }
    Ok(())
}
