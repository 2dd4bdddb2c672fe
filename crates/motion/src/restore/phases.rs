//! The phases of a restore, in their order.

use super::How;
use super::fill::Fill;
use super::job::{Loaded, Phase, Restore, lock};
use super::on_demand::FilePages;
use super::options::RestoreOptions;
use crate::clock::nanos;
use crate::fill::{FillObserver, FillOptions, FillReport, Means, Outage, PageService};
use crate::handover::FileInput;
use crate::rules::{Rule, keeps};
use crate::{DestinationMachine, MachineBuilder, MotionError, Status};
use memory::{GuestRam, PAGE_SIZE};
use snapshot::{Apart, Reader};
use state::{Bundle, Code};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

impl Restore {
    pub(super) fn run(
        self: &Arc<Self>,
        reader: Reader,
        builder: &dyn MachineBuilder,
        means: &dyn Means,
        description: Bundle,
    ) {
        let Err(error) = self.carry_out(reader, builder, means, description) else { return };
        let input = match error.code {
            Code::Cancelled => FileInput::Cancel,
            _ => FileInput::Failed,
        };
        // Nothing was granted, or it would not be an error.
        if let Err(denial) = self.step(input) {
            tracing::error!(%denial, "giving up a restore");
        }
        self.end(error);
    }

    /// The phases, in their order.
    fn carry_out(
        self: &Arc<Self>,
        reader: Reader,
        builder: &dyn MachineBuilder,
        means: &dyn Means,
        description: Bundle,
    ) -> Result<(), MotionError> {
        let reader = Arc::new(reader);
        self.enter(Phase::Building, Status::Setup);
        let machine = self.build(&reader, builder, description)?;
        self.enter(Phase::Filling, Status::Active);
        match self.options.how {
            How::Eager => self.fill(&reader, Some(machine.ram()))?,
            How::Mapped => self.check_mapped(&reader, machine.as_ref())?,
            How::InPlace => check_in_place(&reader, machine.as_ref())?,
            How::Lazy => self.fill_on_demand(&reader, machine.as_ref(), means)?,
        }
        self.enter(Phase::Loading, Status::Device);
        self.load(&reader, machine.as_ref())?;
        // What was read of a file that was replaced or cut short meanwhile was verified all the same; but
        // the claim would go where nobody looks for it, and what is yet to come would not.
        reader.check_identity()?;
        // One that cannot have its pages now is not worth a claim.
        let outage = lock(&self.service).as_ref().and_then(PageService::outage);
        if let Some(outage) = outage
            && keeps(Rule::OutageIsNoClaim)
        {
            return Err(MotionError::new(Code::HostIo, outage.why));
        }
        lock(&self.decisions).loaded = Some(Loaded { machine, reader });
        self.step(FileInput::Restored)
    }

    fn build(
        &self,
        reader: &Reader,
        builder: &dyn MachineBuilder,
        description: Bundle,
    ) -> Result<Arc<dyn DestinationMachine>, MotionError> {
        let begun = Instant::now();
        let machine = builder.build(description).map_err(MotionError::refused)?;
        let (here, there) = (machine.ram().layout(), reader.header());
        if here.regions() != there.regions || here.pages() != reader.present().pages() {
            let why = "the file lays RAM out otherwise than the machine that it describes";
            return Err(MotionError::new(Code::SnapshotCorrupt, why));
        }
        self.note(|report, restore| {
            report.ram.total_pages = here.pages();
            restore.build_ns = nanos(begun.elapsed());
            restore.slots_ns = machine.slots_took().map(nanos);
            report.setup_ns = nanos(self.begun.elapsed());
        });
        Ok(machine)
    }

    /// RAM is there already. What is in the file is verified, unless that was said to be needless.
    fn check_mapped(
        &self,
        reader: &Reader,
        machine: &dyn DestinationMachine,
    ) -> Result<(), MotionError> {
        if machine.ram().image().is_none() {
            let why = "the file is to be mapped, and the machine was built with RAM of its own";
            return Err(MotionError::new(Code::Internal, why));
        }
        if !self.options.verify {
            return Ok(());
        }
        reader.check_absent()?;
        self.fill(reader, None)
    }

