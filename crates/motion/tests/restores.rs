//! Restores of simulated machines from real files: what the file says is what comes, once, and
//! nothing runs that was not verified and claimed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

extern crate whimbrel_motion as motion;

mod simulated;

use memory::{Backing, PageRange, PageSet};
use motion::restore::{Claimant, How, Phase, RestoreJob, RestoreOptions, Terms};
use motion::{
    DestinationMachine, Machine, MachineBuilder, MotionError, Report, SourceMachine, Status,
};
use simulated::{Builder, Notes, Simulated};
use snapshot::{Header, Kind, Origin, Reader, Target, WriteOptions, Writer};
use state::{Bundle, Code, Refusal};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A guest in a file.
struct Saved {
    guest: Arc<Simulated>,
    folder: tempfile::TempDir,
}

impl Saved {
    fn new(kind: Kind) -> Self {
        let guest = Simulated::booted();
        for page in 0..600 {
            assert!(guest.write(page * 3, u8::try_from(page % 255).unwrap()));
        }
        guest.pause().unwrap();
        let this = Self { guest, folder: tempfile::tempdir().unwrap() };
        this.write(kind, &this.guest.save().unwrap().encode());
        this
    }

    fn write(&self, kind: Kind, state: &[u8]) {
        let ram = self.guest.ram();
        let header = Header {
            kind,
            machine: Uuid::from_u128(5),
            name: "m".to_owned(),
            snapshot: Uuid::new_v4(),
            taken: 1_700_000_000_000_000_000,
            builder: "test".to_owned(),
            regions: ram.layout().regions().to_vec(),
            backing: Backing::Small,
            apart: false,
        };
        let target = Target::Path { path: self.path(), offset: 0, force: true };
        let description = self.guest.describe().unwrap().encode();
        let options = WriteOptions { direct: false };
        let writer = Writer::create(target, header, &description, &options).unwrap();
        let mut lane = writer.lane();
        for run in self.guest.touched() {
            lane.write(ram, run).unwrap();
        }
        lane.flush().unwrap();
        writer.finish(state, &PageSet::new(ram.pages())).unwrap();
        writer.commit().unwrap();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    fn open(&self) -> Reader {
        Reader::open(Origin::Path { path: self.path(), offset: 0 }, false).unwrap()
    }

    fn restore(&self, options: RestoreOptions) -> Result<Restoring, MotionError> {
        self.restore_with(options, Builder::default())
    }

    fn restore_with(
        &self,
        options: RestoreOptions,
        builder: Builder,
    ) -> Result<Restoring, MotionError> {
        let (builder, notes) = (Arc::new(builder), Arc::new(Notes::default()));
        RestoreJob::start(self.open(), "file", builder.clone(), options, notes.clone())
            .map(|job| Restoring { job, builder, notes })
    }
}

/// Waits for what comes soon.
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Restoring {
    job: RestoreJob,
    builder: Arc<Builder>,
    notes: Arc<Notes>,
}

impl Restoring {
    fn completes(&self) -> Report {
        let report = self.job.wait();
        assert_eq!(report.status.0, Status::Completed, "{report:#?}");
        report
    }

    fn fails(&self) -> Report {
        let report = self.job.wait();
        assert_eq!(report.status.0, Status::Failed, "{report:#?}");
        assert_eq!(self.job.phase(), Phase::Ended);
        let guest = self.guest();
        assert!(!guest.is_running() && !guest.has_permit());
        report
    }

    fn guest(&self) -> Arc<Simulated> {
        self.builder.built().unwrap()
    }
}

/// Builds a machine only when it is told to.
struct Gated {
    builder: Builder,
    gate: Mutex<Receiver<()>>,
}

impl MachineBuilder for Gated {
    fn check(&self, description: &Bundle) -> Vec<Refusal> {
        self.builder.check(description)
    }

