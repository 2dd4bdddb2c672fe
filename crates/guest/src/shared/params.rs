//! The parameters of the guests: words `key=value` on the kernel command line

use super::builtin::Builtin;
use core::fmt;

/// What one guest is to do
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Wait at start for just this many processors
    pub cpus: Option<u64>,
    /// Nanoseconds between two reports
    pub report: u64,
    /// A gap of at least this many nanoseconds is reported at once
    pub gap: u64,
    /// How many processors watch the clock
    pub watch: u64,
    /// Nanoseconds between two looks at the console
    pub poll: u64,
    /// Nanoseconds after the start to power off
    pub poweroff: Option<u64>,
    /// Nanoseconds after the start to reset
    pub reset: Option<u64>,
    /// Frequency of the TSC in kHz, for hypervisors that do not tell
    pub tsc_khz: Option<u64>,
    /// Bytes of the working set
    pub ws: Option<u64>,
    /// Pages written a second by all processors together; `None`: flat out
    pub rate: Option<u64>,
    /// What the working set is filled with
    pub fill: Fill,
    /// Bytes that are written once at the start
    pub touch: u64,
    /// What these are filled with
    pub touch_fill: Fill,
    /// What the guest does when it goes on after a pause
    pub wake: Wake,
    /// Bytes of these that are checked at once, on demand or after a pause
    pub sample: u64,
    /// What is checked lies at multiples of so many bytes
    pub stride: u64,
    /// Bytes of RAM to leave alone, and to be zero when checked on demand
    pub untouched: u64,
    /// Nanoseconds by which the clocks of two processors may differ
    pub skew: u64,
}

/// What a page is filled with
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// One word that changes; the rest of the page stays as it is
    Word,
    /// Content that no compressor shortens, all of it new at each write
    Random,
}

/// What a guest does when it goes on after a pause of which the VMM has told it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Nothing
    Quiet,
    /// It says so
    Say,
    /// It says so, and checks a sample of its memory
    Check,
    /// A second later it tells how long the pause was, and what that second was like
    Tell,
}

/// A parameter, as documented
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The word before `=`
    pub name: &'static str,
    /// What the value looks like
    pub value: &'static str,
    /// What it does, and what holds without it
    pub help: &'static str,
    /// The guests that know it
    pub guests: &'static [Builtin],
    set: fn(&mut Params, &str) -> Option<()>,
}

const ALL: &[Builtin] = &Builtin::ALL;
const WATCHERS: &[Builtin] = &[Builtin::Workload, Builtin::Clock];
const WRITERS: &[Builtin] = &[Builtin::Workload, Builtin::SelfCheck];
const WORKLOAD: &[Builtin] = &[Builtin::Workload];
const SELF_CHECK: &[Builtin] = &[Builtin::SelfCheck];

