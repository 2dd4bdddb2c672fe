//! The console outputs of all processes that held the guest, read as one text.

use std::time::Duration;

use crate::clocks::{Clocks, divergence};
use crate::line::Line;
use crate::tsc::Reading;

/// The most that the guest's wall clock and uptime may move against each other: the guest reads
/// them one after the other.
const MOST_DIVERGENCE: f64 = 0.05;

/// A line, and the host's clocks when it had arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// What the guest wrote.
    pub line: Line,
    /// When it was read.
    pub host: Clocks,
    /// Which console it ended on: 0 is that of the first process.
    pub console: usize,
}

impl Arrival {
    /// The guest's clocks, if this is a line that tells them.
    #[must_use]
    pub fn guest(&self) -> Option<Clocks> {
        let nanoseconds = |key| self.line.number_of(key).map(Duration::from_nanos);
        Some(Clocks { uptime: nanoseconds("up")?, wall: nanoseconds("wall")? })
    }

    /// The guest's time stamp counter, if this is a line that tells it.
    #[must_use]
    pub fn counter(&self) -> Option<Reading> {
        Some(Reading { uptime: self.line.number_of("up")?, tsc: self.line.number_of("tsc")? })
    }
}

/// The text so far, and everything that is wrong with it.
///
/// The guest's first process begins with line 0, `hello`, and announces a reboot or power-off with
/// `end`.
#[derive(Debug, Default)]
pub struct Transcript {
    partial: Vec<u8>,
    console: usize,
    arrivals: Vec<Arrival>,
    boots: usize,
    /// Between `hello` and `end` nobody but the guest's first process writes on the console; at
    /// other times the kernel may.
    talking: bool,
    problems: Vec<String>,
}

impl Transcript {
    /// What follows comes from the console of the next process. A line may have begun on the one
    /// before.
    pub fn next_console(&mut self) {
        self.console += 1;
    }

    /// Takes what was read from the console, at the time `host`.
    pub fn feed(&mut self, bytes: &[u8], host: Clocks) {
        for &byte in bytes {
            if byte != b'\n' {
                self.partial.push(byte);
                continue;
            }
            let raw = String::from_utf8_lossy(&self.partial).into_owned();
            self.partial.clear();
            self.take(raw.trim_end_matches('\r'), host);
        }
    }

    fn take(&mut self, raw: &str, host: Clocks) {
        let Some(line) = Line::parse(raw) else {
            if self.talking {
                self.problem(format!("damaged line after {}: {raw:?}", self.last_number()));
            }
            return;
        };
        if line.kind() == "hello" && line.number == 0 {
            self.boots += 1;
            if self.talking {
                self.problem(format!("unexpected boot after {}", self.last_number()));
            }
            self.talking = true;
        } else {
            self.check_successor(&line);
        }
        if line.kind() == "end" {
            self.talking = false;
        }
        if line.kind() == "fault" {
            self.problem(format!("the guest reports: {}", line.rest()));
        }
        let arrival = Arrival { line, host, console: self.console };
        self.check_clocks(&arrival);
        self.arrivals.push(arrival);
    }

    fn check_successor(&mut self, line: &Line) {
        let expected = self.arrivals.last().map(|arrival| arrival.line.number + 1);
        match expected {
            None => self.problem(format!("the first line is number {}", line.number)),
            Some(expected) if line.number < expected => {
                self.problem(format!("line {} came again after {}", line.number, expected - 1));
            }
            Some(expected) if line.number > expected => {
                self.problem(format!("lines {expected} to {} are missing", line.number - 1));
            }
            Some(_) => {}
        }
    }

    fn check_clocks(&mut self, arrival: &Arrival) {
        let Some(now) = arrival.guest() else { return };
        // A new boot begins with `hello`, which tells no time.
        let before = self
            .arrivals
            .iter()
            .rev()
            .take_while(|earlier| earlier.line.kind() != "hello")
            .find_map(Arrival::guest);
        let Some(before) = before else { return };
        let number = arrival.line.number;
        if now.uptime < before.uptime {
            self.problem(format!("uptime went backwards at line {number}"));
        }
        if now.wall < before.wall {
            self.problem(format!("wall clock went backwards at line {number}"));
        }
        let divergence = divergence(before, now);
        if divergence.abs() > MOST_DIVERGENCE {
            self.problem(format!(
                "wall clock jumped by {divergence:.3} s against uptime at line {number}"
            ));
        }
    }

    fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    fn last_number(&self) -> String {
        match self.arrivals.last() {
            Some(arrival) => format!("line {}", arrival.line.number),
            None => "nothing".to_string(),
        }
    }

    /// All lines so far.
    #[must_use]
    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    /// How often the guest has booted.
    #[must_use]
    pub fn boots(&self) -> usize {
        self.boots
    }