    fn build(&self, description: Bundle) -> Result<Arc<dyn DestinationMachine>, Vec<Refusal>> {
        self.gate.lock().unwrap().recv().unwrap();
        self.builder.build(description)
    }
}

fn options() -> RestoreOptions {
    RestoreOptions {
        terms: Terms::AsSaved,
        how: How::Eager,
        paused: false,
        verify: true,
        io_stall: Duration::from_secs(5),
        claimant: Claimant { host: "here".to_owned(), boot: Uuid::from_u128(9) },
        threads: 3,
    }
}

fn error(report: &Report) -> (Code, &str) {
    let error = report.error.as_ref().unwrap();
    (error.code, &error.why)
}

#[test]
fn a_saved_guest_comes_whole_and_runs_claimed() {
    let saved = Saved::new(Kind::Save);
    let restoring = saved.restore(options()).unwrap();
    let report = restoring.completes();
    let guest = restoring.guest();
    assert!(guest.is_running() && guest.has_permit());
    assert_eq!(guest.contents(), saved.guest.contents());
    assert_eq!(guest.writes(), saved.guest.writes());
    // The page that was written with zeroes was touched and is a hole.
    let pages = saved.open().present().count();
    let details = report.restore.as_ref().unwrap();
    assert_eq!((report.ram.data_pages, details.verified_pages), (pages, pages));
    assert_eq!((details.kind, details.claims, details.clone), ("save", true, false));
    assert!(details.claim_ns.is_some() && details.first_instruction_ns.is_some());
    assert!(report.total_ns >= details.fill_ns + details.state_ns);
    let claim = saved.open().claim().cloned().unwrap();
    assert_eq!((claim.host.as_str(), claim.boot), ("here", Uuid::from_u128(9)));
    assert_eq!(motion::handover::Token(claim.token).to_string(), report.token);
    let seen = restoring.notes.seen.lock().unwrap().clone();
    assert_eq!(seen, [Status::Setup, Status::Active, Status::Device, Status::Completed]);
    assert_eq!(restoring.notes.resumed.load(Ordering::SeqCst), 1);
    assert_eq!(restoring.job.phase(), Phase::Owner);
}

#[test]
fn pages_that_the_file_has_not_stay_untouched() {
    let saved = Saved::new(Kind::Snapshot);
    let restoring = saved.restore(options()).unwrap();
    restoring.completes();
    let touched: u64 = restoring.guest().touched().iter().map(|run| run.count).sum();
    assert_eq!(touched, saved.open().present().count());
}

#[test]
fn a_saved_guest_goes_on_once() {
    let saved = Saved::new(Kind::Save);
    saved.restore(options()).unwrap().completes();
    let refused = saved.restore(options()).map(|_| ()).unwrap_err();
    assert_eq!(refused.code, Code::SnapshotClaimed);
    for word in ["host here", "second", "--clone", "--reclaim", &Uuid::from_u128(9).to_string()] {
        assert!(refused.why.contains(word), "{word}: {refused}");
    }
    assert_eq!(refused.refusals.len(), 1);
    let before = saved.open().claim().cloned();
    let copy = saved.restore(RestoreOptions { terms: Terms::Clone, ..options() }).unwrap();
    copy.completes();
    assert_eq!(saved.open().claim().cloned(), before, "a copy claims nothing");
    let again = saved.restore(RestoreOptions { terms: Terms::Reclaim, ..options() }).unwrap();
    let report = again.completes();
    let token = saved.open().claim().unwrap().token;
    assert_eq!(motion::handover::Token(token).to_string(), report.token);
}

#[test]
fn of_two_that_take_a_saved_guest_at_once_one_has_it() {
    let saved = Saved::new(Kind::Save);
    let paused = RestoreOptions { paused: true, ..options() };
    let both = [saved.restore(paused.clone()).unwrap(), saved.restore(paused).unwrap()];
    both.iter().for_each(|restoring| drop(restoring.completes()));
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            both.iter().map(|restoring| scope.spawn(|| restoring.job.cont())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let run: Vec<_> = both.iter().map(|restoring| restoring.guest().is_running()).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    assert_eq!(run, [results[0].is_ok(), results[1].is_ok()]);
    let loser = results.iter().find_map(|result| result.as_ref().err()).unwrap();
    assert!(matches!(loser.code, Code::SnapshotClaimed | Code::Busy), "{loser:?}");
}

#[test]
fn a_guest_that_is_to_stay_stopped_is_claimed_when_it_is_resumed() {
    let saved = Saved::new(Kind::Save);
    let restoring = saved.restore(RestoreOptions { paused: true, ..options() }).unwrap();
    let report = restoring.completes();
    assert_eq!(report.restore.unwrap().first_instruction_ns, None);
    assert_eq!(restoring.job.phase(), Phase::Held);
    let guest = restoring.guest();
    assert!(!guest.is_running() && !guest.has_permit());
    assert!(saved.open().claim().is_none());
    restoring.job.cont().unwrap();
    assert!(guest.is_running() && saved.open().claim().is_some());
    assert!(restoring.job.report().restore.unwrap().first_instruction_ns.is_some());
    restoring.job.cont().unwrap();
    restoring.job.cancel().unwrap();
    assert!(guest.is_running());
}

#[test]
fn a_copy_that_is_to_stay_stopped_may_be_run_by_its_permit() {
    let saved = Saved::new(Kind::Snapshot);
    let restoring = saved.restore(RestoreOptions { paused: true, ..options() }).unwrap();
    restoring.completes();
    assert_eq!(restoring.job.phase(), Phase::Owner);
    let guest = restoring.guest();
    assert!(!guest.is_running() && guest.has_permit());
    assert!(saved.open().claim().is_none());
}

#[test]
fn a_claim_that_cannot_be_written_leaves_a_held_guest_held() {
    let saved = Saved::new(Kind::Save);
    let restoring = saved.restore(RestoreOptions { paused: true, ..options() }).unwrap();
    restoring.completes();
    // Somebody replaces the file, so that the claim would go where nobody looks.
    let aside = saved.folder.path().join("aside");
    std::fs::rename(saved.path(), &aside).unwrap();
    let error = restoring.job.cont().unwrap_err();
    assert_eq!(error.code, Code::HostIo, "{error}");
    let guest = restoring.guest();
    assert!(!guest.is_running() && !guest.has_permit());
    assert_eq!(restoring.job.phase(), Phase::Held);
    std::fs::rename(&aside, saved.path()).unwrap();
    restoring.job.cont().unwrap();
    assert!(guest.is_running() && saved.open().claim().is_some());
}

#[test]
fn a_file_that_cannot_be_written_gives_copies_only() {
    let saved = Saved::new(Kind::Save);
    // A descriptor that can only be read, as of media that can only be read: root may write any file.
    let read_only = || {
        let file = File::open(saved.path()).unwrap().into();
        let (direct, offset, name) = (None, 0, "media".to_owned());
        Reader::open(Origin::Descriptor { file, direct, offset, name }, false).unwrap()
    };
    let start = |terms| {
        let (builder, notes) = (Arc::new(Builder::default()), Arc::new(Notes::default()));
        let options = RestoreOptions { terms, ..options() };
        RestoreJob::start(read_only(), "media", builder, options, notes)
    };
    let error = start(Terms::AsSaved).map(|_| ()).unwrap_err();
    assert_eq!(error.code, Code::HostIo);
    assert!(error.why.contains("--clone"), "{error}");
    let report = start(Terms::Clone).unwrap().wait();
    assert_eq!(report.status.0, Status::Completed, "{report:#?}");
}

#[test]
fn a_damaged_page_is_found_and_named_and_the_guest_neither_runs_nor_is_claimed() {
    let saved = Saved::new(Kind::Save);
    let reader = saved.open();
    let page = reader.present().runs().last().unwrap().start;
    let place = reader.place_of(page) + 1234;
    let file = File::options().read(true).write(true).open(saved.path()).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], place).unwrap();
    let restoring = saved.restore(options()).unwrap();
    let report = restoring.fails();
    let (code, why) = error(&report);
    assert_eq!(code, Code::SnapshotCorrupt);
    assert!(why.contains(&reader.place_of(page).to_string()), "{why}");
    assert!(saved.open().claim().is_none());
    // Undamaged again, it is as good as ever.
    file.write_all_at(&byte, place).unwrap();
    saved.restore(options()).unwrap().completes();
}

