use super::*;
use memory::{Backing, Filling as _, GuestRam, PAGE_SIZE, PageRange, PageSet};
use rustix::fs::FallocateFlags;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Condvar, Mutex, OnceLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use vm_memory::{Bytes as _, GuestAddress};

const PAGES: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(60);

/// The first word of a page, as it was saved.
fn word(page: u64) -> u64 {
    page * 3 + 1
}

/// What the source does when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Serves,
    Fails,
    /// Says nothing until it is in another mood, and then serves.
    Hangs,
    /// The same, but for what this page is in.
    HangsBut(u64),
    /// What is asked now gets no answer until it is released, whatever mood follows.
    Sticks,
}

/// A source in memory.
struct Source {
    present: PageSet,
    recent: PageSet,
    mood: Mutex<Mood>,
    changed: Condvar,
    released: AtomicBool,
    /// How many reads hang at this moment.
    hanging: AtomicU64,
    reads: AtomicU64,
}

impl Source {
    fn new(present: PageSet) -> Arc<Self> {
        let recent = PageSet::new(present.pages());
        Arc::new(Self {
            present,
            recent,
            mood: Mutex::new(Mood::Serves),
            changed: Condvar::new(),
            released: AtomicBool::new(false),
            hanging: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        })
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.changed.notify_all();
    }

    fn release(&self) {
        let _mood = self.mood.lock().unwrap();
        self.released.store(true, SeqCst);
        self.changed.notify_all();
    }
}

struct Lane<'a> {
    source: &'a Source,
    buffer: Vec<u8>,
}

impl PageSource for Source {
    fn present(&self) -> &PageSet {
        &self.present
    }
    fn recent(&self) -> &PageSet {
        &self.recent
    }
    fn lane(&self) -> Box<dyn PageLane + '_> {
        Box::new(Lane { source: self, buffer: Vec::new() })
    }
}

impl PageLane for Lane<'_> {
    fn read(&mut self, range: PageRange, _: &mut dyn FnMut()) -> Result<&[u8], PageReadError> {
        let source = self.source;
        source.reads.fetch_add(1, SeqCst);
        let mut mood = source.mood.lock().unwrap();
        if *mood == Mood::Fails {
            let page = range.start;
            return Err(PageReadError { page, why: "the disk is on fire".to_owned() });
        }
        source.hanging.fetch_add(1, SeqCst);
        let sticks = *mood == Mood::Sticks;
        let hangs = |mood: Mood| match mood {
            Mood::Hangs => true,
            Mood::HangsBut(page) => !(range.start..range.end()).contains(&page),
            _ => false,
        };
        while hangs(*mood) || sticks && !source.released.load(SeqCst) {
            mood = source.changed.wait(mood).unwrap();
        }
        source.hanging.fetch_sub(1, SeqCst);
        drop(mood);
        self.buffer.clear();
        for page in range.start..range.end() {
            let word = if source.present.contains(page) { word(page) } else { 0 };
            self.buffer.extend(word.to_le_bytes());
            self.buffer.resize(self.buffer.len() + 4088, 0);
        }
        Ok(&self.buffer)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Outage(Outage),
    Finished(Box<FillReport>),
}

struct Ear(Mutex<Sender<Word>>);

impl FillObserver for Ear {
    fn outage(&self, outage: &Outage) {
        let _ = self.0.lock().unwrap().send(Word::Outage(outage.clone()));
    }
    fn finished(&self, report: &FillReport) {
        let _ = self.0.lock().unwrap().send(Word::Finished(Box::new(report.clone())));
    }
}

struct Rig {
    ram: Arc<GuestRam>,
    source: Arc<Source>,
    service: PageService,
    heard: Receiver<Word>,
}

impl Rig {
    fn new(source: Arc<Source>, io_stall: Duration) -> Self {
        Self::on(Backing::Small, source, io_stall)
    }

    fn on(backing: Backing, source: Arc<Source>, io_stall: Duration) -> Self {
        let ram = Arc::new(GuestRam::new(PAGES * PAGE_SIZE, backing).unwrap());
        let userfault = Userfault::open(ram.clone()).unwrap();
        let (ear, heard) = mpsc::channel();
        let options = FillOptions { fault_threads: 2, stream_threads: 2, io_stall };
        let ear = Arc::new(Ear(Mutex::new(ear)));
        let service = PageService::start(userfault, source.clone(), ear, options).unwrap();
        Self { ram, source, service, heard }
    }