    /// Everything wrong so far, in the order in which it was noticed.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The number of lines of `kind` on the current console since the last boot.
    #[must_use]
    pub fn here(&self, kind: &str) -> usize {
        self.arrivals
            .iter()
            .rev()
            .take_while(|arrival| arrival.console == self.console && arrival.line.kind() != "hello")
            .filter(|arrival| arrival.line.kind() == kind)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZERO: Clocks = Clocks { uptime: Duration::ZERO, wall: Duration::ZERO };

    fn tick(number: u64) -> String {
        let (up, wall) = (number * 1_000_000, 5_000_000_000 + number * 1_000_000);
        let text = match number {
            0 => "hello".to_string(),
            _ => format!("tick up={up} wall={wall}"),
        };
        format!("{}\r\n", Line { number, text })
    }

    fn read(consoles: &[&str]) -> Transcript {
        let mut transcript = Transcript::default();
        for (index, console) in consoles.iter().enumerate() {
            if index > 0 {
                transcript.next_console();
            }
            transcript.feed(console.as_bytes(), ZERO);
        }
        transcript
    }

    fn lines(numbers: impl IntoIterator<Item = u64>) -> String {
        numbers.into_iter().map(tick).collect()
    }

    #[test]
    fn a_missing_line_is_a_gap() {
        let transcript = read(&[&lines(0..5), &lines(6..9)]);
        assert_eq!(transcript.problems(), ["lines 5 to 5 are missing"]);
    }

    #[test]
    fn a_line_on_both_consoles_is_a_repetition() {
        let transcript = read(&[&lines(0..5), &lines(4..9)]);
        assert_eq!(transcript.problems(), ["line 4 came again after 4"]);
    }

    #[test]
    fn kernel_messages_before_the_first_line_are_no_damage_and_after_it_they_are() {
        let boot = format!("[    0.0] booting\r\n{}", lines(0..2));
        assert!(read(&[&boot]).problems().is_empty());
        let panic = format!("{}[   9.0] panic\r\n", lines(0..2));
        assert_eq!(read(&[&panic]).problems().len(), 1);
    }

    #[test]
    fn a_boot_is_a_problem_unless_announced() {
        let twice = format!("{}noise\r\n{}", lines(0..3), lines(0..3));
        assert_eq!(read(&[&twice]).problems().len(), 2);
        let end = Line { number: 3, text: "end reboot".into() };
        let announced = format!("{}{end}\nnoise\r\n{}", lines(0..3), lines(0..3));
        let transcript = read(&[&announced]);
        assert!(transcript.problems().is_empty(), "{:?}", transcript.problems());
        assert_eq!((transcript.boots(), transcript.here("tick")), (2, 2));
    }

    #[test]
    fn what_the_guest_itself_found_is_a_problem() {
        let fault = Line { number: 1, text: "fault memory page=3".into() };
        let transcript = read(&[&format!("{}{fault}\n", lines(0..1))]);
        assert_eq!(transcript.problems(), ["the guest reports: memory page=3"]);
    }

    #[test]
    fn clocks_that_go_backwards_or_jump_are_problems() {
        let tick = |number, up: u64, wall: u64| {
            let text = format!("tick up={} wall={}", up * 1_000_000, wall * 1_000_000);
            format!("{}\n", Line { number, text })
        };
        let text = format!("{}{}{}", tick(1, 100, 900), tick(2, 99, 899), tick(3, 200, 1300));
        let transcript = read(&[&lines(0..1), &text]);
        let expected = ["uptime went back", "wall clock went back", "wall clock jumped by 0.300"];
        assert_eq!(transcript.problems().len(), expected.len(), "{:?}", transcript.problems());
        for (problem, expected) in transcript.problems().iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
        }
    }

    proptest! {
        #[test]
        fn a_text_cut_anywhere_and_continued_elsewhere_is_whole(
            cut in any::<prop::sample::Index>(), again in any::<prop::sample::Index>(),
        ) {
            let whole = lines(0..40);
            let (first, rest) = whole.split_at(cut.index(whole.len()));
            let (second, third) = rest.split_at(again.index(rest.len().max(1)).min(rest.len()));
            let transcript = read(&[first, second, third]);
            prop_assert!(transcript.problems().is_empty(), "{:?}", transcript.problems());
            prop_assert_eq!(transcript.arrivals().len(), 40);
        }

        #[test]
        fn bytes_lost_or_doubled_at_the_cut_are_noticed(
            cut in 70usize..900, length in 1usize..100, lost: bool,
        ) {
            let whole = lines(0..40);
            let (first, rest) = whole.split_at(cut);
            let second = if lost { &rest[length..] } else { &whole[cut - length.min(cut)..] };
            // A lost or doubled end-of-line character alone changes nothing that is printed.
            let changed = if lost { &rest[..length] } else { &first[cut - length.min(cut)..] };
            prop_assume!(!changed.trim_matches(['\r', '\n']).is_empty());
            let transcript = read(&[first, second]);
            prop_assert!(!transcript.problems().is_empty());
        }
    }
}
