//! What is concluded from what was seen.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use whimbrel_lab::clocks::Lag;
use whimbrel_lab::complaints::is_complaint;
use whimbrel_lab::transcript::{Arrival, Transcript};
use whimbrel_lab::tsc::{self, Reading};

use crate::consoles::Consoles;

/// The most that the guest's clocks may fall behind, or get ahead, in a move, in seconds: more than
/// emulation makes of the console's delays, and less than the blackout of the frozen move.
const MOST_SHIFT: f64 = 0.25;
/// The most that the guest's wall clock may differ from the host's, in seconds. An emulated
/// processor is too slow for all ticks of a booting kernel, which counts them until it has
/// kvmclock; a clock that was never told the time would be decades behind.
const MOST_WALL_LAG: f64 = 30.0;

/// The most that the guest's time stamp counter may go on further than its uptime between two lines, or less far,
/// in seconds: far more than there is between reading the one and the other, and less than it takes from saving the
/// guest's clocks to setting them, which is what a counter would lose that was set to where it was.
const MOST_EXCESS: f64 = 0.001;
/// What a process says of a KVM that leaves the time stamp counter as it is: this one does what it is told.
const TSC_NOT_SET: &str = "KVM did not set the TSC";

/// One move, from outside.
pub struct Move {
    /// From the command to its end.
    pub took: Duration,
    /// The engine's report.
    pub report: Value,
}

/// Prints the figures of the moves that were made, and returns what is wrong with them.
pub fn judge_moves(consoles: &Consoles, moves: &[Move]) -> Vec<String> {
    let transcript = consoles.transcript();
    let mut problems = Vec::new();
    let lags: Vec<Lag> = (0..=moves.len()).filter_map(|console| lag(transcript, console)).collect();
    if lags.len() <= moves.len() {
        problems.push("the guest did not tell its time on every console".to_string());
    }
    for (index, (made, pair)) in moves.iter().zip(lags.windows(2)).enumerate() {
        let (uptime, wall) = (pair[1].uptime - pair[0].uptime, pair[1].wall - pair[0].wall);
        println!(
            "move {}: {:.2} s, blackout by the engine {}, longest gap by the guest {:.1} ms, \
             clocks behind afterwards: uptime {:.1} ms, wall {:.1} ms",
            index + 1,
            made.took.as_secs_f64(),
            blackout(&made.report),
            longest_gap(transcript, index + 1),
            uptime * 1e3,
            wall * 1e3,
        );
        for (clock, shift) in [("uptime", uptime), ("wall clock", wall)] {
            if shift.abs() > MOST_SHIFT {
                problems.push(format!(
                    "move {} changed the guest's {clock} by {shift:.3} s against the host's",
                    index + 1
                ));
            }
        }
    }
    if let Some(lag) = lags.last() {
        println!("the guest's wall clock is {:.1} ms behind the host's", lag.wall * 1e3);
        if lag.wall.abs() > MOST_WALL_LAG {
            problems.push(format!("the guest's wall clock is {:.3} s behind", lag.wall));
        }
    }
    problems
}

/// What the guest said of itself, after a scenario that came to its end and has so many boots in it.
pub fn judge_guest(consoles: &Consoles, expected: usize) -> Vec<String> {
    let transcript = consoles.transcript();
    let mut problems = judge_counter(transcript);
    let lines = |kind: &'static str| {
        transcript.arrivals().iter().filter(move |arrival| arrival.line.kind() == kind)
    };
    if lines("hello").any(|hello| hello.line.number_of("cpus") != Some(2)) {
        problems.push("the guest has not found its two processors".to_string());
    }
    let boots: Vec<_> = lines("hello").filter_map(|hello| hello.line.field("boot")).collect();
    if boots.len() != expected || boots.iter().collect::<BTreeSet<_>>().len() != expected {
        problems.push(format!("this is not what {expected} boots say: {boots:?}"));
    }
    for console in 0..consoles.count() {
        let pages = || {
            lines("tick")
                .filter(|tick| tick.console == console)
                .filter_map(|tick| tick.line.number_of("pages"))
        };
        if pages().max() <= pages().min() {
            problems.push(format!("the guest did no work on console {}", console + 1));
        }
    }
    if !lines("report").any(|report| {
        let number = |key| report.line.number_of(key).unwrap_or(0);
        number("cold") > 0 && number("hot") > 0 && report.line.number_of("faults") == Some(0)
    }) {
        problems.push("the guest's report does not say that its memory is whole".to_string());
    }
    if lines("kernel").next().is_none() {
        problems.push("the guest's kernel log is missing".to_string());
    }
    problems.extend(
        lines("kernel")
            .filter(|message| is_complaint(message.line.rest()))
            .map(|message| format!("the guest's kernel complains: {}", message.line.rest())),
    );
    problems
}

