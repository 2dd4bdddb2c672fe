//! The lines that a guest prints
//!
//! A line is a word in capitals and then `key=value` by single spaces. Readers
//! skip keys that they do not know, so that lines can grow. Times are in
//! nanoseconds; `t` counts from the guest's start, by the TSC.

use super::builtin::Builtin;
use super::histogram::Histogram;
use core::fmt;
use core::str::FromStr;

/// Version of the line formats, in `HELLO`
pub const VERSION: u64 = 1;

/// A number in hexadecimal, as `0x1f`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl FromStr for Hex {
    type Err = NotALine;

    fn from_str(text: &str) -> Result<Self, NotALine> {
        let digits = text.strip_prefix("0x").ok_or(NotALine)?;
        u64::from_str_radix(digits, 16).map(Self).map_err(|_| NotALine)
    }
}

/// An enum whose values are single words
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$case_doc])* $case,)* }

        impl $name {
            /// Every value
            pub const ALL: &[Self] = &[$(Self::$case),*];

            /// The value as a word
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$case => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl FromStr for $name {
            type Err = NotALine;

            fn from_str(text: &str) -> Result<Self, NotALine> {
                Self::ALL.iter().copied().find(|value| value.word() == text).ok_or(NotALine)
            }
        }
    };
}

/// A line: `WORD key=value …`, or `WORD verdict key=value …`
macro_rules! line {
    (
        $(#[$doc:meta])* $name:ident = $word:literal
        $([$(#[$head_doc:meta])* $head:ident: $head_type:ty])?
        { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$head_doc])* pub $head: $head_type,)?
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($word)?;
                $(write!(f, " {}", self.$head)?;)?
                $(write!(f, concat!(" ", stringify!($field), "={}"), self.$field)?;)*
                Ok(())
            }
        }

        impl FromStr for $name {
            type Err = NotALine;

            fn from_str(line: &str) -> Result<Self, NotALine> {
                let rest = line.strip_prefix($word).ok_or(NotALine)?;
                $(
                    let (head, rest) = rest.trim_start().split_once(' ').ok_or(NotALine)?;
                    let $head: $head_type = head.parse().map_err(|_| NotALine)?;
                )?
                Ok(Self { $($head,)? $($field: value(rest, stringify!($field))?,)* })
            }
        }
    };
}

fn value<T: FromStr>(line: &str, key: &str) -> Result<T, NotALine> {
    line.split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.parse().ok())
        .ok_or(NotALine)
}

line! {
    /// The guest has started on all its processors
    Hello = "HELLO" {
        /// Which guest
        guest: Builtin,
        /// Version of the line formats
        version: u64,
        /// Processors that came
        cpus: u64,
        /// Bytes of RAM that the loader told of
        ram: u64,
        /// Frequency of the TSC in kHz
        tsc_khz: u64,
        /// When
        t: u64,
    }
}

line! {
    /// What one processor saw of the clock since its last such line
    Clock = "CLOCK" {
        /// The processor's local APIC id
        cpu: u64,
        /// When
        t: u64,
        /// KVM's clock at the same moment, 0 without one
        kvm: u64,
        /// Times that the clock was read
        reads: u64,
        /// The longest time between two readings
        gap: u64,
        /// When that ended
        at: u64,
        /// The furthest that the clock went backwards between two readings
        back: u64,
        /// Number of gaps of at least [`STALL`]
        stalls: u64,
        /// Their sum
        stalled: u64,
        /// Whether the VMM said, through KVM's clock, that the guest was paused:
        /// 1, else 0
        paused: u64,
        /// The longest gap at whose end the VMM said that the guest was paused: the
        /// blackout, where there was one
        away: u64,
        /// The longest of all other gaps
        other: u64,
        /// All gaps by size
        hist: Histogram,
    }
}

/// The length, in nanoseconds, from which on a gap counts as a stall
pub const STALL: u64 = 500_000;

line! {
    /// What the workload got done, all processors together
    Work = "WORK" {
        /// When
        t: u64,
        /// Pages of the working set written since the start
        pages: u64,
        /// Pages written once so far, of those that are to be touched
        touched: u64,
        /// Bytes of the working set: less than asked for if RAM is short
        ws: u64,
    }
}

words! {
    /// Whether faults were found
    Verdict {
        /// None since the start
        Ok = "ok",
        /// Some since the start
        Bad = "bad",
    }
}

line! {
    /// The guest goes on after a pause
    Awake = "AWAKE" {
        /// When
        t: u64,
    }
}

line! {
    /// A pause, and what came after it: a second, or the time until the next pause
    Pause = "PAUSE" {
        /// How long it was
        away: u64,
        /// How long the time after it was
        after: u64,
        /// Pages of the working set written in that time
        pages: u64,
        /// The longest time between two readings of the clock in it
        longest: u64,
        /// When
        t: u64,
    }
}