    /// Somebody who touches a page as the guest does.
    fn touch(&self, page: u64) -> JoinHandle<u64> {
        let ram = self.ram.clone();
        thread::spawn(move || ram.memory().read_obj(GuestAddress(page * PAGE_SIZE)).unwrap())
    }

    fn outage(&self) -> Outage {
        match self.heard.recv_timeout(PATIENCE).unwrap() {
            Word::Outage(outage) => outage,
            word => panic!("{word:?}"),
        }
    }

    fn finished(&self) -> FillReport {
        match self.heard.recv_timeout(PATIENCE).unwrap() {
            Word::Finished(report) => *report,
            word => panic!("{word:?}"),
        }
    }

    /// As [`Self::finished`], where the limit is so short that a busy host may overstep it.
    fn finished_after_all(&self) {
        while let Word::Outage(_) = self.heard.recv_timeout(PATIENCE).unwrap() {
            self.service.retry().unwrap();
        }
    }

    fn wait_until(&self, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < end, "{:?}", self.service);
            thread::yield_now();
        }
    }

    fn all(&self) -> PageRange {
        PageRange::new(0, PAGES)
    }

    fn check_contents(&self) {
        for page in 0..PAGES {
            let mut bytes = [0; 4096];
            self.ram.read(PageRange::new(page, 1), &mut bytes).unwrap();
            let expected = if self.source.present.contains(page) { word(page) } else { 0 };
            assert_eq!(bytes[..8], expected.to_le_bytes(), "page {page}");
        }
    }
}

impl Drop for Rig {
    /// No thread hangs on when its test has ended.
    fn drop(&mut self) {
        if let Some(filling) = self.ram.filling() {
            filling.abandon();
        }
        self.source.set(Mood::Serves);
        self.source.release();
    }
}