/// Every parameter
pub const KEYS: &[Key] = &[
    Key {
        name: "ws",
        value: "SIZE",
        help: "working set: memory written over and over (64M; selfcheck: most of the RAM)",
        guests: WRITERS,
        set: |p, v| bytes(v).map(|n| p.ws = Some(n)),
    },
    Key {
        name: "rate",
        value: "N|max",
        help: "pages written a second, by all vCPUs together; 0 is idle (max; selfcheck: 20000)",
        guests: WRITERS,
        set: |p, v| rate(v).map(|r| p.rate = r),
    },
    Key {
        name: "fill",
        value: "word|random",
        help: "write one word a page, or all of it with incompressible content (word)",
        guests: WORKLOAD,
        set: |p, v| fill(v).map(|f| p.fill = f),
    },
    Key {
        name: "touch",
        value: "SIZE",
        help: "memory beside the working set that is written once, at the start (0)",
        guests: WORKLOAD,
        set: |p, v| bytes(v).map(|n| p.touch = n),
    },
    Key {
        name: "touchfill",
        value: "word|random",
        help: "what that is filled with (random)",
        guests: WORKLOAD,
        set: |p, v| fill(v).map(|f| p.touch_fill = f),
    },
    Key {
        name: "wake",
        value: "quiet|say|check|tell",
        help: "after a pause that the VMM told it of: nothing, an AWAKE line, that and a check, or a \
               PAUSE line a second later (quiet)",
        guests: WORKLOAD,
        set: |p, v| wake(v).map(|w| p.wake = w),
    },
    Key {
        name: "sample",
        value: "SIZE",
        help: "how much of the memory touched once a check reads, in a random order (64M)",
        guests: WORKLOAD,
        set: |p, v| bytes(v).map(|n| p.sample = n),
    },
    Key {
        name: "stride",
        value: "SIZE",
        help: "a check reads pages that lie so far apart, or multiples of that (4K)",
        guests: WORKLOAD,
        set: |p, v| bytes(v).filter(|n| *n != 0).map(|n| p.stride = n),
    },
    Key {
        name: "untouched",
        value: "SIZE",
        help: "memory never touched before a check on demand, which requires it to be zero (0)",
        guests: SELF_CHECK,
        set: |p, v| bytes(v).map(|n| p.untouched = n),
    },
    Key {
        name: "skew",
        value: "TIME",
        help: "by how much the clocks of two vCPUs may differ (50us)",
        guests: SELF_CHECK,
        set: |p, v| nanoseconds(v).map(|t| p.skew = t),
    },
    Key {
        name: "watch",
        value: "N",
        help: "vCPUs that watch the clock; others with nothing to do halt (all)",
        guests: WATCHERS,
        set: |p, v| number(v).map(|n| p.watch = n),
    },
    Key {
        name: "gap",
        value: "TIME",
        help: "report a gap of this length at once, at most ten times a second (100ms)",
        guests: ALL,
        set: |p, v| nanoseconds(v).map(|t| p.gap = t),
    },
    Key {
        name: "report",
        value: "TIME",
        help: "time between reports (1s)",
        guests: ALL,
        set: |p, v| positive(v).map(|t| p.report = t),
    },
    Key {
        name: "poll",
        value: "TIME",
        help: "time between looks at the console for commands (20ms)",
        guests: ALL,
        set: |p, v| positive(v).map(|t| p.poll = t),
    },
    Key {
        name: "cpus",
        value: "N",
        help: "wait for just so many vCPUs (as many as ACPI names, else those that come)",
        guests: ALL,
        set: |p, v| number(v).filter(|n| (1..=64).contains(n)).map(|n| p.cpus = Some(n)),
    },
    Key {
        name: "poweroff",
        value: "TIME",
        help: "power off so long after the start (never)",
        guests: ALL,
        set: |p, v| nanoseconds(v).map(|t| p.poweroff = Some(t)),
    },
    Key {
        name: "reset",
        value: "TIME",
        help: "reset so long after the start (never)",
        guests: ALL,
        set: |p, v| nanoseconds(v).map(|t| p.reset = Some(t)),
    },
    Key {
        name: "tsc_khz",
        value: "N",
        help: "frequency of the TSC (as KVM's clock or CPUID says)",
        guests: ALL,
        set: |p, v| number(v).filter(|&khz| khz != 0).map(|khz| p.tsc_khz = Some(khz)),
    },
];

/// A word on the command line that the guest does not understand
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamError<'a> {
    /// No parameter of this guest has that name
    Unknown {
        /// The word
        word: &'a str,
    },
    /// The value is not one that the parameter takes
    Value {
        /// The word
        word: &'a str,
        /// What the value looks like
        takes: &'static str,
    },
}

impl fmt::Display for ParamError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word } => write!(f, "the guest has no parameter `{word}`"),
            Self::Value { word, takes } => {
                write!(f, "in `{word}`, the value is not of the form {takes}")
            }
        }
    }
}

impl core::error::Error for ParamError<'_> {}

impl Params {
    /// What holds for a guest without any parameter
    #[must_use]
    pub const fn defaults(guest: Builtin) -> Self {
        let self_check = matches!(guest, Builtin::SelfCheck);
        Self {
            cpus: None,
            report: 1_000_000_000,
            gap: 100_000_000,
            watch: u64::MAX,
            poll: 20_000_000,
            poweroff: None,
            reset: None,
            tsc_khz: None,
            ws: if self_check { None } else { Some(64 << 20) },
            rate: if self_check { Some(20_000) } else { None },
            fill: Fill::Word,
            touch: 0,
            touch_fill: Fill::Random,
            wake: Wake::Quiet,
            sample: 64 << 20,
            stride: 4096,
            untouched: 0,
            skew: 50_000,
        }
    }