/// Whether the guest's time stamp counter went on with its uptime, in both boots and on all consoles.
///
/// That those of its processors are in step with each other it says itself.
fn judge_counter(transcript: &Transcript) -> Vec<String> {
    let mut boots: Vec<Vec<Reading>> = Vec::new();
    for arrival in transcript.arrivals() {
        if arrival.line.kind() == "hello" {
            boots.push(Vec::new());
        } else if let (Some(boot), Some(reading)) = (boots.last_mut(), arrival.counter()) {
            boot.push(reading);
        }
    }
    let Some(rate) = tsc::rate(&boots) else {
        return vec!["the guest does not tell its time stamp counter".to_string()];
    };
    let pairs = || boots.iter().flat_map(|boot| boot.windows(2));
    let excess = |pair: &[Reading]| tsc::excess(pair[0], pair[1], rate);
    let most = pairs().map(excess).map(f64::abs).fold(0.0, f64::max);
    println!(
        "the guest's time stamp counter: {:.1} MHz, off by at most {:.3} ms between two lines",
        rate * 1e3,
        most * 1e3
    );
    let mut problems = Vec::new();
    for pair in pairs() {
        let (seconds, uptime) = (excess(pair), pair[1].uptime);
        if pair[1].tsc < pair[0].tsc {
            problems.push(format!("the time stamp counter went backwards before uptime {uptime}"));
        } else if seconds.abs() > MOST_EXCESS {
            problems.push(format!(
                "the time stamp counter jumped by {seconds:.3} s against the uptime before {uptime}"
            ));
        }
    }
    problems
}

/// What the processes that held the guest logged and should not have.
pub fn judge_logs(logged: &[String]) -> Vec<String> {
    let warnings = logged.iter().filter(|line| line.contains(TSC_NOT_SET));
    warnings.map(|line| format!("a process warns: {line}")).collect()
}

/// The lines with times on a console, of the first boot: with each the guest's clocks start anew,
/// and all moves are before the second.
fn ticks(transcript: &Transcript, console: usize) -> impl Iterator<Item = &Arrival> {
    transcript
        .arrivals()
        .iter()
        .take_while(|arrival| arrival.line.kind() != "end")
        .filter(move |arrival| arrival.console == console && arrival.line.kind() == "tick")
}

fn lag(transcript: &Transcript, console: usize) -> Option<Lag> {
    Lag::least(
        ticks(transcript, console)
            .filter_map(|arrival| arrival.guest().map(|guest| (guest, arrival.host))),
    )
}

/// The longest gap that the guest told on this console's first lines, in milliseconds: the one
/// with the move in it.
#[expect(clippy::cast_precision_loss, reason = "microseconds of a lab run are far below 2^53")]
fn longest_gap(transcript: &Transcript, console: usize) -> f64 {
    let gaps = ticks(transcript, console).take(3);
    gaps.filter_map(|tick| tick.line.number_of("gap_us")).max().unwrap_or(0) as f64 / 1e3
}

/// The engine's own figure.
fn blackout(report: &Value) -> String {
    match report.pointer("/blackout/ns").and_then(Value::as_f64) {
        Some(nanoseconds) => format!("{:.1} ms", nanoseconds / 1e6),
        None => "not told".to_string(),
    }
}