fn sparse() -> PageSet {
    let mut present = PageSet::new(PAGES);
    for start in (0..PAGES).step_by(97) {
        present.insert(PageRange::new(start, 1 + start % 40));
    }
    present
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn who_waits_for_pages_and_loses_interest_is_let_go_though_the_source_hangs() {
    let source = Source::new(PageSet::full(PAGES));
    source.set(Mood::Hangs);
    let rig = Rig::new(source, LONG);
    let wanted = Arc::new(AtomicBool::new(true));
    let waiter = {
        let (ram, wanted, all) = (rig.ram.clone(), wanted.clone(), rig.all());
        thread::spawn(move || ram.bring_while(all, &|| wanted.load(SeqCst)))
    };
    rig.wait_until(|rig| rig.source.hanging.load(SeqCst) > 0);
    wanted.store(false, SeqCst);
    assert!(!waiter.join().unwrap().unwrap());
    assert!(rig.source.hanging.load(SeqCst) > 0 && !rig.service.is_done());
    rig.source.set(Mood::Serves);
    assert!(rig.ram.bring_while(rig.all(), &|| true).unwrap());
    rig.finished();
    rig.check_contents();
}

#[test]
fn every_page_comes_and_what_the_source_has_not_stays_untouched() {
    let rig = Rig::new(Source::new(sparse()), LONG);
    let report = rig.finished();
    assert_eq!(rig.ram.resident(rig.all()).unwrap(), sparse().runs().collect::<Vec<_>>());
    rig.check_contents();
    assert_eq!((report.pages, report.fetched.sum()), (sparse().count(), sparse().count()));
    assert!(report.all_in_ns.is_some() && report.outages == 0);
    assert!(rig.service.is_done() && rig.ram.filling().is_none());
    let reads = rig.source.reads.load(SeqCst);
    assert_eq!(rig.touch(50).join().unwrap(), 0);
    assert_eq!(rig.source.reads.load(SeqCst), reads, "the source is needed no longer");
}

/// Has the host keep so many huge pages free.
fn reserve_huge_pages(count: u64) {
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let read = |name: &str| -> u64 {
        std::fs::read_to_string(format!("{pool}/{name}")).unwrap().trim().parse().unwrap()
    };
    let free = read("free_hugepages").saturating_sub(read("resv_hugepages"));
    if free < count {
        let wanted = read("nr_hugepages") + count - free;
        std::fs::write(format!("{pool}/nr_hugepages"), wanted.to_string()).unwrap();
    }
}

#[test]
fn huge_pages_come_as_a_whole() {
    reserve_huge_pages(PAGES / 512);
    let mut present = PageSet::new(PAGES);
    // Of the second, the fourth and the last huge page there is something.
    for run in [PageRange::new(700, 3), PageRange::new(1536, 512), PageRange::new(4095, 1)] {
        present.insert(run);
    }
    let source = Source::new(present);
    source.set(Mood::Hangs);
    let rig = Rig::on(Backing::Huge2M, source, LONG);
    let (there, beside) = (rig.touch(701), rig.touch(520));
    let absent = rig.touch(5);
    assert_eq!(absent.join().unwrap(), 0, "nobody is asked for what the source has not");
    assert!(!there.is_finished() && !beside.is_finished());
    rig.source.set(Mood::Serves);
    assert_eq!((there.join().unwrap(), beside.join().unwrap()), (word(701), 0));
    assert_eq!(rig.finished().chunk_pages, 512);
    rig.check_contents();
}

/// Readers that do nothing by themselves, and nobody who watches them.
#[derive(Clone, Default)]
struct Idle(Arc<Mutex<Vec<Arc<Reader>>>>);

impl Staff for Idle {
    fn hire(&self, _: &Arc<FillDesk>, _: Duty, reader: &Arc<Reader>) -> io::Result<()> {
        self.0.lock().unwrap().push(reader.clone());
        Ok(())
    }
    fn watch(&self, _: &Arc<FillDesk>) -> io::Result<()> {
        Ok(())
    }
}

/// Takes so long to put pages into RAM that the watchdog looks meanwhile, far later.
#[derive(Debug)]
struct Slow(Userfault, OnceLock<Weak<FillDesk>>);

impl Pager for Slow {
    fn ram(&self) -> &Arc<GuestRam> {
        self.0.ram()
    }
    fn unit(&self) -> u64 {
        self.0.unit()
    }
    fn register(&self, range: PageRange) -> io::Result<()> {
        self.0.register(range)
    }
    fn unregister_all(&self) -> io::Result<()> {
        self.0.unregister_all()
    }
    fn provide(&self, range: PageRange, contents: &[u8]) -> io::Result<u64> {
        self.1.get().and_then(Weak::upgrade).unwrap().watch(Instant::now() + LONG);
        self.0.provide(range, contents)
    }
    fn provide_zero(&self, range: PageRange) -> io::Result<u64> {
        self.0.provide_zero(range)
    }
    fn wake(&self, range: PageRange) -> io::Result<()> {
        self.0.wake(range)
    }
}

const STALL: Duration = Duration::from_secs(5);

/// RAM that nobody fills but the test, and one who could.
fn by_hand(source: &Arc<Source>) -> (Arc<FillDesk>, Arc<Reader>) {
    let ram = Arc::new(GuestRam::new(PAGES * PAGE_SIZE, Backing::Small).unwrap());
    let pager = Arc::new(Slow(Userfault::open(ram).unwrap(), OnceLock::new()));
    let (staff, ear) = (Idle::default(), Arc::new(Ear(Mutex::new(mpsc::channel().0))));
    let options = FillOptions { fault_threads: 1, stream_threads: 1, io_stall: STALL };
    let (means, hands) = (pager.clone(), Box::new(staff.clone()));
    let desk = FillDesk::start(means, source.clone(), ear, options, hands).unwrap();
    pager.1.set(Arc::downgrade(&desk)).unwrap();
    let reader = staff.0.lock().unwrap()[0].clone();
    (desk, reader)
}

#[test]
fn who_gets_part_after_part_is_not_given_up_however_long_it_takes() {
    let (desk, reader) = by_hand(&Source::new(PageSet::full(PAGES)));
    let (claim, begun) = (desk.next(1).unwrap(), Instant::now());
    desk.begin(&reader, &claim, begun);
    for part in 1..=10 {
        let now = begun + part * STALL / 5 * 4;
        desk.watch(now);
        desk.has_come(&reader, now);
    }
    assert!(desk.is_filling() && !reader.is_given_up());
    // No more comes.
    desk.watch(begun + 9 * STALL);
    assert!(desk.outage().is_some() && reader.is_given_up());
    desk.abandon();
}

#[test]
fn the_source_is_not_to_blame_when_putting_pages_into_ram_takes_long() {
    let source = Source::new(PageSet::full(PAGES));
    let (desk, reader) = by_hand(&source);
    let claim = desk.next(1).unwrap();
    desk.begin(&reader, &claim, Instant::now());
    let mut lane = source.lane();
    assert!(desk.end(&reader, &claim, lane.read(desk.pages_of(&claim), &mut || ())));
    assert!(desk.is_filling() && !reader.is_given_up());
    desk.abandon();
}

#[test]
fn a_source_that_has_nothing_is_done_at_once() {
    let rig = Rig::new(Source::new(PageSet::new(PAGES)), LONG);
    assert_eq!(rig.finished().pages, 0);
    assert!(rig.service.is_done());
    assert_eq!(rig.touch(7).join().unwrap(), 0);
}

#[test]
fn a_source_of_another_size_is_refused() {
    let ram = Arc::new(GuestRam::new(PAGES * PAGE_SIZE, Backing::Small).unwrap());
    let userfault = Userfault::open(ram).unwrap();
    let source = Source::new(PageSet::full(PAGES - 1));
    let ear = Arc::new(Ear(Mutex::new(mpsc::channel().0)));
    let error = PageService::start(userfault, source, ear, FillOptions::default()).unwrap_err();
    assert!(matches!(error, FillError::Size { .. }), "{error}");
}

#[test]
fn many_that_touch_pages_at_random_see_what_was_saved() {
    for round in 0..10u64 {
        let rig = Rig::new(Source::new(sparse()), LONG);
        thread::scope(|scope| {
            for thread in 0..4u64 {
                let (ram, source) = (&rig.ram, &rig.source);
                scope.spawn(move || {
                    let mut random = round * 10 + thread + 1;
                    for _ in 0..500 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005) | 1;
                        let page = (random >> 40) % PAGES;
                        let at = GuestAddress(page * PAGE_SIZE);
                        let seen: u64 = ram.memory().read_obj(at).unwrap();
                        let has = source.present.contains(page);
                        assert_eq!(seen, if has { word(page) } else { 0 }, "page {page}");
                    }
                });
            }
        });
        rig.finished();
        rig.check_contents();
    }
}