#[test]
fn a_state_that_cannot_be_loaded_costs_no_claim() {
    let saved = Saved::new(Kind::Save);
    saved.write(Kind::Save, b"no state");
    let restoring = saved.restore(options()).unwrap();
    let report = restoring.fails();
    assert_eq!(error(&report).0, Code::BadState);
    assert!(saved.open().claim().is_none());
}

#[test]
fn what_is_against_it_is_said_before_anything_is_built() {
    let saved = Saved::new(Kind::Save);
    let refusal = |code| Refusal::new(code, "cpu", "it is another", "");
    let builder = Builder::default();
    *builder.refusals.lock().unwrap() =
        vec![refusal(Code::IncompatibleCpu), refusal(Code::IncompatibleTsc)];
    let error = saved.restore_with(options(), builder).map(|_| ()).unwrap_err();
    assert_eq!(error.code, Code::IncompatibleCpu);
    assert_eq!(error.refusals.len(), 2);
    assert!(saved.open().claim().is_none());
}

#[test]
fn a_restore_that_is_cancelled_brings_no_guest() {
    let saved = Saved::new(Kind::Save);
    let (go, gate) = std::sync::mpsc::channel();
    let builder = Arc::new(Gated { builder: Builder::default(), gate: Mutex::new(gate) });
    let notes = Arc::new(Notes::default());
    let job =
        RestoreJob::start(saved.open(), "file", builder.clone(), options(), notes.clone()).unwrap();
    job.cancel().unwrap();
    go.send(()).unwrap();
    let report = job.wait();
    assert_eq!(report.status.0, Status::Cancelled, "{report:#?}");
    assert_eq!(error(&report).0, Code::Cancelled);
    assert!(!builder.builder.built().unwrap().has_permit());
    assert!(saved.open().claim().is_none());
    assert_eq!(notes.resumed.load(Ordering::SeqCst), 0);
}

