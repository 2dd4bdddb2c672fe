//! Damage on purpose, so that tests can show that it is noticed. Only with the feature `mutate`.
//!
//! `WHIMBREL_TEST_HOOK` names what is to be done to the motions of this process; each does it once,
//! and says so on standard error.

mod rules;

use memory::{GuestRam, PageRange, PageSet};
use state::Bundle;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Mutex;
use wire::{Content, PagesHeader};

pub use rules::{Broken, InForce, break_rule};
pub(crate) use rules::{keeps, note_left, unsent};

/// What a program with this feature contains and says.
const MARKER: &str = "whimbrel-test-hook";
/// Pages whose earlier contents are kept, to be brought back.
const KEPT: usize = 4096;
/// Pages below 4 MiB are the guest's program: without it the guest could not report anything.
const FIRST: u64 = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    DropPage,
    OldVersion,
    SwapPages,
    TearPage,
    ForgetDirty,
    ReplayMsr,
}

impl Mutation {
    fn chosen() -> Option<Self> {
        Some(match std::env::var("WHIMBREL_TEST_HOOK").ok()?.as_str() {
            "drop-page" => Self::DropPage,
            "old-version" => Self::OldVersion,
            "swap-pages" => Self::SwapPages,
            "tear-page" => Self::TearPage,
            "forget-dirty" => Self::ForgetDirty,
            "replay-msr" => Self::ReplayMsr,
            other => panic!("{MARKER}: there is no mutation {other}"),
        })
    }
}

fn say(what: &str) {
    eprintln!("{MARKER}: {what}");
}

/// The page that is never sent, once it was chosen.
static DROPPED: Mutex<Option<u64>> = Mutex::new(None);

/// At the source, before a piece is sent: takes one page out of it, always the same.
pub(crate) fn drop_page(header: &mut PagesHeader) {
    if Mutation::chosen() != Some(Mutation::DropPage) {
        return;
    }
    let mut dropped = DROPPED.lock().expect("nobody panics while holding it");
    let long = header
        .runs
        .iter()
        .find(|r| r.content == Content::Data && r.range.count > 16 && r.range.start >= FIRST);
    let Some(page) = dropped.or(long.map(|run| run.range.start + 9)) else { return };
    if dropped.is_none() {
        say(&format!("page {page} is dropped"));
        *dropped = Some(page);
    }
    let hit = PageRange::new(page, 1);
    for run in std::mem::take(&mut header.runs) {
        if run.content == Content::Zero || run.range.intersection(hit).is_none() {
            header.runs.push(run);
            continue;
        }
        for (start, end) in [(run.range.start, page), (page + 1, run.range.end())] {
            if start < end {
                header.runs.push(wire::Run { range: PageRange::new(start, end - start), ..run });
            }
        }
    }
}

/// What was last sent of each page, as a checksum.
static SENT: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// At the source, when a page is sent: notes what it held.
pub(crate) fn note_sent(ram: &GuestRam, page: u64) {
    if Mutation::chosen() == Some(Mutation::ForgetDirty) && page >= FIRST {
        let mut sent = SENT.lock().expect("nobody panics while holding it");
        sent.insert(page, checksum(&read(ram, page)));
    }
}

/// The page whose being written is forgotten, once it was chosen.
static FORGOTTEN: Mutex<Option<u64>> = Mutex::new(None);

/// At the source, before pages are sent that were written since they were sent: forgets one of
/// them, always the same. A page that was written between being rearmed and being read counts as
/// written though nothing of it is missing; such a one is not chosen.
pub(crate) fn forget_dirty(ram: &GuestRam, written: &mut PageSet) {
    if Mutation::chosen() != Some(Mutation::ForgetDirty) {
        return;
    }
    let mut forgotten = FORGOTTEN.lock().expect("nobody panics while holding it");
    let sent = SENT.lock().expect("nobody panics while holding it");
    let differs =
        |page: &u64| sent.get(page).is_some_and(|old| *old != checksum(&read(ram, *page)));
    let late = || {
        let runs = written.runs_in(PageRange::new(FIRST, written.pages()));
        runs.flat_map(|run| run.start..run.end()).find(differs)
    };
    let Some(page) = forgotten.or_else(late) else { return };
    if forgotten.is_none() {
        say(&format!("that page {page} was written is forgotten"));
        *forgotten = Some(page);
    }
    written.remove(PageRange::new(page, 1));
}

/// At the source, what the machine was before the motion.
static EARLIER: Mutex<Option<Bundle>> = Mutex::new(None);

/// At the source, before the first pass: keeps the state as it is now.
pub(crate) fn keep_state(machine: &dyn crate::SourceMachine) {
    if Mutation::chosen() != Some(Mutation::ReplayMsr) || !machine.is_running() {
        return;
    }
    machine.pause().expect("a test's machine can be paused");
    *EARLIER.lock().expect("nobody panics while holding it") = machine.save().ok();
    let permit = machine.surrender().expect("it ran, so it has a permit");
    machine.run(permit).expect("a test's machine can go on");
    // Long enough for the guest to have written its registers anew.
    std::thread::sleep(std::time::Duration::from_millis(500));
}