#[test]
fn a_read_that_fails_is_an_outage_and_nobody_sees_the_page() {
    let source = Source::new(PageSet::full(PAGES));
    source.set(Mood::Fails);
    let rig = Rig::new(source, LONG);
    let outage = rig.outage();
    assert!(outage.why.contains("on fire"), "{outage:?}");
    assert_eq!(outage.offset % PAGE_SIZE, 0);
    assert_eq!(rig.service.outage(), Some(outage));
    let waiting = rig.touch(1234);
    thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished(), "it went on without its page");
    for result in
        [rig.ram.touched(rig.all()).map(drop), rig.ram.read(PageRange::new(9, 1), &mut [0; 4096])]
    {
        assert!(result.unwrap_err().to_string().contains("on fire"));
    }
    assert_eq!(rig.ram.resident(rig.all()).unwrap(), []);
    // Retrying while it still fails is another outage, said once.
    rig.service.retry().unwrap();
    rig.outage();
    assert!(!waiting.is_finished());
    rig.source.set(Mood::Serves);
    rig.service.retry().unwrap();
    assert_eq!(waiting.join().unwrap(), word(1234));
    let report = rig.finished();
    assert_eq!(report.outages, 2);
    rig.check_contents();
    assert!(rig.heard.try_recv().is_err(), "an outage is said once");
}

#[test]
fn a_source_that_does_not_answer_is_noticed_without_its_threads() {
    let source = Source::new(PageSet::full(PAGES));
    source.set(Mood::Hangs);
    let rig = Rig::new(source, Duration::from_millis(50));
    let waiting = [rig.touch(3000), rig.touch(100)];
    let outage = rig.outage();
    assert!(outage.why.contains("has not ended"), "{outage:?}");
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    assert!(rig.ram.touched(rig.all()).is_err(), "whoever asks is not kept waiting");
    // It still hangs: those that replace the first threads are given up in turn.
    rig.service.retry().unwrap();
    rig.outage();
    rig.source.set(Mood::Serves);
    rig.service.retry().unwrap();
    rig.finished_after_all();
    for (waiting, page) in waiting.into_iter().zip([3000, 100]) {
        assert_eq!(waiting.join().unwrap(), word(page));
    }
    rig.check_contents();
}

