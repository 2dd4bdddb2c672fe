//! The guest: what it has written, wherever it runs. There is one, however many machines there are.

use crate::life::Pid;
use crate::rng::Rng;
use memory::{GuestRam, PAGE_SIZE, PageRange, PageSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// RAM of every machine here: the least that there is.
pub const RAM: u64 = 16 << 20;
const PAGES: u64 = RAM / PAGE_SIZE;
const PAGE: usize = 4096;

/// What a guest does.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Pages written before the first motion.
    pub touched: u64,
    /// Pages that it writes again and again.
    pub hot: u64,
    /// Nanoseconds between two writes.
    pub every: u64,
    /// The most writes that are made up for after a time in which nothing else happened.
    pub burst: u64,
}

/// The guest as it should be.
#[derive(Debug, Clone)]
pub struct Guest {
    habits: Habits,
    rng: Rng,
    /// What each page holds; 0 is a page of zeroes.
    values: Vec<u64>,
    hot: Vec<u64>,
    next: u64,
    /// Writes since it was booted: the state that is saved.
    pub writes: u64,
    /// Time that it ran and has not used for writing.
    unused: u64,
    /// Who has it: the machine that it ran on last, or was to run on.
    pub holder: Pid,
    /// How often it was given to a machine.
    pub starts: u64,
}

pub type SharedGuest = Arc<Mutex<Guest>>;

pub fn lock(guest: &SharedGuest) -> MutexGuard<'_, Guest> {
    guest.lock().expect("nobody panics while holding it")
}

impl Guest {
    pub fn new(habits: Habits, mut rng: Rng, holder: Pid) -> Self {
        // Close together, scattered, or in chunks far apart.
        let spread = rng.pick(&[1, 3, 7, 509]);
        let start = rng.below(PAGES);
        let hot = (0..habits.hot.max(1)).map(|n| (start + n * spread) % PAGES).collect();
        Self {
            habits,
            rng,
            values: vec![0; usize::try_from(PAGES).expect("there are 4096")],
            hot,
            next: 0,
            writes: 0,
            unused: 0,
            holder,
            starts: 0,
        }
    }

    pub fn habits(&self) -> Habits {
        self.habits
    }

    /// What it is about to write: a page, and what that will hold.
    pub fn plan(&mut self) -> (u64, u64) {
        self.next += 1;
        let page = if self.writes < self.habits.touched {
            self.rng.below(PAGES)
        } else {
            self.hot[self.rng.index(self.hot.len())]
        };
        let value = if self.rng.chance(10) { 0 } else { self.next };
        (page, value)
    }

    /// It has written that.
    pub fn wrote(&mut self, page: u64, value: u64) {
        self.writes += 1;
        self.values[index(page)] = value;
    }

    /// It has given a page back, which is zero from now on.
    pub fn discarded(&mut self, page: u64) {
        self.values[index(page)] = 0;
    }

    /// A page that it has written something to, if there is one after this.
    pub fn page_in_use(&self, from: u64) -> Option<u64> {
        let from = from % PAGES;
        let in_use = |page: &u64| self.values[index(*page)] != 0;
        (from..PAGES).chain(0..from).find(in_use)
    }

    /// What is wrong with this page, if it is this guest's.
    pub fn sees(&self, ram: &GuestRam, page: u64) -> Option<String> {
        let (mut found, mut expected) = ([0; PAGE], [0; PAGE]);
        ram.slice(PageRange::new(page, 1)).expect("the page is there").copy_to(&mut found);
        let value = self.values[index(page)];
        fill(&mut expected, page, value);
        (found != expected).then(|| {
            let found = u64::from_le_bytes(found[8..16].try_into().expect("8 bytes"));
            format!("page {page} holds {found}, the guest wrote {value}")
        })
    }

    /// How many writes it gets done in this time.
    pub fn writes_in(&mut self, time: u64) -> u64 {
        self.unused += time;
        let writes = self.unused / self.habits.every;
        self.unused %= self.habits.every;
        writes.min(self.habits.burst)
    }

    /// What is wrong with this RAM, of which some pages are yet to come, if it is to be this guest's.
    pub fn differs_where_it_is(&self, ram: &GuestRam, missing: &PageSet) -> Option<String> {
        let there = (0..PAGES).filter(|page| !missing.contains(*page));
        let mut there = there.filter(|page| self.values[index(*page)] != 0);
        there.find_map(|page| self.sees(ram, page))
    }

    /// What is wrong with this RAM, if it is to be this guest's.
    pub fn differs(&self, ram: &GuestRam) -> Option<String> {
        let all = PageRange::new(0, PAGES);
        let mut seen = 0;
        let (mut bytes, mut expected) = (Vec::new(), [0; PAGE]);
        for run in ram.touched(all).expect("a memory file can be asked") {
            bytes.resize(usize::try_from(run.bytes()).expect("16 MiB at most"), 0);
            ram.read(run, &mut bytes).expect("RAM can be read");
            for (page, found) in (run.start..).zip(bytes.chunks_exact(PAGE)) {
                let value = self.values[index(page)];
                seen += u64::from(value != 0);
                fill(&mut expected, page, value);
                if found != expected {
                    let found = u64::from_le_bytes(found[8..16].try_into().expect("8 bytes"));
                    return Some(format!("page {page} holds {found}, the guest wrote {value}"));
                }
            }
        }
        let held = self.values.iter().filter(|value| **value != 0).count() as u64;
        (seen != held).then(|| format!("{held} pages were written and {seen} are there"))
    }
}

fn index(page: u64) -> usize {
    usize::try_from(page).expect("it is below 4096")
}

/// A page: its number, what was written, and that again at its end, so that a torn or misplaced one
/// is seen.
fn fill(page: &mut [u8; PAGE], number: u64, value: u64) {
    let number = if value == 0 { 0 } else { number + 1 };
    page[..8].copy_from_slice(&number.to_le_bytes());
    page[8..16].copy_from_slice(&value.to_le_bytes());
    page[PAGE - 8..].copy_from_slice(&value.to_le_bytes());
}

/// Puts a value into RAM as the guest would.
pub fn store(ram: &GuestRam, page: u64, value: u64) {
    let mut bytes = [0; PAGE];
    fill(&mut bytes, page, value);
    ram.slice(PageRange::new(page, 1)).expect("the page is there").copy_from(&bytes);
}
