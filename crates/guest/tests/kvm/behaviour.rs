//! That the guests do what their documentation says

use crate::host::{Guest, Stop};
use std::thread::sleep;
use std::time::Duration;
use whimbrel_guest::Builtin;
use whimbrel_guest::report::{Bye, Clock, End, Hello, Line, Sample, Verdict, Work};
use whimbrel_guest::shared::histogram::Histogram;

fn hello(guest: &mut Guest) -> Hello {
    guest.until(|line| match line {
        Line::Hello(hello) => Some(*hello),
        _ => None,
    })
}

fn clock(guest: &mut Guest) -> Clock {
    guest.until(|line| match line {
        Line::Clock(clock) => Some(*clock),
        _ => None,
    })
}

fn work(guest: &mut Guest) -> Work {
    guest.until(|line| match line {
        Line::Work(work) => Some(*work),
        _ => None,
    })
}

#[test]
fn every_guest_says_hello_first() {
    for builtin in Builtin::ALL {
        let mut guest = Guest::boot(builtin, "");
        let hello = hello(&mut guest);
        assert_eq!((hello.guest, hello.version, hello.cpus), (builtin, 1, 1));
        assert_eq!(hello.ram, (31 << 20) + 0x9_f000);
    }
}

#[test]
fn the_clock_sees_for_how_long_it_was_stopped() {
    for builtin in Builtin::ALL {
        let size = if builtin == Builtin::Clock { "" } else { "ws=1M" };
        let mut guest = Guest::boot(builtin, &format!("{size} report=50ms"));
        clock(&mut guest);
        let away = Duration::from_millis(300);
        guest.stop(&Stop::Signal, |_| true);
        sleep(away);
        let away = u64::try_from(away.as_nanos()).unwrap();
        let report = guest.until(|line| match line {
            Line::Clock(clock) if clock.gap >= away => Some(*clock),
            _ => None,
        });
        assert!(report.stalls >= 1 && report.stalled >= away, "{report}");
        // Nobody told it that it was paused, so this is a stall like any other.
        assert_eq!((report.away, report.other), (0, report.gap), "{report}");
        assert!(report.at <= report.t && report.back == 0, "{report}");
        let longest = report.hist.counts().iter().rposition(|&count| count != 0).unwrap();
        assert!(Histogram::lower_bound(longest) <= report.gap, "{report}");
        assert!(report.gap < 2 * Histogram::lower_bound(longest), "{report}");
    }
}

#[test]
fn a_gap_is_reported_at_once_if_it_is_long_enough() {
    let mut guest = Guest::boot(Builtin::Clock, "report=3600s gap=200ms");
    hello(&mut guest);
    guest.stop(&Stop::Signal, |_| true);
    sleep(Duration::from_millis(200));
    assert!(clock(&mut guest).gap >= 200_000_000);
}

#[test]
fn a_report_can_be_asked_for() {
    let mut guest = Guest::boot(Builtin::Workload, "report=3600s gap=3600s rate=0");
    hello(&mut guest);
    guest.send(b's');
    assert_eq!(clock(&mut guest).cpu, 0);
    assert_eq!(work(&mut guest).pages, 0);
}

#[test]
fn the_workload_writes_what_it_is_told() {
    let parameters = "ws=2M fill=random touch=1M touchfill=random rate=max report=50ms";
    let mut guest = Guest::boot(Builtin::Workload, parameters);
    let first = work(&mut guest);
    // Twice the whole working set at least
    let later = guest.until(|line| match line {
        Line::Work(work) if work.pages >= first.pages + 1024 => Some(*work),
        _ => None,
    });
    assert_eq!((later.ws, later.touched), (2 << 20, 256));
    guest.stop(&Stop::Poll, |_| true);
    let pages = guest.pattern_pages();
    // One page may be half written
    assert!((767..=768).contains(&pages.len()), "{}", pages.len());
    assert!(pages.iter().filter(|page| page.generation > 1).count() > 500);
}