    /// Reads a command line; what the guest does not understand is passed to
    /// `refuse` and has no effect
    pub fn parse<'a>(
        guest: Builtin,
        command_line: &'a str,
        mut refuse: impl FnMut(ParamError<'a>),
    ) -> Self {
        let mut params = Self::defaults(guest);
        for word in command_line.split_ascii_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match KEYS.iter().find(|key| key.name == name && key.guests.contains(&guest)) {
                None => refuse(ParamError::Unknown { word }),
                Some(key) => {
                    if (key.set)(&mut params, value).is_none() {
                        refuse(ParamError::Value { word, takes: key.value });
                    }
                }
            }
        }
        params
    }
}

fn fill(text: &str) -> Option<Fill> {
    match text {
        "word" => Some(Fill::Word),
        "random" => Some(Fill::Random),
        _ => None,
    }
}

fn wake(text: &str) -> Option<Wake> {
    match text {
        "quiet" => Some(Wake::Quiet),
        "say" => Some(Wake::Say),
        "check" => Some(Wake::Check),
        "tell" => Some(Wake::Tell),
        _ => None,
    }
}

/// Pages a second, or `None` for `max`
fn rate(text: &str) -> Option<Option<u64>> {
    if text == "max" { Some(None) } else { number(text).map(Some) }
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// A size in bytes: `4096`, `64K`, `512M`, `2G`
fn bytes(text: &str) -> Option<u64> {
    with_unit(text, &[("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("", 1)])
}

/// A time: `50us`, `20ms`, `2s`
fn nanoseconds(text: &str) -> Option<u64> {
    with_unit(text, &[("ns", 1), ("us", 1000), ("ms", 1_000_000), ("s", 1_000_000_000)])
}

fn positive(text: &str) -> Option<u64> {
    nanoseconds(text).filter(|&time| time != 0)
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number(count)?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(guest: Builtin, text: &str) -> Result<Params, ParamError<'_>> {
        let mut first = None;
        let params = Params::parse(guest, text, |error| {
            first.get_or_insert(error);
        });
        first.map_or(Ok(params), Err)
    }

    #[test]
    fn a_command_line_sets_what_it_names() {
        let params = strict(
            Builtin::Workload,
            "ws=512M rate=max fill=random touch=1G touchfill=word report=250ms gap=300us cpus=8",
        )
        .unwrap();
        assert_eq!(
            params,
            Params {
                ws: Some(512 << 20),
                rate: None,
                fill: Fill::Random,
                touch: 1 << 30,
                touch_fill: Fill::Word,
                report: 250_000_000,
                gap: 300_000,
                cpus: Some(8),
                ..Params::defaults(Builtin::Workload)
            }
        );
        assert_eq!(strict(Builtin::SelfCheck, "rate=0").unwrap().rate, Some(0));
        let params = strict(Builtin::Workload, "wake=check sample=1M stride=64K").unwrap();
        assert_eq!((params.wake, params.sample, params.stride), (Wake::Check, 1 << 20, 1 << 16));
    }

    #[test]
    fn words_that_mean_nothing_are_refused_by_name() {
        for (text, takes) in [
            ("ws=1X", "SIZE"),
            ("ws=", "SIZE"),
            ("ws", "SIZE"),
            ("ws=99999999999G", "SIZE"),
            ("rate=fast", "N|max"),
            ("report=0s", "TIME"),
            ("report=5", "TIME"),
            ("fill=zero", "word|random"),
            ("wake=up", "quiet|say|check|tell"),
            ("stride=0", "SIZE"),
            ("cpus=65", "N"),
            ("cpus=0", "N"),
        ] {
            let error = strict(Builtin::Workload, text).unwrap_err();
            assert_eq!(error, ParamError::Value { word: text, takes });
        }
        for text in ["rat=5", "quiet", "untouched=1M"] {
            let error = strict(Builtin::Workload, text).unwrap_err();
            assert_eq!(error, ParamError::Unknown { word: text });
        }
    }

    #[test]
    fn every_parameter_has_a_guest_and_a_name_of_its_own() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(!key.guests.is_empty(), "{}", key.name);
            assert!(KEYS[..i].iter().all(|other| other.name != key.name), "{}", key.name);
        }
    }
}
