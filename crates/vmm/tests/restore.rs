//! Guests of the KVM of this host that go on from a file, whatever their RAM was made of and is made
//! of then. The guest checks itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use guest::Builtin;
use memory::{Backing, GuestRam, PageRange, PageSet};
use motion::restore::{Claimant, How, RestoreJob, RestoreOptions, Terms};
use motion::{Machine as _, Observer, Report, SourceMachine as _, Status};
use rig::{Rig, Screen, builder};
use snapshot::{Header, Kind, Origin, Reader, Target, WriteOptions, Writer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;
use whimbrel_vmm::{GuestClock, Vm, Wishes};

const MIB: u64 = 1 << 20;

/// Hears nothing.
struct Deaf;

impl Observer for Deaf {
    fn status(&self, _: Status) {}
    fn pass(&self, _: u32) {}
    fn stopped(&self) {}
    fn resumed(&self) {}
    fn handover(&self, _: &str, _: &'static str) {}
    fn finished(&self, _: &Report) {}
}

/// Stops a machine and saves it.
fn save(vm: &Vm, folder: &TempDir) -> PathBuf {
    vm.pause().unwrap();
    let (ram, config) = (vm.ram(), vm.config());
    let header = Header {
        kind: Kind::Save,
        machine: config.uuid,
        name: config.name.clone(),
        snapshot: Uuid::new_v4(),
        taken: 0,
        builder: "test".to_owned(),
        regions: ram.layout().regions().to_vec(),
        backing: ram.backing(),
        apart: false,
    };
    let path = folder.path().join("guest.save");
    let target = Target::Path { path: path.clone(), offset: 0, force: true };
    let description = vm.describe().unwrap().encode();
    let options = WriteOptions { direct: false };
    let writer = Writer::create(target, header, &description, &options).unwrap();
    let mut lane = writer.lane();
    for run in ram.touched(PageRange::new(0, ram.pages())).unwrap() {
        lane.write(ram, run).unwrap();
    }
    lane.flush().unwrap();
    let state = vm.save().unwrap().encode();
    writer.finish(&state, &PageSet::new(ram.pages())).unwrap();
    writer.commit().unwrap();
    path
}

/// Takes a guest out of a file.
fn restore(path: &Path, backing: Backing) -> (Arc<Vm>, Arc<Screen>) {
    let wishes =
        Wishes { backing: Some(backing), clock: GuestClock::Continue, ..Wishes::default() };
    let (builder, screen) = builder(wishes);
    let builder = Arc::new(builder);
    let options = RestoreOptions {
        terms: Terms::AsSaved,
        how: How::Eager,
        paused: false,
        claimant: Claimant { host: "here".to_owned(), boot: Uuid::nil() },
        verify: true,
        io_stall: Duration::from_secs(5),
        threads: 2,
    };
    let reader = Reader::open(Origin::Path { path: path.to_owned(), offset: 0 }, true).unwrap();
    let job = RestoreJob::start(reader, "file", builder.clone(), options, Arc::new(Deaf)).unwrap();
    let report = job.wait();
    assert_eq!(report.status.0, Status::Completed, "{report:#?}");
    (builder.built().unwrap(), screen)
}

/// The guest goes on: it reports again, and finds nothing wrong.
fn is_well(screen: &Screen) {
    let text = screen.wait_for_more("CHECK", 2);
    assert!(!text.contains("FAULT") && text.contains("faults=0"), "{text}");
}

fn booted(vcpus: u32, memory: u64, backing: Backing, cmdline: &str) -> Rig {
    let ram = GuestRam::new(memory, backing).unwrap();
    let config = whimbrel_vmm::MachineConfig { backing, ..rig::config(memory, vcpus) };
    let rig = Rig::empty(config, ram);
    rig.vm.boot(rig::source(Builtin::SelfCheck.image(), cmdline)).unwrap();
    rig.start();
    rig.screen.wait_for_more("CHECK", 2);
    rig
}

#[test]
fn a_guest_goes_on_from_its_file_however_many_vcpus_it_has() {
    for vcpus in [1, 2, 8] {
        let folder = TempDir::new().unwrap();
        let rig = booted(vcpus, 64 * MIB, Backing::Small, "ws=8M report=50ms");
        let path = save(&rig.vm, &folder);
        drop(rig);
        let (_vm, screen) = restore(&path, Backing::Small);
        is_well(&screen);
    }
}

#[test]
fn a_guest_goes_on_with_ram_above_4_gib_of_which_it_uses_little() {
    let folder = TempDir::new().unwrap();
    let rig = booted(2, 5 << 30, Backing::Small, "ws=8M report=50ms");
    let path = save(&rig.vm, &folder);
    drop(rig);
    let (vm, screen) = restore(&path, Backing::Small);
    is_well(&screen);
    // What it never touched was neither saved nor read.
    let ram = vm.ram();
    let touched: u64 =
        ram.touched(PageRange::new(0, ram.pages())).unwrap().iter().map(|r| r.bytes()).sum();
    assert!(touched < 64 * MIB, "{touched} bytes");
}

#[test]
fn a_guest_that_is_saved_and_restored_again_and_again_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let rig = booted(2, 64 * MIB, Backing::Small, "ws=8M report=50ms");
    let mut path = save(&rig.vm, &folder);
    drop(rig);
    for _ in 0..20 {
        let (vm, screen) = restore(&path, Backing::Small);
        is_well(&screen);
        path = save(&vm, &folder);
    }
}