#[test]
fn a_guest_whose_ram_comes_while_it_runs_comes_whole_and_verified() {
    let saved = Saved::new(Kind::Save);
    let lazily = RestoreOptions { how: How::Lazy, ..options() };
    let restoring = saved.restore(lazily).unwrap();
    let report = restoring.completes();
    let details = report.restore.unwrap();
    assert_eq!(details.how, "lazy");
    assert!(details.claim_ns.is_some() && details.first_instruction_ns.is_some());
    let guest = restoring.guest();
    assert!(guest.is_running());
    // Looking at it brings what has not come.
    assert_eq!(guest.contents(), saved.guest.contents());
    wait("RAM to be full", || restoring.notes.filled.load(Ordering::SeqCst) == 1);
    wait("whoever filled it to let go", || guest.ram().filling().is_none());
    let report = restoring.job.report();
    let pages = saved.open().present().count();
    let details = report.restore.unwrap();
    assert_eq!((details.verified_pages, report.ram.data_pages), (pages, pages));
    assert!(details.fill_ns > 0 && restoring.job.outage().is_none());
    let progress = restoring.job.progress();
    assert_eq!((progress.pass_pages, progress.pass_done), (pages, pages));
}

#[test]
fn a_damaged_page_is_an_outage_of_a_guest_whose_ram_comes_while_it_runs() {
    let saved = Saved::new(Kind::Save);
    let reader = saved.open();
    let page = reader.present().runs().last().unwrap().start;
    let place = reader.place_of(page) + 7;
    let file = File::options().read(true).write(true).open(saved.path()).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 1], place).unwrap();
    // Where the damage is found before the guest runs, that is the end of it: nothing was claimed, and it
    // can be tried again.
    let restoring = loop {
        let lazily = RestoreOptions { how: How::Lazy, ..options() };
        let restoring = saved.restore(lazily).unwrap();
        if restoring.job.wait().status.0 == Status::Completed {
            break restoring;
        }
        assert!(error(&restoring.fails()).1.contains("damaged"));
    };
    wait("an outage", || !restoring.notes.outages.lock().unwrap().is_empty());
    let outage = restoring.notes.outages.lock().unwrap().first().cloned().unwrap();
    assert_eq!(restoring.job.outage().as_ref(), Some(&outage));
    assert_eq!(outage.offset, page * 4096);
    assert!(outage.why.contains("damaged"), "{outage:?}");
    let mut bytes = [0; 4096];
    let guest = restoring.guest();
    assert!(guest.ram().read(PageRange::new(page, 1), &mut bytes).is_err(), "no zeroes instead");
    file.write_all_at(&byte, place).unwrap();
    restoring.job.retry().unwrap();
    assert_eq!(guest.contents(), saved.guest.contents());
    wait("RAM to be full", || guest.ram().filling().is_none());
}