line! {
    /// What a check of some of the memory that was touched once has found
    Sample = "SAMPLE" [
        /// Whether all of it is what was written
        verdict: Verdict
    ] {
        /// Pages that were checked
        pages: u64,
        /// Pages that were not what was written
        faults: u64,
        /// How long the check took
        took: u64,
        /// Of the times that it took to read a page's first word: the median
        median: u64,
        /// Nine in ten took no longer
        p90: u64,
        /// 99 in 100 took no longer
        p99: u64,
        /// The longest
        max: u64,
        /// When it was done
        t: u64,
    }
}

words! {
    /// What a check covered
    Scope {
        /// Every page, on demand
        Full = "full",
        /// The pages that came round since the start
        Passing = "passing",
    }
}

line! {
    /// Where the self-check stands
    Check = "CHECK" [
        /// Whether faults were found
        verdict: Verdict
    ] {
        /// Pages checked: in this check if it was a full one, else since the start
        pages: u64,
        /// Times that every page has come round
        rounds: u64,
        /// Faults since the start
        faults: u64,
        /// What was checked
        scope: Scope,
        /// When
        t: u64,
    }
}

words! {
    /// How the invariant was broken
    Kind {
        /// A page is zero that should hold content
        Zero = "zero",
        /// A page holds what it held earlier
        Stale = "stale",
        /// A page holds what it should hold later: the processor was set back
        Future = "future",
        /// A page holds the content of another
        Misplaced = "misplaced",
        /// A page holds parts of different contents
        Torn = "torn",
        /// A page holds what was never written
        Corrupt = "corrupt",
        /// A page that was never written is not zero
        Dirty = "dirty",
        /// The guest's own code, constants or page tables changed
        Image = "image",
        /// A copy of a processor's progress in memory differs from its registers
        Record = "record",
        /// A general register
        Register = "register",
        /// A floating-point or vector register
        Fpu = "fpu",
        /// A model-specific register
        Msr = "msr",
        /// A debug register
        Debug = "debug",
        /// A register of the local APIC
        Apic = "apic",
        /// A register of the serial port
        Uart = "uart",
        /// The TSC went backwards on one processor
        Tsc = "tsc",
        /// KVM's clock went backwards on one processor
        KvmClock = "kvmclock",
        /// The clocks of two processors differ
        Skew = "skew",
    }
}

line! {
    /// The invariant is broken
    Fault = "FAULT" {
        /// How
        kind: Kind,
        /// Where: an address or a register's number, by kind
        addr: Hex,
        /// What should be there
        expected: Hex,
        /// What is there
        found: Hex,
        /// The processor that noticed
        cpu: u64,
        /// When
        t: u64,
    }
}

words! {
    /// Why a guest ends
    End {
        /// It powers off
        PowerOff = "poweroff",
        /// It resets
        Reset = "reset",
        /// It shuts its processor down by a triple fault
        TripleFault = "triplefault",
    }
}

line! {
    /// The last line
    Bye = "BYE" {
        /// What the guest does now
        end: End,
        /// When
        t: u64,
    }
}

line! {
    /// The guest met an exception, and stops
    Panic = "PANIC" {
        /// The processor
        cpu: u64,
        /// The exception's vector, or 255 for a failed assertion of the guest
        vector: u64,
        /// Its error code
        error: Hex,
        /// The instruction, or the line of the assertion
        rip: Hex,
        /// CR2: the address of a page fault
        addr: Hex,
    }
}

/// A line of a guest
#[allow(clippy::large_enum_variant, reason = "without an allocator, nothing can be boxed")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// `HELLO`
    Hello(Hello),
    /// `CLOCK`
    Clock(Clock),
    /// `WORK`
    Work(Work),
    /// `AWAKE`
    Awake(Awake),
    /// `PAUSE`
    Pause(Pause),
    /// `SAMPLE`
    Sample(Sample),
    /// `CHECK`
    Check(Check),
    /// `FAULT`
    Fault(Fault),
    /// `BYE`
    Bye(Bye),
    /// `PANIC`
    Panic(Panic),
}

/// The text is no line of a guest: a remark, a line cut short, or output of something else
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotALine;

impl fmt::Display for NotALine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a line of a built-in guest")
    }
}

impl core::error::Error for NotALine {}

impl FromStr for Line {
    type Err = NotALine;

