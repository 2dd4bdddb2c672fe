//! The versions before and after this one, as far as live updates between them can be tested with one
//! program. Only with the feature `mutate`.
//!
//! Which version a process is follows from the name of the file that it runs: an environment would go
//! along with whatever the process becomes.

use crate::SavedClock;
use devices::acpi_pm::SavedAcpiPm;
use minicbor::{Decode, Encode};
use state::{Bundle, Declared, InUse, LoadError, Saved};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// What a program with this feature contains and says.
const MARKER: &str = "whimbrel-test-hook";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Previous,
    Next,
    /// The next one, and somebody has used what is new in it.
    NextInUse,
}

fn version() -> Option<Version> {
    static VERSION: OnceLock<Option<Version>> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let program = std::env::current_exe().ok()?;
        let name = program.file_name()?.to_str()?;
        // What the kernel says of a file that was removed.
        let version = match name.strip_suffix(" (deleted)").unwrap_or(name) {
            "whimbrel-previous" => Version::Previous,
            "whimbrel-next" => Version::Next,
            "whimbrel-next-in-use" => Version::NextInUse,
            _ => return None,
        };
        eprintln!("{MARKER}: this is {version:?}");
        Some(version)
    })
}

/// What a program that says it is `builder` says in that version.
#[must_use]
pub fn named(builder: &str) -> String {
    match version() {
        None => builder.to_owned(),
        Some(Version::Previous) => format!("{builder}-previous"),
        Some(Version::Next | Version::NextInUse) => format!("{builder}-next"),
    }
}

/// The power management registers of the next version, which has one more.
#[derive(Debug, Encode, Decode)]
#[cbor(map)]
struct NextPm {
    #[n(0)]
    sleep_type: u8,
    #[n(1)]
    events: u8,
    /// What wakes the guest: nothing, unless it has asked for something.
    #[n(2)]
    wake_mask: Option<u8>,
}

impl Saved for NextPm {
    const SCHEMA: &'static str = SavedAcpiPm::SCHEMA;
    const VERSION: u16 = SavedAcpiPm::VERSION + 1;
    const LEAST_READER: u16 = SavedAcpiPm::LEAST_READER;

    fn in_use(&self) -> Option<InUse> {
        let used = self.wake_mask.is_some_and(|mask| mask != 0);
        used.then_some(InUse { field: "wake-mask", since: Self::VERSION })
    }
}

/// What is in the register.
static WAKE_MASK: AtomicU8 = AtomicU8::new(0);

pub(crate) fn put_pm(saved: SavedAcpiPm, into: &mut Bundle) {
    match version() {
        None | Some(Version::Previous) => into.put("", &saved),
        Some(version) => {
            if version == Version::NextInUse {
                WAKE_MASK.store(1, Ordering::Relaxed);
            }
            let SavedAcpiPm { sleep_type, events } = saved;
            let wake_mask = Some(WAKE_MASK.load(Ordering::Relaxed));
            into.put("", &NextPm { sleep_type, events, wake_mask });
        }
    }
}

pub(crate) fn take_pm(bundle: &mut Bundle) -> Result<SavedAcpiPm, LoadError> {
    if let None | Some(Version::Previous) = version() {
        return bundle.take("");
    }
    let NextPm { sleep_type, events, wake_mask } = bundle.take("")?;
    WAKE_MASK.store(wake_mask.unwrap_or_default(), Ordering::Relaxed);
    Ok(SavedAcpiPm { sleep_type, events })
}

/// The clocks of the previous version, which did not save the host's TSC. It has this one's number, for
/// there was none before.
#[derive(Debug, Encode, Decode)]
#[cbor(map)]
struct PreviousClock {
    #[n(0)]
    kvmclock: u64,
    #[n(1)]
    realtime: Option<u64>,
    #[n(3)]
    wall_clock: u64,
    #[n(4)]
    host_khz: u32,
    #[n(5)]
    boot_id: Option<String>,
}

impl Saved for PreviousClock {
    const SCHEMA: &'static str = SavedClock::SCHEMA;
    const VERSION: u16 = SavedClock::VERSION;
    const LEAST_READER: u16 = SavedClock::LEAST_READER;
}

pub(crate) fn put_clock(saved: SavedClock, into: &mut Bundle) {
    if version() != Some(Version::Previous) {
        return into.put("", &saved);
    }
    let SavedClock { kvmclock, realtime, host_tsc: _, wall_clock, host_khz, boot_id } = saved;
    into.put("", &PreviousClock { kvmclock, realtime, wall_clock, host_khz, boot_id });
}

pub(crate) fn take_clock(bundle: &mut Bundle) -> Result<SavedClock, LoadError> {
    if version() != Some(Version::Previous) {
        return bundle.take("");
    }
    let PreviousClock { kvmclock, realtime, wall_clock, host_khz, boot_id } = bundle.take("")?;
    Ok(SavedClock { kvmclock, realtime, host_tsc: None, wall_clock, host_khz, boot_id })
}

/// What is loaded by this version, where this build loads `all`.
pub(crate) fn declared(all: Vec<Declared>) -> Vec<Declared> {
    let is_next = matches!(version(), Some(Version::Next | Version::NextInUse));
    let next = |declared: Declared| match declared.schema == NextPm::SCHEMA && is_next {
        true => Declared::of::<NextPm>(),
        false => declared,
    };
    all.into_iter().map(next).collect()
}
