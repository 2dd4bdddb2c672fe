//! A motion under way, at a glance.

use super::advice::{Advice, Remedy, advice};
use super::{bar, label_of, number};
use crate::output::{bytes, nanos};
use crate::terminal::{Ink, Line, Style, wrap};
use monitor::MachineName;
use qmp::reply::{MigrationInfo, MigrationStatus};
use serde_json::Value;

/// What stands beside a bar needs so many columns.
const BESIDE: usize = 34;
/// A longer bar says nothing more.
const LONGEST: usize = 40;

/// How it stands, on a few lines. The rates of link and guest are drawn to one scale: where the
/// guest's bar is the longer one, it writes faster than can be sent.
pub fn frame(name: &MachineName, info: &MigrationInfo, style: &Style) -> Vec<Line> {
    let Some(about) = About::of(info) else { return Vec::new() };
    if let Some(report) = info.report.as_ref().filter(|report| report["restore"].is_object()) {
        return super::restoring::frame(name, &report["progress"], style);
    }
    let mut lines = vec![about.headline(name, info, style)];
    if info.socket_address.is_some() {
        let text = format!("{} so far, in pass {}", bytes(about.sent), about.pass);
        lines.push(label_of("received").plain(text));
    } else if about.pass > 0 {
        lines.extend(about.bars(style));
    }
    if let Some(advice) = advice(name, info) {
        lines.extend(words(&advice, style));
    }
    lines
}

/// The same on one line, for where there is no terminal; with what can be done, if that is wanted.
pub fn one_line(name: &MachineName, info: &MigrationInfo, with_remedy: bool) -> String {
    let Some(about) = About::of(info) else { return String::new() };
    let mut text = format!("{}: ", nanos(about.elapsed));
    if about.pass == 0 {
        text.push_str("setting up");
    } else {
        let (done, all) = (bytes(about.done), bytes(about.all));
        text.push_str(&format!(
            "pass {}, {done} of {all} looked at, {} sent at {}/s",
            about.pass,
            bytes(about.sent),
            bytes(about.rate)
        ));
        if let Some(written) = about.written() {
            text.push_str(&format!(", guest writes {}/s", bytes(written)));
        }
        if about.predicted > 0 {
            text.push_str(&format!(", blackout {} of {}", nanos(about.predicted), about.promise()));
        }
        if let Some(eta) = about.eta {
            text.push_str(&format!(", {} left", nanos(eta)));
        }
    }
    if let Some(Advice { what, remedies, .. }) = advice(name, info) {
        text.push_str(&format!("; {what}"));
        for Remedy { to, command } in remedies.iter().filter(|_| with_remedy) {
            text.push_str(&format!("; to {to}: `{command}`"));
        }
    }
    text
}

/// What it waits for; then each command that helps, whole, on a line of its own.
fn words(advice: &Advice, style: &Style) -> Vec<Line> {
    let Advice { ink, what, remedies } = advice;
    let what = wrap(what, style.width - 2).into_iter();
    let what = what.map(|line| Line::of("  ").ink(*ink, line));
    let remedies = remedies.iter().flat_map(|Remedy { to, command }| {
        let to = Line::default().ink(Ink::Faint, format!("    to {to}:"));
        [to, Line::of(format!("      {command}"))]
    });
    what.chain(remedies).collect()
}

/// The figures.
struct About {
    elapsed: u64,
    pass: u64,
    done: u64,
    all: u64,
    sent: u64,
    rate: u64,
    most: Option<u64>,
    dirty: u64,
    predicted: u64,
    limit: Option<u64>,
    eta: Option<u64>,
    frozen: bool,
    stopped: bool,
    peer: String,
}