#[test]
fn the_workload_can_write_a_word_a_page() {
    let mut guest = Guest::boot(Builtin::Workload, "ws=1M fill=word report=50ms");
    while work(&mut guest).pages < 1024 {}
    guest.stop(&Stop::Poll, |_| true);
    assert!(guest.pattern_pages().is_empty());
    let start = guest.image_end();
    for page in 0..256 {
        let page = *guest.page(start + 4096 * page);
        assert!(page[0] > 1 && page[1..] == [0; 511]);
    }
}

#[test]
fn an_idle_workload_writes_nothing() {
    let mut guest = Guest::boot(Builtin::Workload, "ws=1M rate=0 touch=1M report=50ms");
    while work(&mut guest).touched < 256 {}
    let later = work(&mut guest);
    assert_eq!((later.pages, later.touched), (0, 256));
}

#[test]
fn a_rate_is_not_exceeded() {
    let mut guest = Guest::boot(Builtin::Workload, "ws=1M rate=1000 report=100ms");
    let first = work(&mut guest);
    let later = guest.until(|line| match line {
        Line::Work(work) if work.pages > first.pages => Some(*work),
        _ => None,
    });
    // What it may be behind and catch up with, and one page at each end
    let most = (later.t - first.t) / 1_000_000 + 10 + 2;
    let written = later.pages - first.pages;
    assert!(written <= most, "{written} of {most}");
}

#[test]
fn a_guest_ends_as_it_is_told() {
    for (command, end, stop) in [
        (b'p', End::PowerOff, Stop::Port(0x600, 0x34)),
        (b'r', End::Reset, Stop::Port(0x601, 1)),
        (b't', End::TripleFault, Stop::Shutdown),
    ] {
        let mut guest = Guest::boot(Builtin::Clock, "");
        hello(&mut guest);
        guest.send(command);
        guest.stop(&stop, |_| true);
        let bye = guest.until(|line| match line {
            Line::Bye(bye) => Some(*bye),
            _ => None,
        });
        assert_eq!(bye, Bye { end, t: bye.t });
    }
}

#[test]
fn a_guest_ends_when_its_time_has_come() {
    for (parameter, stop) in
        [("poweroff=100ms", Stop::Port(0x600, 0x34)), ("reset=100ms", Stop::Port(0x601, 1))]
    {
        let mut guest = Guest::boot(Builtin::Workload, parameter);
        guest.stop(&stop, |_| true);
    }
}

#[test]
fn a_guest_starts_again_in_memory_that_was_used() {
    let mut guest = Guest::boot(Builtin::SelfCheck, "ws=1M report=50ms");
    let rounds = |line: &Line| match line {
        Line::Check(check) => Some((check.rounds, check.faults)),
        _ => None,
    };
    while guest.until(rounds).0 < 3 {}
    guest.restart(Builtin::SelfCheck, "ws=1M report=50ms");
    hello(&mut guest);
    let (rounds, faults) = guest.until(rounds);
    assert!(rounds <= 3 && faults == 0);
}

#[test]
fn a_pause_that_the_vmm_tells_of_is_reported() {
    let mut guest = Guest::boot(Builtin::Clock, "report=50ms");
    let paused = |guest: &mut Guest| clock(guest).paused;
    assert_eq!((paused(&mut guest), paused(&mut guest)), (0, 0));
    guest.stop(&Stop::Signal, |_| true);
    let away = Duration::from_millis(200);
    sleep(away);
    guest.vcpu.kvmclock_ctrl().unwrap();
    let told = guest.until(|line| match line {
        Line::Clock(clock) if clock.paused == 1 => Some(*clock),
        _ => None,
    });
    let away = u64::try_from(away.as_nanos()).unwrap();
    assert!(told.away >= away && told.gap == told.away, "{told}");
    assert_eq!(paused(&mut guest), 0);
}