/// What is read of a vCPU's state: its MSRs, as numbers and values.
#[derive(minicbor::Decode)]
#[cbor(map)]
struct Vcpu {
    #[n(8)]
    msrs: Vec<(u32, u64)>,
}

/// LSTAR: free for a guest without system calls, and so for the self-checking guest.
const REPLAYED: u32 = 0xc000_0082;

/// At the source, before the state is sent: one MSR of one vCPU gets its earlier value.
pub(crate) fn replay_msr(state: Bundle) -> Bundle {
    let Some(earlier) = EARLIER.lock().expect("nobody panics while holding it").take() else {
        return state;
    };
    let value = |data: &[u8]| -> Option<(u32, u64)> {
        let vcpu: Vcpu = minicbor::decode(data).ok()?;
        vcpu.msrs.into_iter().find(|(number, _)| *number == REPLAYED)
    };
    let mut mutated = Bundle::new();
    let mut replayed = false;
    for payload in state.payloads() {
        let mut payload = payload.clone();
        let before = earlier
            .payloads()
            .iter()
            .find(|p| p.schema == payload.schema && p.instance == payload.instance);
        let values = before.and_then(|p| value(&p.data)).zip(value(&payload.data));
        if let (Some((old, new)), false) = (values.filter(|(old, new)| old != new), replayed) {
            let cbor = |msr| minicbor::to_vec(msr).expect("writing to a Vec does not fail");
            let (old_bytes, new_bytes) = (cbor(old), cbor(new));
            let at = payload
                .data
                .windows(new_bytes.len())
                .position(|window| window == new_bytes)
                .expect("it was decoded from there");
            payload.data.splice(at..at + new_bytes.len(), old_bytes);
            say(&format!("MSR {REPLAYED:#x} goes back from {:#x} to {:#x}", new.1, old.1));
            replayed = true;
        }
        mutated.put_payload(payload);
    }
    mutated
}

/// At the destination: pages as they were after the first pass.
static KEPT_PAGES: Mutex<Vec<(u64, Vec<u8>)>> = Mutex::new(Vec::new());

/// At the destination, when the first pass is complete: keeps what came.
pub(crate) fn keep_pages(pass: u32, ram: &GuestRam) {
    let wanted = matches!(
        Mutation::chosen(),
        Some(Mutation::OldVersion | Mutation::SwapPages | Mutation::TearPage)
    );
    if pass != 1 || !wanted {
        return;
    }
    let touched = ram.touched(PageRange::new(0, ram.pages())).expect("a test's RAM is there");
    let pages = touched.into_iter().flat_map(|run| run.start..run.end());
    // From the end: the beginning is the guest's program and page tables.
    let mut numbers: Vec<u64> = pages.collect();
    numbers.reverse();
    numbers.truncate(KEPT);
    *KEPT_PAGES.lock().expect("nobody panics while holding it") =
        numbers.into_iter().map(|page| (page, read(ram, page))).collect();
}

/// At the destination, when RAM is complete: damages it.
pub(crate) fn damage(ram: &GuestRam) {
    let kept = std::mem::take(&mut *KEPT_PAGES.lock().expect("nobody panics while holding it"));
    let changed = || kept.iter().find(|(page, old)| read(ram, *page) != *old);
    match Mutation::chosen() {
        Some(Mutation::OldVersion) => {
            let (page, old) = changed().expect("the guest writes during the motion");
            write(ram, *page, old);
            say(&format!("page {page} is an old version"));
        }
        Some(Mutation::TearPage) => {
            let (page, old) = changed().expect("the guest writes during the motion");
            let mut torn = read(ram, *page);
            torn[2048..].copy_from_slice(&old[2048..]);
            write(ram, *page, &torn);
            say(&format!("page {page} is torn"));
        }
        Some(Mutation::SwapPages) => {
            let full = kept.iter().map(|(page, _)| (*page, read(ram, *page)));
            let full: Vec<_> = full.filter(|(_, now)| now.iter().any(|byte| *byte != 0)).collect();
            let [(a, first), (b, second), ..] = &full[..] else { panic!("the guest has pages") };
            write(ram, *a, second);
            write(ram, *b, first);
            say(&format!("pages {a} and {b} are swapped"));
        }
        _ => {}
    }
}

fn read(ram: &GuestRam, page: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    ram.read(PageRange::new(page, 1), &mut bytes).expect("a test's RAM is there");
    bytes
}

fn write(ram: &GuestRam, page: u64, bytes: &[u8]) {
    ram.slice(PageRange::new(page, 1)).expect("a test's RAM is there").copy_from(bytes);
}