impl About {
    fn of(info: &MigrationInfo) -> Option<Self> {
        let progress = &info.report.as_ref()?["progress"];
        let page = info.ram.as_ref().map_or(0, |ram| ram.page_size);
        let of = |key: &str| number(&progress[key]);
        let pages = |key: &str| of(key).saturating_mul(page);
        use MigrationStatus::{Device, PreSwitchover};
        Some(Self {
            elapsed: of("elapsed_ns"),
            pass: of("pass"),
            done: pages("pass_done"),
            all: pages("pass_pages"),
            sent: of("bytes"),
            rate: of("rate"),
            most: progress["max_bandwidth"].as_u64(),
            dirty: pages("dirty_rate"),
            predicted: of("predicted_blackout_ns"),
            limit: progress["limit_ns"].as_u64(),
            eta: progress["eta_ns"].as_u64(),
            frozen: progress["frozen"] == Value::Bool(true),
            stopped: matches!(info.status, Some(PreSwitchover | Device)),
            peer: progress["peer"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// How fast the guest writes, in bytes per second, as soon as a pass has told.
    fn written(&self) -> Option<u64> {
        (self.pass > 1 && !self.frozen).then_some(self.dirty)
    }

    fn promise(&self) -> String {
        self.limit.map_or_else(|| "any length".into(), nanos)
    }

    fn headline(&self, name: &MachineName, info: &MigrationInfo, style: &Style) -> Line {
        let coming = info.socket_address.is_some();
        let arrow = match (style.unicode, coming) {
            (true, false) => "→",
            (true, true) => "←",
            (false, false) => "->",
            (false, true) => "<-",
        };
        let line = Line::default().ink(Ink::Bold, format!("{name} {arrow} {}", self.peer));
        let mut rest = format!("  {}", seconds(self.elapsed));
        if !coming && self.pass > 0 {
            rest.push_str(&format!(", {} sent", bytes(self.sent)));
        }
        if let Some(eta) = self.eta.filter(|_| !self.stopped) {
            rest.push_str(&format!(", about {} left", seconds(eta)));
        }
        line.plain(rest)
    }

    fn bars(&self, style: &Style) -> Vec<Line> {
        let width = style.width.saturating_sub(super::VALUES + BESIDE + 2).clamp(8, LONGEST);
        let draw = |label: &str, ink, amount, whole, text: String| {
            let line = bar(label_of(label), ink, amount, whole, width, style);
            line.plain("  ").plain(text)
        };
        let percent = self.done.saturating_mul(100).checked_div(self.all).unwrap_or(100);
        let pass = format!("{percent:>3} %, {} of {}", bytes(self.done), bytes(self.all));
        let mut lines = vec![draw(
            &format!("pass {}", self.pass),
            Ink::Plain,
            self.done,
            self.all.max(1),
            pass,
        )];
        let written = self.written();
        let scale = self.rate.max(written.unwrap_or(0)).max(1);
        let limited = self.most.map(|most| format!(" of {}/s allowed", bytes(most)));
        let rate = match self.rate {
            0 => "not measured yet".to_owned(),
            rate => format!("{}/s{}", bytes(rate), limited.unwrap_or_default()),
        };
        lines.push(draw("link", Ink::Blue, self.rate, scale, rate));
        let (ink, amount, text) = match written {
            _ if self.frozen || self.stopped => (Ink::Plain, 0, "stopped".to_owned()),
            None => (Ink::Plain, 0, "told after the first pass".to_owned()),
            Some(rate) if rate >= self.rate => {
                (Ink::Red, rate, format!("{}/s written", bytes(rate)))
            }
            Some(rate) => (Ink::Yellow, rate, format!("{}/s written", bytes(rate))),
        };
        lines.push(draw("guest", ink, amount, scale, text));
        if self.predicted > 0 && !self.frozen {
            let (ink, whole, promise) = match self.limit {
                Some(limit) if self.predicted > limit => (Ink::Red, self.predicted, nanos(limit)),
                Some(limit) => (Ink::Green, limit, nanos(limit)),
                None => (Ink::Green, self.predicted, "any".to_owned()),
            };
            let text = format!("{} of {promise} promised", nanos(self.predicted));
            lines.push(draw("blackout", ink, self.predicted, whole, text));
        }
        lines
    }
}

/// A time for somebody who waits: tenths of a second do not matter.
fn seconds(ns: u64) -> String {
    match ns.div_ceil(1_000_000_000) {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{}m{:02}s", seconds / 60, seconds % 60),
    }
}
