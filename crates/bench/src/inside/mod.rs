//! Machines in the benchmark's own process: what can only be told apart there, and what the kernel
//! needs at least.

mod protected;

pub use protected::Protected;

use crate::BenchError;
use crate::console::Follower;
use devices::console::{Console, ConsoleError, Spec};
use devices::event_loop::EventLoop;
use guest::report::{Line, Sample};
use memory::userfault::Userfault;
use memory::{Backing, GuestRam, PAGE_SIZE, PageRange};
use motion::fill::FillOptions;
use motion::handover::{Entitlement, FileHandover, FileInput, FileOutput};
use motion::restore::{Claimant, How, RestoreJob, RestoreOptions, Terms};
use motion::{MachineBuilder, Observer, Report, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use snapshot::{Buffer, Origin, Reader};
use state::Bundle;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;
use vmm::{Builder, EventSink, Hypervisor, Wishes};

/// A guest that takes longer than this is given up.
const LONGEST: Duration = Duration::from_secs(60);
/// Between two looks whether all has come.
const LOOK: Duration = Duration::from_millis(1);
/// Pages that come at once, as in the engine.
const CHUNK: u64 = 16;

/// What machines in this process need.
pub struct Inside {
    hypervisor: Arc<Hypervisor>,
    events: EventLoop,
    /// Where the guests' console goes.
    path: PathBuf,
}

/// Says nothing to anybody.
struct Deaf;

impl Observer for Deaf {
    fn status(&self, _: Status) {}
    fn pass(&self, _: u32) {}
    fn stopped(&self) {}
    fn resumed(&self) {}
    fn handover(&self, _: &str, _: &'static str) {}
    fn finished(&self, _: &Report) {}
}

fn failed(doing: &'static str) -> impl Fn(String) -> BenchError {
    move |why| BenchError::Engine { doing, why }
}

impl Inside {
    /// With the guests' console in a file of `folder`.
    pub fn new(folder: &Path) -> Result<Self, BenchError> {
        let path = folder.join(format!("console-{}", Uuid::new_v4().simple()));
        File::create(&path).map_err(BenchError::io("making a console"))?;
        let hypervisor = Hypervisor::open().map_err(|e| failed("opening KVM")(e.to_string()))?;
        let events =
            EventLoop::start("bench-events").map_err(BenchError::io("starting a thread"))?;
        Ok(Self { hypervisor: Arc::new(hypervisor), events, path })
    }

    fn console(&self) -> Result<Console, ConsoleError> {
        Console::open(&Spec::File(self.path.clone()), self.events.handle(), || {})
    }

    fn builder(&self) -> Arc<Builder> {
        let wishes = Wishes { clone: Some(Uuid::new_v4()), ..Wishes::default() };
        let (events, console) = (self.events.handle().clone(), Spec::File(self.path.clone()));
        let consoles = Box::new(move || Console::open(&console, &events, || {}));
        let sink: EventSink = Arc::new(|_| {});
        Arc::new(Builder::new(self.hypervisor.clone(), wishes, consoles, sink))
    }

    /// Lets a copy of the guest in `file` run here, and ends it when all of its memory has come. With
    /// `trusting` no page is compared with its checksum.
    pub fn restore(&self, file: &Path, how: How, trusting: bool) -> Result<Report, BenchError> {
        let doing = failed("restoring a guest in this process");
        let reader = Reader::open(Origin::Path { path: file.to_owned(), offset: 0 }, true)
            .map_err(|e| doing(e.to_string()))?;
        let reader = if trusting { reader.trusting() } else { reader };
        let builder = self.builder();
        let options = RestoreOptions {
            terms: Terms::Clone,
            how,
            paused: false,
            verify: true,
            io_stall: FillOptions::default().io_stall,
            claimant: Claimant { host: "bench".to_owned(), boot: Uuid::nil() },
            threads: RestoreOptions::usual_threads(),
        };
        let name = file.display().to_string();
        let job = RestoreJob::start(reader, &name, builder.clone(), options, Arc::new(Deaf))
            .map_err(|e| doing(e.why))?;
        let report = job.wait();
        if let Some(error) = report.error {
            return Err(doing(error.why));
        }
        let begun = Instant::now();
        loop {
            let report = job.report();
            let fill = report.restore.as_ref().and_then(|restore| restore.fill.as_ref());
            if how == How::Eager || fill.is_some_and(|fill| fill.all_in_ns.is_some()) {
                return Ok(report);
            }
            if begun.elapsed() >= LONGEST {
                return Err(doing("not all of its memory has come".to_owned()));
            }
            thread::sleep(LOOK);
        }
    }

    /// How long KVM takes to give a machine memory slots for so many bytes.
    fn slots(&self, bytes: u64) -> Result<Duration, BenchError> {
        let ram = GuestRam::new(bytes, Backing::Small)?;
        vmm::time_of_slots(&self.hypervisor, ram)
            .map_err(|e| failed("making memory slots")(e.to_string()))
    }

    /// The least of a few of these: whatever else goes on only adds to it, and it is subtracted.
    pub fn least_slots(&self, bytes: u64) -> Result<Duration, BenchError> {
        Ok(self.slots(bytes)?.min(self.slots(bytes)?).min(self.slots(bytes)?))
    }

    /// Lets a copy of the guest in `file` run whose pages come from a bare handler: one thread that
    /// takes a fault, reads the same bytes from the same place, has the kernel copy them, and knows
    /// nothing else. What the guest says of its sample.
    pub fn bare(&self, file: &Path) -> Result<Sample, BenchError> {
        let doing = failed("serving a guest's faults in this process");
        let told = |why: &dyn std::fmt::Display| doing(why.to_string());
        let reader = Reader::open(Origin::Path { path: file.to_owned(), offset: 0 }, true)
            .map_err(|e| told(&e))?;
        let bundle = |bytes| Bundle::decode(bytes).map_err(|e| told(&e));
        let refused = |all: Vec<state::Refusal>| {
            doing(all.first().map_or_else(String::new, ToString::to_string))
        };
        let machine = self.builder().build(bundle(reader.description())?).map_err(refused)?;
        let userfault = Userfault::open(machine.ram().clone()).map_err(|e| told(&e))?;
        for run in reader.present().runs() {
            // As the engine has it: whole chunks.
            let start = run.start / CHUNK * CHUNK;
            let range = PageRange::new(start, run.end().next_multiple_of(CHUNK) - start);
            userfault.register(range).map_err(|e| told(&e))?;
        }
        let state = bundle(reader.state())?;
        let mut follower = Follower::open(&self.path).map_err(BenchError::io("its console"))?;
        follower.lines().map_err(BenchError::io("its console"))?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let handler = scope.spawn(|| handle(&userfault, &reader, file, &over));
            let sample = (|| {
                machine.restore(state).map_err(|e| told(&e))?;
                // A copy: it is nobody else's.
                let mut handover = FileHandover::begin(Entitlement::Copies, false);
                let granted = handover.step(FileInput::Restored);
                let Ok(Some(FileOutput::Grant(permit))) = granted else {
                    return Err(doing("it may not run".to_owned()));
                };
                machine.run(permit).map_err(|e| told(&e))?;
                let sample = |line: &Line| match line {
                    Line::Sample(sample) => Some(*sample),
                    _ => None,
                };
                let said = follower.wait(LONGEST, sample);
                said.map_err(BenchError::io("its console"))?
                    .ok_or(BenchError::Silent { peer: "floor", when: "of its memory" })
            })();
            // The order: whoever waits for a page has it, then no vCPU runs, then nobody serves.
            let stopped = machine.pause().map_err(|e| told(&e));
            over.store(true, Ordering::Relaxed);
            let handled = match handler.join() {
                Ok(handled) => handled,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            handled.map_err(BenchError::io("handling a guest's faults"))?;
            stopped?;
            sample
        })
    }
}

/// The bare handler.
fn handle(
    userfault: &Userfault,
    reader: &Reader,
    path: &Path,
    over: &AtomicBool,
) -> std::io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(path)?;
    let mut buffer = Buffer::new(CHUNK);
    let limit = Timespec::try_from(LOOK * 10).map_err(std::io::Error::other)?;
    while !over.load(Ordering::Relaxed) {
        let Some(fault) = userfault.take_fault()? else {
            poll(&mut [PollFd::new(userfault, PollFlags::IN)], Some(&limit))?;
            continue;
        };
        let start = fault.page / CHUNK * CHUNK;
        let chunk = PageRange::new(start, CHUNK.min(reader.present().pages() - start));
        if reader.present().contains(fault.page) {
            let bytes = usize::try_from(chunk.bytes()).map_err(std::io::Error::other)?;
            let bytes = &mut buffer.as_mut_slice()[..bytes];
            file.read_exact_at(bytes, reader.place_of(chunk.start))?;
            // What the file has not is zeroes there, too.
            userfault.provide(chunk, bytes)?;
        } else {
            userfault.provide_zero(PageRange::new(fault.page, 1))?;
        }
        userfault.wake(chunk)?;
    }
    Ok(())
}

/// How fast fresh memory can be populated, in bytes a second: by a thread for each processor.
pub fn populate(bytes: u64) -> Result<f64, BenchError> {
    /// Pages that the kernel is asked for at once.
    const PART: u64 = (2 << 20) / PAGE_SIZE;
    let ram = GuestRam::new(bytes, Backing::Small)?;
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let share = ram.pages().div_ceil(threads).next_multiple_of(PART);
    let begun = Instant::now();
    thread::scope(|scope| {
        for index in 0..threads {
            let ram = &ram;
            scope.spawn(move || {
                let end = ram.pages().min((index + 1) * share);
                for start in (index * share..end).step_by(usize::try_from(PART).unwrap_or(1)) {
                    ram.prepare(PageRange::new(start, PART.min(end - start)));
                }
            });
        }
    });
    #[expect(clippy::cast_precision_loss, reason = "bytes are far below 2⁵²")]
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}