#[test]
fn progress_counts_the_pages_of_the_file() {
    let saved = Saved::new(Kind::Snapshot);
    let restoring = saved.restore(options()).unwrap();
    restoring.completes();
    let progress = restoring.job.progress();
    let pages = saved.open().present().count_in(PageRange::new(0, saved.guest.ram().pages()));
    assert_eq!((progress.pass_pages, progress.pass_done), (pages, pages));
    assert_eq!(progress.bytes, pages * 4096);
}

fn mapped(saved: &Saved, verify: bool) -> Result<Restoring, MotionError> {
    let image = Arc::new(saved.open().image().unwrap());
    let builder = Builder { image: Mutex::new(Some(image)), ..Builder::default() };
    saved.restore_with(RestoreOptions { how: How::Mapped, verify, ..options() }, builder)
}

#[test]
fn a_mapped_guest_is_verified_whole_and_reads_what_was_saved() {
    let saved = Saved::new(Kind::Save);
    let restoring = mapped(&saved, true).unwrap();
    let report = restoring.completes().restore.unwrap();
    assert_eq!((report.how, report.verified_pages), ("mmap", saved.open().present().count()));
    let all = PageRange::new(0, saved.guest.ram().pages());
    let contents = |guest: &Simulated| {
        let mut bytes = vec![0; usize::try_from(all.bytes()).unwrap()];
        guest.ram().read(all, &mut bytes).unwrap();
        bytes
    };
    let guest = restoring.guest();
    assert!(contents(&guest) == contents(&saved.guest), "RAM is not what was saved");
    assert!(guest.touched().into_iter().eq(saved.open().present().runs()));
    assert!(guest.is_running());
    // Its RAM has to be the file's.
    let report = saved.restore(RestoreOptions { how: How::Mapped, ..again() }).unwrap().fails();
    assert_eq!(error(&report).0, Code::Internal);
}

/// Once more.
fn again() -> RestoreOptions {
    RestoreOptions { terms: Terms::Reclaim, ..options() }
}

#[test]
fn what_is_wrong_with_a_mapped_page_is_found_beforehand_unless_nobody_wants_to_know() {
    let saved = Saved::new(Kind::Snapshot);
    let reader = saved.open();
    let file = File::options().write(true).open(saved.path()).unwrap();
    // Of a page that is there, and of one that is said to be zero.
    for (page, was) in [(3, 1), (4, 0)] {
        assert_eq!(reader.present().contains(page), page == 3);
        let mut byte = [0];
        let at = reader.place_of(page) + 77;
        File::open(saved.path()).unwrap().read_exact_at(&mut byte, at).unwrap();
        assert_eq!(byte[0] != 0, was != 0);
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let report = mapped(&saved, true).unwrap().fails();
        let (code, why) = error(&report);
        assert_eq!(code, Code::SnapshotCorrupt);
        assert!(why.contains(&format!("page {page} ")), "{why}");
        mapped(&saved, false).unwrap().completes();
        file.write_all_at(&byte, at).unwrap();
        mapped(&saved, true).unwrap().completes();
    }
}