    fn from_str(line: &str) -> Result<Self, NotALine> {
        let line = line.trim_end_matches(['\r', '\n']);
        match line.split(' ').next().unwrap_or_default() {
            "HELLO" => line.parse().map(Self::Hello),
            "CLOCK" => line.parse().map(Self::Clock),
            "WORK" => line.parse().map(Self::Work),
            "AWAKE" => line.parse().map(Self::Awake),
            "PAUSE" => line.parse().map(Self::Pause),
            "SAMPLE" => line.parse().map(Self::Sample),
            "CHECK" => line.parse().map(Self::Check),
            "FAULT" => line.parse().map(Self::Fault),
            "BYE" => line.parse().map(Self::Bye),
            "PANIC" => line.parse().map(Self::Panic),
            _ => Err(NotALine),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(line) => line.fmt(f),
            Self::Clock(line) => line.fmt(f),
            Self::Work(line) => line.fmt(f),
            Self::Awake(line) => line.fmt(f),
            Self::Pause(line) => line.fmt(f),
            Self::Sample(line) => line.fmt(f),
            Self::Check(line) => line.fmt(f),
            Self::Fault(line) => line.fmt(f),
            Self::Bye(line) => line.fmt(f),
            Self::Panic(line) => line.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_line() -> impl Strategy<Value = Line> {
        let n = any::<u64>;
        let hex = || any::<u64>().prop_map(Hex);
        let histogram = proptest::collection::vec(any::<u64>(), 0..20).prop_map(|gaps| {
            let mut histogram = Histogram::new();
            gaps.into_iter().for_each(|gap| histogram.add(gap));
            histogram
        });
        let kind = proptest::sample::select(Kind::ALL);
        let end = proptest::sample::select(End::ALL);
        let verdict = proptest::sample::select(Verdict::ALL);
        let scope = proptest::sample::select(Scope::ALL);
        let guest = proptest::sample::select(&Builtin::ALL[..]);
        prop_oneof![
            (guest, n(), n(), n(), n(), n()).prop_map(|(guest, version, cpus, ram, tsc_khz, t)| {
                Line::Hello(Hello { guest, version, cpus, ram, tsc_khz, t })
            }),
            (any::<[u64; 12]>(), histogram).prop_map(
                |(
                    [cpu, t, kvm, reads, gap, at, back, stalls, stalled, paused, away, other],
                    hist,
                )| {
                    Line::Clock(Clock {
                        cpu,
                        t,
                        kvm,
                        reads,
                        gap,
                        at,
                        back,
                        stalls,
                        stalled,
                        paused,
                        away,
                        other,
                        hist,
                    })
                }
            ),
            (n(), n(), n(), n()).prop_map(|(t, pages, touched, ws)| Line::Work(Work {
                t,
                pages,
                touched,
                ws
            })),
            n().prop_map(|t| Line::Awake(Awake { t })),
            any::<[u64; 5]>().prop_map(|[away, after, pages, longest, t]| {
                Line::Pause(Pause { away, after, pages, longest, t })
            }),
            (verdict.clone(), any::<[u64; 8]>()).prop_map(
                |(verdict, [pages, faults, took, median, p90, p99, max, t])| {
                    Line::Sample(Sample { verdict, pages, faults, took, median, p90, p99, max, t })
                }
            ),
            (verdict, n(), n(), n(), scope, n()).prop_map(
                |(verdict, pages, rounds, faults, scope, t)| {
                    Line::Check(Check { verdict, pages, rounds, faults, scope, t })
                }
            ),
            (kind, hex(), hex(), hex(), n(), n()).prop_map(
                |(kind, addr, expected, found, cpu, t)| {
                    Line::Fault(Fault { kind, addr, expected, found, cpu, t })
                }
            ),
            (end, n()).prop_map(|(end, t)| Line::Bye(Bye { end, t })),
            (n(), n(), hex(), hex(), hex()).prop_map(|(cpu, vector, error, rip, addr)| {
                Line::Panic(Panic { cpu, vector, error, rip, addr })
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_a_guest_prints_is_what_the_host_reads(line in any_line()) {
            let text = line.to_string();
            prop_assert!(text.len() < 512, "the console cuts lines at 512 bytes: {}", text);
            prop_assert_eq!((text + "\r\n").parse(), Ok(line));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "(HELLO|CLOCK|CHECK|FAULT)?[ -~]{0,80}") {
            let _ = text.parse::<Line>();
        }
    }

    #[test]
    fn lines_look_as_documented() {
        let line = Check {
            verdict: Verdict::Ok,
            pages: 16384,
            rounds: 3,
            faults: 0,
            scope: Scope::Full,
            t: 5,
        };
        assert_eq!(line.to_string(), "CHECK ok pages=16384 rounds=3 faults=0 scope=full t=5");
        let line = Fault {
            kind: Kind::Stale,
            addr: Hex(0x123_4000),
            expected: Hex(12),
            found: Hex(11),
            cpu: 1,
            t: 7,
        };
        assert_eq!(
            line.to_string(),
            "FAULT kind=stale addr=0x1234000 expected=0xc found=0xb cpu=1 t=7"
        );
    }

    #[test]
    fn readers_skip_keys_that_they_do_not_know() {
        let line = "WORK t=1 shiny=new pages=2 touched=3 ws=4";
        assert_eq!(line.parse(), Ok(Line::Work(Work { t: 1, pages: 2, touched: 3, ws: 4 })));
    }

    #[test]
    fn lines_that_lack_something_are_refused() {
        for line in ["", "WORK", "WORK t=1 pages=2 touched=3", "WORKS t=1", "NOTE ignored: x"] {
            assert_eq!(line.parse::<Line>(), Err(NotALine), "{line}");
        }
    }
}