#[test]
fn what_comes_late_from_a_read_that_was_given_up_goes_nowhere() {
    let source = Source::new(PageSet::full(PAGES));
    source.set(Mood::Sticks);
    let rig = Rig::new(source, Duration::from_millis(50));
    let waiting = rig.touch(0);
    rig.outage();
    assert!(rig.source.hanging.load(SeqCst) > 0);
    // Others fetch it all.
    rig.source.set(Mood::Serves);
    rig.service.retry().unwrap();
    rig.finished_after_all();
    assert_eq!(waiting.join().unwrap(), word(0));
    // The guest discards what it got: a page that came late would be there again.
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(rig.ram.file().unwrap(), hole, 0, PAGES * PAGE_SIZE).unwrap();
    rig.source.release();
    rig.wait_until(|rig| rig.source.hanging.load(SeqCst) == 0);
    for page in 0..PAGES {
        assert_eq!(rig.ram.memory().read_obj::<u64>(GuestAddress(page * PAGE_SIZE)).unwrap(), 0);
    }
}

#[test]
fn a_page_that_the_guest_discards_is_zero_and_waits_for_nobody() {
    let source = Source::new(PageSet::full(PAGES));
    source.set(Mood::HangsBut(10));
    let rig = Rig::new(source, LONG);
    assert_eq!(rig.touch(10).join().unwrap(), word(10));
    assert!(!rig.service.is_done(), "the source hangs");
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(rig.ram.file().unwrap(), hole, 10 * PAGE_SIZE, PAGE_SIZE).unwrap();
    assert_eq!(rig.touch(10).join().unwrap(), 0);
    rig.source.set(Mood::Serves);
    rig.finished();
}

#[test]
fn who_looks_at_ram_that_is_being_filled_sees_what_was_saved() {
    let rig = Rig::new(Source::new(sparse()), LONG);
    let runs = rig.ram.touched(PageRange::new(2000, 1000)).unwrap();
    let expected: Vec<_> = sparse().runs_in(PageRange::new(2000, 1000)).collect();
    assert_eq!(runs, expected);
    rig.check_contents();
    // Clearing wins over what comes: here all of it, as a reset does.
    let rig = Rig::new(Source::new(sparse()), LONG);
    rig.ram.zero(rig.all()).unwrap();
    rig.finished();
    for page in 0..PAGES {
        assert!(!sparse().contains(page) || rig.ram.is_zero(page).unwrap(), "page {page}");
    }
}

#[test]
fn a_machine_that_ends_lets_everybody_go_however_the_source_hangs() {
    let source = Source::new(PageSet::full(PAGES));
    source.set(Mood::Hangs);
    let rig = Rig::new(source, LONG);
    let waiting = rig.touch(99);
    let asking = thread::spawn({
        let ram = rig.ram.clone();
        move || ram.touched(PageRange::new(0, 10))
    });
    rig.wait_until(|rig| rig.source.hanging.load(SeqCst) > 0);
    rig.ram.filling().unwrap().abandon();
    waiting.join().unwrap();
    assert!(asking.join().unwrap().is_err());
    // What has not come is not zero: it is not to be had.
    assert!(rig.ram.touched(rig.all()).is_err());
    assert!(!rig.service.is_done());
    rig.service.retry().unwrap();
    assert!(rig.heard.try_recv().is_err());
}

#[test]
fn waits_are_counted_for_who_waited() {
    let source = Source::new(PageSet::full(PAGES));
    source.set(Mood::Hangs);
    let rig = Rig::new(source, LONG);
    let waiting = [rig.touch(3000), rig.touch(3001), rig.touch(2000)];
    rig.wait_until(|rig| {
        let faults = rig.service.report().faults;
        faults.fetched + faults.underway >= 2
    });
    rig.source.set(Mood::Serves);
    for (waiting, page) in waiting.into_iter().zip([3000, 3001, 2000]) {
        assert_eq!(waiting.join().unwrap(), word(page));
    }
    let report = rig.finished();
    let FillReport { latency, waits, faults, .. } = report;
    assert!(latency.count >= 2 && latency.max_ns > 0, "{latency:?}");
    assert_eq!(waits.iter().map(|w| w.count).sum::<u64>(), latency.count);
    assert!(waits.len() >= 2 && waits.iter().all(|w| w.ns > 0), "{waits:?}");
    assert!(latency.count <= faults.fetched + faults.underway + faults.zero);
}