fn sample(guest: &mut Guest) -> Sample {
    guest.until(|line| match line {
        Line::Sample(sample) => Some(*sample),
        _ => None,
    })
}

/// A workload that has touched 1 MiB, in either way.
fn touched(fill: &str, parameters: &str) -> Guest {
    let parameters = format!("rate=0 touch=1M touchfill={fill} report=50ms {parameters}");
    let mut guest = Guest::boot(Builtin::Workload, &parameters);
    while work(&mut guest).touched < 256 {}
    guest
}

#[test]
fn a_sample_is_of_pages_that_were_touched_once() {
    for fill in ["word", "random"] {
        let mut guest = touched(fill, "sample=512K");
        guest.send(b'k');
        let found = sample(&mut guest);
        assert_eq!((found.verdict, found.pages, found.faults), (Verdict::Ok, 128, 0));
        assert!(found.median <= found.p90 && found.p90 <= found.p99 && found.p99 <= found.max);
        assert!(found.max <= found.took && found.took <= found.t, "{found}");
    }
}

#[test]
fn a_sample_notices_what_is_not_as_it_was_written() {
    for fill in ["word", "random"] {
        let mut guest = touched(fill, "sample=1M stride=64K");
        guest.stop(&Stop::Poll, |_| true);
        let start = guest.image_end();
        // One that is looked at, and one that is not.
        guest.page(start + (16 << 12))[0] ^= 1 << 63;
        guest.page(start + (17 << 12))[0] ^= 1 << 63;
        guest.send(b'k');
        let found = sample(&mut guest);
        assert_eq!((found.verdict, found.pages, found.faults), (Verdict::Bad, 16, 1), "{fill}");
    }
}

#[test]
fn a_guest_says_when_it_goes_on_if_it_is_to() {
    for (wake, says, checks) in [("quiet", 0, 0), ("say", 1, 0), ("check", 1, 1)] {
        let mut guest = touched("random", &format!("sample=64K wake={wake}"));
        guest.stop(&Stop::Signal, |_| true);
        guest.vcpu.kvmclock_ctrl().unwrap();
        guest.send(b'r');
        let (mut said, mut checked) = (0, 0);
        // It ends with a line of its own, and all that it has to say comes before that.
        loop {
            let line = guest.until(|line| Some(*line));
            said += u64::from(matches!(line, Line::Awake(_)));
            checked += u64::from(matches!(line, Line::Sample(_)));
            if matches!(line, Line::Bye(_)) {
                break;
            }
        }
        assert_eq!((said, checked), (says, checks), "{wake}");
    }
}

#[test]
fn a_guest_tells_of_a_pause_and_of_the_second_after_it() {
    let mut guest = Guest::boot(Builtin::Workload, "ws=1M rate=1000 report=100ms wake=tell");
    work(&mut guest);
    let pause = |guest: &mut Guest| {
        guest.until(|line| match line {
            Line::Pause(pause) => Some(*pause),
            _ => None,
        })
    };
    let stop = |guest: &mut Guest, away| {
        guest.stop(&Stop::Signal, |_| true);
        sleep(away);
        guest.vcpu.kvmclock_ctrl().unwrap();
    };
    let away = Duration::from_millis(50);
    stop(&mut guest, away);
    // Until it has looked at its console twice, and so has noticed.
    (0..2).for_each(|_| guest.stop(&Stop::Poll, |_| true));
    stop(&mut guest, away * 2);
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap();
    // The second pause ends what came after the first.
    let (first, second) = (pause(&mut guest), pause(&mut guest));
    assert!(first.away >= nanos(away) && second.away >= nanos(away * 2), "{first} {second}");
    assert!(
        first.after < second.after && second.after >= nanos(Duration::from_secs(1)),
        "{second}"
    );
    // It may lag behind its rate and catch up with what it lost by 10 ms.
    assert!((1..=1100).contains(&second.pages), "{second}");
    assert!(second.longest < second.after, "{second}");
}
