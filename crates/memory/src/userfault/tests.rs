use super::*;
use crate::{Backing, Filling, PageSet};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};
use vm_memory::{Bytes as _, GuestAddress};

const MIB: u64 = 1 << 20;

fn ram(size: u64) -> Arc<GuestRam> {
    Arc::new(GuestRam::new(size, Backing::Small).unwrap())
}

fn read(ram: &GuestRam, page: u64) -> u8 {
    ram.memory().read_obj(GuestAddress(page * PAGE_SIZE + 7)).unwrap()
}

/// The next fault.
fn fault(userfault: &Userfault) -> Fault {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(fault) = userfault.take_fault().unwrap() {
            return fault;
        }
        assert!(Instant::now() < end, "nobody waits for a page");
        thread::yield_now();
    }
}

#[test]
fn whoever_touches_a_missing_page_gets_what_is_provided() {
    let ram = ram(16 * MIB);
    let userfault = Userfault::open(ram.clone()).unwrap();
    userfault.register(PageRange::new(100, 50)).unwrap();
    let reader = thread::spawn({
        let ram = ram.clone();
        move || (rustix::thread::gettid().as_raw_nonzero().get(), read(&ram, 120))
    });
    let Fault { page, write, thread } = fault(&userfault);
    assert_eq!(userfault.take_fault().unwrap(), None);
    assert_eq!((page, write), (120, false));
    // A process that is not in the first pid namespace may be told another number.
    assert_ne!(thread, 0);
    assert_eq!(userfault.provide(PageRange::new(119, 3), &[42; 3 * 4096]).unwrap(), 3);
    let (_, byte) = reader.join().unwrap();
    assert_eq!(byte, 42);
    assert_eq!(read(&ram, 121), 42);
    assert_eq!(read(&ram, 99), 0, "what is not registered is the kernel's to provide");
}

#[test]
fn a_page_that_is_there_keeps_what_it_has() {
    let ram = ram(16 * MIB);
    ram.memory().write_obj(9u8, GuestAddress(5 * PAGE_SIZE + 7)).unwrap();
    let userfault = Userfault::open(ram.clone()).unwrap();
    let range = PageRange::new(0, 8);
    userfault.register(range).unwrap();
    assert_eq!(userfault.provide(range, &[1; 8 * 4096]).unwrap(), 7);
    assert_eq!(userfault.provide(range, &[2; 8 * 4096]).unwrap(), 0);
    assert_eq!(userfault.provide_zero(range).unwrap(), 0);
    assert_eq!((0..8).map(|page| read(&ram, page)).collect::<Vec<_>>(), [1, 1, 1, 1, 1, 9, 1, 1]);
}

#[test]
fn a_zero_page_wakes_who_waits_for_it() {
    let ram = ram(16 * MIB);
    let userfault = Userfault::open(ram.clone()).unwrap();
    userfault.register(PageRange::new(0, 4)).unwrap();
    let writer = thread::spawn({
        let ram = ram.clone();
        move || ram.memory().write_obj(3u8, GuestAddress(PAGE_SIZE)).unwrap()
    });
    assert!(fault(&userfault).write);
    assert_eq!(userfault.provide_zero(PageRange::new(1, 1)).unwrap(), 1);
    writer.join().unwrap();
    assert_eq!(ram.memory().read_obj::<u16>(GuestAddress(PAGE_SIZE)).unwrap(), 3);
}

#[test]
fn who_is_woken_without_its_page_asks_again() {
    let ram = ram(16 * MIB);
    let userfault = Userfault::open(ram.clone()).unwrap();
    let all = PageRange::new(0, ram.pages());
    userfault.register(all).unwrap();
    let reader = thread::spawn({
        let ram = ram.clone();
        move || read(&ram, 3)
    });
    for _ in 0..5 {
        assert_eq!(fault(&userfault).page, 3);
        userfault.wake(all).unwrap();
    }
    assert_eq!(fault(&userfault).page, 3);
    userfault.provide(PageRange::new(3, 1), &[8; 4096]).unwrap();
    assert_eq!(reader.join().unwrap(), 8);
}

#[test]
fn once_unregistered_nobody_waits_any_longer() {
    let ram = ram(16 * MIB);
    let userfault = Userfault::open(ram.clone()).unwrap();
    // Gaps between what is registered do not matter.
    userfault.register(PageRange::new(0, 4)).unwrap();
    userfault.register(PageRange::new(64, 4)).unwrap();
    let reader = thread::spawn({
        let ram = ram.clone();
        move || read(&ram, 65)
    });
    fault(&userfault);
    userfault.unregister_all().unwrap();
    assert_eq!(reader.join().unwrap(), 0);
    assert_eq!(read(&ram, 2), 0);
}