    /// Takes all pages out of the file, verified, and into RAM if there is any to fill.
    fn fill(&self, reader: &Reader, ram: Option<&Arc<GuestRam>>) -> Result<(), MotionError> {
        let begun = Instant::now();
        lock(&self.view).filling_since = Some(begun);
        let (ram, done) = (ram.map(Arc::as_ref), &self.filled);
        let fill = Fill { reader, ram, done, cancelled: &self.cancelled };
        let threads = self.options.threads.clamp(1, RestoreOptions::MOST_THREADS);
        fill.run(threads)?;
        self.note(|report, restore| {
            restore.threads = threads;
            restore.fill_ns = nanos(begun.elapsed());
            restore.verified_pages = self.filled.load(Ordering::Relaxed);
            report.ram.data_pages = restore.verified_pages;
            report.ram.bytes = restore.verified_pages.saturating_mul(PAGE_SIZE);
        });
        Ok(())
    }

    /// Has pages come when they are touched, from now on.
    fn fill_on_demand(
        self: &Arc<Self>,
        reader: &Arc<Reader>,
        machine: &dyn DestinationMachine,
        means: &dyn Means,
    ) -> Result<(), MotionError> {
        let failed = |why: String| {
            let why = format!("RAM cannot be filled while the guest runs: {why}");
            MotionError::new(Code::Unsupported, why)
        };
        let begun = Instant::now();
        let (pager, staff) = means.begin(machine.ram()).map_err(|e| failed(e.to_string()))?;
        let source = Arc::new(FilePages(reader.clone()));
        let observer = Arc::new(Filling(Arc::downgrade(self)));
        let options = FillOptions { io_stall: self.options.io_stall, ..means.options() };
        let threads = options.fault_threads + options.stream_threads;
        let service = PageService::by(pager, source, observer, options, staff)
            .map_err(|e| failed(e.to_string()))?;
        // It may have ended before it is known here, and with it what it is kept for.
        let mut kept = lock(&self.service);
        if !service.is_done() {
            *kept = Some(service);
        }
        drop(kept);
        self.note(|_, restore| {
            restore.threads = threads;
            restore.register_ns = Some(nanos(begun.elapsed()));
        });
        Ok(())
    }

    /// All pages have come.
    pub(super) fn filled(&self, fill: &FillReport) {
        let service = lock(&self.service).take();
        self.note(|report, restore| {
            restore.verified_pages = fill.pages;
            restore.fill_ns = fill.all_in_ns.unwrap_or(0);
            restore.fill = Some(fill.clone());
            report.ram.data_pages = fill.pages;
            report.ram.bytes = fill.pages.saturating_mul(PAGE_SIZE);
        });
        self.observer.filled(fill);
        // With it goes the file.
        drop(service);
    }

    fn load(&self, reader: &Reader, machine: &dyn DestinationMachine) -> Result<(), MotionError> {
        let begun = Instant::now();
        let state = Bundle::decode(reader.state())
            .map_err(|e| MotionError::new(Code::BadState, format!("reading the state: {e}")))?;
        machine.restore(state)?;
        self.note(|_, restore| restore.state_ns = nanos(begun.elapsed()));
        Ok(())
    }
}

/// RAM is there already, and is the one that the state belongs to.
fn check_in_place(reader: &Reader, machine: &dyn DestinationMachine) -> Result<(), MotionError> {
    let both = reader.apart().zip(machine.ram().memory_file());
    let Some((Apart { identity, generation, path: _ }, file)) = both else {
        let why = "RAM is to stay in place, and the machine was built with RAM of its own";
        return Err(MotionError::new(Code::Internal, why));
    };
    if !keeps(Rule::RanOnIsRefused) {
        return Ok(());
    }
    let of = *reader.header().machine.as_bytes();
    file.check_fits(*identity.as_bytes(), of, reader.header().ram(), *generation)
        .map_err(MotionError::from)
}

/// Hears what becomes of RAM that comes on demand.
struct Filling(Weak<Restore>);

impl FillObserver for Filling {
    fn outage(&self, outage: &Outage) {
        if let Some(restore) = self.0.upgrade() {
            restore.observer.outage(outage);
        }
    }

    fn finished(&self, report: &FillReport) {
        if let Some(restore) = self.0.upgrade() {
            restore.filled(report);
        }
    }
}
