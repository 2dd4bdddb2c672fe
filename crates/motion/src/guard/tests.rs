use super::*;
use memory::{Backing, PAGE_SIZE};
use std::collections::BTreeMap;
use vm_memory::{Bytes as _, GuestAddress};

const LONG: Duration = Duration::from_secs(60);

fn ram(mib: u64) -> Arc<GuestRam> {
    Arc::new(GuestRam::new(mib << 20, Backing::Small).unwrap())
}

fn write(ram: &GuestRam, page: u64, value: u64) {
    ram.memory().write_obj(value, GuestAddress(page * PAGE_SIZE + 8)).unwrap();
}

fn now() -> Moment {
    Moment(1)
}

type Failures = Arc<Mutex<Vec<MotionError>>>;

fn guard(ram: &Arc<GuestRam>, patience: Duration) -> (Arc<Guard>, Failures) {
    let failures = Failures::default();
    let told = failures.clone();
    let fail = Box::new(move |error| told.lock().unwrap().push(error));
    (Guard::start(ram, patience, fail).unwrap(), failures)
}

/// The second word of each page of a buffer.
fn words(range: PageRange, buffer: &Buffer) -> impl Iterator<Item = (u64, u64)> {
    (range.start..range.end())
        .zip(buffer.as_slice().chunks(4096))
        .map(|(page, bytes)| (page, u64::from_le_bytes(bytes[8..16].try_into().unwrap())))
}

/// Takes the copy to its end, as whoever writes a file does it.
fn collect(guard: &Guard, set: &PageSet) -> BTreeMap<u64, u64> {
    let mut copy = BTreeMap::new();
    let mut add = |range, buffer: &Buffer| {
        for (page, word) in words(range, buffer) {
            assert!(copy.insert(page, word).is_none(), "page {page} was copied twice");
        }
    };
    let mut buffer = Buffer::new(guard.piece());
    for run in set.runs() {
        while let Some(range) = guard.take(run, &[run], guard.piece(), &mut buffer).unwrap() {
            add(range, &buffer);
            while let Some(other) = guard.next_copy() {
                add(other.range, &other.buffer);
                guard.written(other);
            }
        }
    }
    loop {
        match guard.last_copy() {
            Next::Copy(other) => {
                add(other.range, &other.buffer);
                guard.written(other);
            }
            Next::Later => {}
            Next::None => return copy,
        }
    }
}

#[test]
fn what_is_overwritten_meanwhile_is_copied_as_it_was() {
    let ram = ram(32);
    (0..4096).for_each(|page| write(&ram, page, page + 1));
    let (guard, failures) = guard(&ram, LONG);
    let set = guard.keep(None, &now).unwrap();
    assert_eq!(set.count(), 4096, "what was never touched needs no protection");
    let writers: Vec<_> = (0..3)
        .map(|nth| {
            let ram = ram.clone();
            // From behind, so that they meet whoever streams; and where nothing was ever touched.
            thread::spawn(move || {
                let own = (0..8192).rev().filter(move |page| page % 3 == nth);
                own.for_each(|page| write(&ram, page, 1 << 40));
            })
        })
        .collect();
    // On a busy host all is streamed before the first of them writes.
    while guard.report().fault_pages == 0 {
        thread::yield_now();
    }
    let copy = collect(&guard, &set);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(copy.len(), 4096);
    for (page, word) in copy {
        assert_eq!(word, page + 1, "page {page}");
    }
    guard.lift();
    let report = guard.report();
    assert!(report.fault_pages > 0 && report.latency.count > 0, "{report:?}");
    assert_eq!(report.fault_pages + report.streamed_pages, 4096);
    assert!(failures.lock().unwrap().is_empty() && !ram.may_wait());
}

#[test]
fn a_writer_that_nobody_makes_room_for_goes_on_and_the_copy_is_given_up() {
    let ram = ram(96);
    (0..ram.pages()).for_each(|page| write(&ram, page, 1));
    let (guard, failures) = guard(&ram, Duration::from_millis(50));
    guard.keep(None, &now).unwrap();
    // More than the buffers hold.
    (0..ram.pages()).for_each(|page| write(&ram, page, 2));
    let failures = failures.lock().unwrap();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].code, Code::LinkStalled);
    assert!(guard.has_failed() && !ram.may_wait());
    assert_eq!(guard.report().buffered_bytes, guard.report().buffer_limit_bytes);
}

#[test]
fn whoever_waits_goes_on_when_the_machine_ends() {
    let ram = ram(96);
    (0..ram.pages()).for_each(|page| write(&ram, page, 1));
    let (guard, failures) = guard(&ram, LONG);
    guard.keep(None, &now).unwrap();
    let writer = thread::spawn({
        let ram = ram.clone();
        move || (0..ram.pages()).for_each(|page| write(&ram, page, 2))
    });
    let begun = Instant::now();
    while guard.report().buffer_waits == 0 {
        assert!(begun.elapsed() < LONG, "there was room for all");
        thread::yield_now();
    }
    ram.let_go();
    writer.join().unwrap();
    assert_eq!(failures.lock().unwrap()[0].code, Code::GuestGone);
}

#[test]
fn a_promise_that_protecting_breaks_is_given_up() {
    let ram = ram(16);
    write(&ram, 5, 1);
    let (guard, _) = guard(&ram, LONG);
    let error = guard.keep(Some(Moment(0)), &now).unwrap_err();
    assert_eq!(error.code, Code::BudgetExceeded);
    guard.lift();
    write(&ram, 5, 2);
}

#[test]
fn ram_on_the_pages_of_a_file_is_refused() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(16 << 20).unwrap();
    let present = PageSet::new((16 << 20) / PAGE_SIZE);
    let image = memory::RamImage::new(file.into(), "a file".to_owned(), 0, present).unwrap();
    let refused = refusals(&Arc::new(GuestRam::over(Arc::new(image)).unwrap()));
    assert_eq!(refused[0].code, Code::CannotProtect);
    assert!(refused[0].why.contains("--mmap"), "{refused:?}");
}

#[test]
fn ram_that_is_still_coming_is_refused() {
    #[derive(Debug)]
    struct Coming;
    impl memory::Filling for Coming {
        fn bring(&self, _: PageRange) -> io::Result<()> {
            Ok(())
        }
        fn trouble(&self) -> Option<String> {
            None
        }
        fn abandon(&self) {}
    }
    let ram = ram(16);
    assert_eq!(refusals(&ram), []);
    ram.set_filling(Some(Arc::new(Coming)));
    let refused = refusals(&ram);
    assert_eq!(refused[0].code, Code::CannotProtect);
    assert!(refused[0].advice.contains("x-whimbrel-memory-complete"), "{refused:?}");
}