#[test]
fn ranges_out_of_bounds_are_an_error() {
    let ram = ram(16 * MIB);
    let userfault = Userfault::open(ram.clone()).unwrap();
    assert!(userfault.register(PageRange::new(ram.pages(), 1)).is_err());
    assert!(userfault.register(PageRange::new(u64::MAX, 2)).is_err());
    assert!(userfault.provide(PageRange::new(0, 2), &[0; 4096]).is_err());
    let error = userfault.provide(PageRange::new(0, 1), &[0; 4096]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "it is not registered: {error}");
}

#[test]
fn a_descriptor_that_is_not_the_device_is_said_to_be_none() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let error = open::from_descriptor(file.as_fd()).unwrap_err();
    assert!(error.to_string().contains("/dev/userfaultfd"), "{error}");
    let device = std::fs::File::options().read(true).write(true).open("/dev/userfaultfd");
    let device = device.expect("this test needs /dev/userfaultfd");
    open::from_descriptor(device.as_fd()).unwrap();
    hand_over_inherited(std::os::fd::AsRawFd::as_raw_fd(&device)).unwrap();
    assert!(hand_over_inherited(-1).is_err());
    assert!(hand_over(file.into()).is_err());
}

/// Fills one page after the other with its number, when it is asked to.
#[derive(Debug)]
struct Slowly {
    userfault: Userfault,
    asked: Mutex<Vec<PageRange>>,
    fails: bool,
}

impl Filling for Slowly {
    fn bring(&self, range: PageRange) -> io::Result<()> {
        self.asked.lock().unwrap().push(range);
        if self.fails {
            return Err(io::Error::other("the file is gone"));
        }
        for page in range.start..range.end() {
            let byte = u8::try_from(page % 250 + 1).unwrap();
            self.userfault.provide(PageRange::new(page, 1), &[byte; 4096])?;
        }
        Ok(())
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn abandon(&self) {
        self.userfault.unregister_all().unwrap();
    }
}

fn filling(fails: bool) -> (Arc<GuestRam>, Arc<Slowly>) {
    let ram = ram(16 * MIB);
    let userfault = Userfault::open(ram.clone()).unwrap();
    userfault.register(PageRange::new(0, ram.pages())).unwrap();
    let filling = Arc::new(Slowly { userfault, asked: Mutex::default(), fails });
    ram.set_filling(Some(filling.clone()));
    (ram, filling)
}

#[test]
fn a_page_that_has_not_come_is_never_taken_for_zero() {
    let (ram, filling) = filling(false);
    let range = PageRange::new(10, 4);
    assert_eq!(ram.resident(range).unwrap(), []);
    assert_eq!(ram.touched(range).unwrap(), [range]);
    let mut bytes = [0; 2 * 4096];
    ram.read(PageRange::new(20, 2), &mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[4096]), (21, 22));
    // Clearing pages that are yet to come must not be undone by their coming.
    ram.zero(PageRange::new(30, 2)).unwrap();
    assert_eq!(filling.userfault.provide(PageRange::new(30, 2), &[1; 8192]).unwrap(), 0);
    assert_eq!(read(&ram, 30), 0);
    let all = PageRange::new(0, ram.pages());
    let mut expected = PageSet::new(ram.pages());
    for (start, count) in [(10, 4), (20, 2), (30, 2)] {
        expected.insert(PageRange::new(start, count));
    }
    assert_eq!(ram.resident(all).unwrap(), expected.runs().collect::<Vec<_>>());
    ram.set_filling(None);
    let asked = filling.asked.lock().unwrap().len();
    ram.touched(range).unwrap();
    assert_eq!(filling.asked.lock().unwrap().len(), asked, "all have come");
    filling.abandon();
}

#[test]
fn pages_that_cannot_be_had_are_an_error_and_not_zero() {
    let (ram, filling) = filling(true);
    let range = PageRange::new(10, 4);
    assert!(ram.touched(range).is_err());
    assert!(ram.read(range, &mut [0; 4 * 4096]).is_err());
    assert!(ram.zero(range).is_err());
    assert_eq!(ram.resident(range).unwrap(), [], "how much is in use can always be asked");
    filling.abandon();
}
