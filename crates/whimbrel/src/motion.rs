//! A motion, for people: how it stands while it is under way, and how it went.

mod advice;
mod blackout;
mod copied;
mod glance;
mod passes;
pub mod restoring;

use crate::output::{bytes, grouped, nanos};
use crate::terminal::{Ink, Line, Style, wrap};
use monitor::MachineName;
use qmp::reply::{MigrationInfo, MigrationStatus};
use serde_json::Value;

pub use glance::{frame, one_line};

/// What an update risks in a container.
const UNGUARDED: &str = "the process is the first of its PID namespace: if the new program crashes or exits in it \
                         before it has taken the guest back, the guardian ends with it, and the guest";

/// Where labels end and values begin.
const VALUES: usize = 12;

/// The present or last motion of the machine `name`: how it stands, and what came of it.
pub fn motion_lines(name: &MachineName, info: &MigrationInfo, style: &Style) -> Vec<Line> {
    let report = info.report.as_ref().unwrap_or(&Value::Null);
    if report["checked"] == true {
        if report["update"].is_object() {
            let text = "check: the new program would take the machine; nothing was touched";
            let mut lines = vec![Line::of(text)];
            if report["update"]["unguarded"] == true {
                lines.extend(labelled("unguarded", UNGUARDED, style));
            }
            return lines;
        }
        let text = "check: the destination could take the guest; nothing was touched";
        return std::iter::once(Line::of(text)).chain(notes(report, style)).collect();
    }
    let Some(status) = info.status.filter(|status| *status != MigrationStatus::None) else {
        return Vec::new();
    };
    if !has_ended(info) {
        return frame(name, info, style);
    }
    let mut lines = vec![headline(status, info, report)];
    lines.extend(why(info, report, style));
    lines.extend(notes(report, style));
    if report["restore"].is_object() {
        lines.extend(restoring::details(report, style));
        return lines;
    }
    if info.socket_address.is_some() {
        lines.extend(labelled("received", &pages(&report["ram"]), style));
    } else if report["passes"].as_array().is_some_and(|passes| !passes.is_empty()) {
        lines.extend(sent(report, style));
        if report["copy"].is_object() {
            lines.extend(copied::details(report, style));
        } else {
            lines.extend(passes::table(report));
        }
        if let Some(switch) = report["switch"].as_str().filter(|why| !why.is_empty()) {
            let stopped =
                status == MigrationStatus::Completed || report["given_up_pause_ns"].is_u64();
            lines.extend(labelled(if stopped { "stopped" } else { "not yet" }, switch, style));
        }
    }
    let came_here = info.socket_address.is_some();
    let saved = report["file"]["kind"] == "save";
    if status == MigrationStatus::Completed && !came_here && !saved && report["blackout"].is_null()
    {
        let text = "not known: the destination did not get to say when the guest ran, or it was \
                    stopped before";
        lines.extend(labelled("blackout", text, style));
    }
    if let Some(first) = report["update"]["first-blackout-ns"].as_u64() {
        let text = format!("{} when it went to its guardian, and then:", nanos(first));
        lines.extend(labelled("blackout", &text, style));
    }
    lines.extend(blackout::chart(&report["blackout"], style));
    if let Some(pause) = report["given_up_pause_ns"].as_u64() {
        let text = format!("the guest stood still for {} in vain", nanos(pause));
        lines.extend(labelled("given up", &text, style));
    }
    let protected = number(&report["still_protected_pages"]);
    if protected > 0 {
        let text = format!(
            "{} pages are still write-protected: each costs the guest one fault when it is \
             written next",
            grouped(protected)
        );
        lines.extend(labelled("aftermath", &text, style));
    }
    lines
}

/// What is to be known of the way to the other side.
fn notes(report: &Value, style: &Style) -> Vec<Line> {
    let notes = report["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    notes.flat_map(|note| labelled("note", note, style)).collect()
}

/// Whether there is no motion under way.
pub fn has_ended(info: &MigrationInfo) -> bool {
    use MigrationStatus::{Cancelled, Completed, Failed, None};
    matches!(info.status, Option::None | Some(None | Cancelled | Completed | Failed))
}

fn headline(status: MigrationStatus, info: &MigrationInfo, report: &Value) -> Line {
    let update = &report["update"];
    let line = Line::of(if update.is_object() { "update: " } else { "motion: " });
    let took = match number(&report["total_ns"]) {
        0 => String::new(),
        total => format!(" after {}", nanos(total)),
    };
    let gone = info.error_code.as_deref() == Some("guest-gone");
    if report["restore"].is_object() {
        let (ink, word, rest) = match status {
            MigrationStatus::Completed => (Ink::Green, "completed", restoring::outcome(report)),
            MigrationStatus::Cancelled => (Ink::Yellow, "cancelled", restoring::NOTHING.into()),
            _ => (Ink::Red, "failed", restoring::NOTHING.into()),
        };
        return line.ink(ink, word).plain(format!("{took}; {rest}"));
    }
    let (ink, word, rest) = match status {
        MigrationStatus::Completed if info.socket_address.is_some() => {
            (Ink::Green, "completed", format!("{took}; the guest came here"))
        }
        MigrationStatus::Completed if report["file"].is_object() => {
            let file = &report["file"];
            let what = match file["kind"].as_str() {
                Some("save") => "the guest is in",
                _ => "a copy of the guest is in",
            };
            let peer = report["peer"].as_str().unwrap_or("the file");
            let peer = peer.strip_prefix("file:").unwrap_or(peer);
            (Ink::Green, "completed", format!("{took}; {what} {peer}"))
        }
        MigrationStatus::Completed if update.is_object() => {
            let version = |key: &str| update[key].as_str().unwrap_or("an unknown version");
            let (from, to) = (version("from"), version("to"));
            (Ink::Green, "completed", format!("{took}; the guest runs in {to}, before in {from}"))
        }
        MigrationStatus::Completed => {
            let peer = report["peer"].as_str().unwrap_or("the destination");
            (Ink::Green, "completed", format!("{took}; the guest is at {peer}"))
        }
        MigrationStatus::Cancelled => (Ink::Yellow, "cancelled", format!("{took}; {STAYS}")),
        _ if gone || info.socket_address.is_some() => (Ink::Red, "failed", took),
        _ => (Ink::Red, "failed", format!("{took}; {STAYS}")),
    };
    line.ink(ink, word).plain(rest)
}

const STAYS: &str = "the guest is still here";

/// Why it failed, where it did: each reason on lines of its own.
fn why(info: &MigrationInfo, report: &Value, style: &Style) -> Vec<Line> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let refusals = report["refusals"].as_array().into_iter().flatten();
    let mut reasons: Vec<String> = refusals
        .map(|refusal| {
            let advice = text(&refusal["advice"]);
            let advice = if advice.is_empty() { advice } else { format!("; {advice}") };
            format!("refused: {}: {}{advice}", text(&refusal["what"]), text(&refusal["why"]))
        })
        .collect();
    if reasons.is_empty() {
        let code = info.error_code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
        reasons.extend(info.error_desc.as_ref().map(|error| format!("{error}{code}")));
    }
    let indented = reasons.iter().flat_map(|reason| wrap(reason, style.width - 2));
    indented.map(|line| Line::of(format!("  {line}"))).collect()
}

fn sent(report: &Value, style: &Style) -> Vec<Line> {
    let (ram, connections) = (&report["ram"], number(&report["connections"]));
    let text = format!(
        "{} over {connections} connection{}, after {} of setting up",
        bytes(number(&ram["bytes"])),
        if connections == 1 { "" } else { "s" },
        nanos(number(&report["setup_ns"])),
    );
    let untouched = grouped(number(&ram["skipped_pages"]));
    let file = &report["file"];
    if file.is_object() {
        return written(report, style);
    }
    let mut lines = labelled("sent", &text, style);
    lines.extend(labelled("pages", &format!("{}, {untouched} left out", pages(ram)), style));
    lines
}

/// What a file holds, and how it was written.
fn written(report: &Value, style: &Style) -> Vec<Line> {
    let (ram, file) = (&report["ram"], &report["file"]);
    let text = format!(
        "{} by {} writers, after {} of setting up",
        bytes(number(&ram["bytes"])),
        number(&report["connections"]),
        nanos(number(&report["setup_ns"])),
    );
    let mut lines = labelled("written", &text, style);
    let untouched = grouped(number(&ram["skipped_pages"]));
    lines.extend(labelled("pages", &format!("{}, {untouched} left out", pages(ram)), style));
    let size = format!(
        "{} on disk, {} with its holes",
        bytes(number(&file["on_disk"])),
        bytes(number(&file["size"]))
    );
    lines.extend(labelled("file", &size, style));
    if let Some(why) = file["buffered_because"].as_str() {
        lines.extend(labelled("buffered", &format!("through the page cache: {why}"), style));
    }
    lines
}

fn pages(ram: &Value) -> String {
    let (data, zero) = (number(&ram["data_pages"]), number(&ram["zero_pages"]));
    format!("{} with contents, {} zero", grouped(data), grouped(zero))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// A label and what belongs to it, on as many lines as that needs.
fn labelled(label: &str, value: &str, style: &Style) -> Vec<Line> {
    let lines = wrap(value, style.width.saturating_sub(VALUES));
    let labels = std::iter::once(label).chain(std::iter::repeat(""));
    let line = |(label, text)| label_of(label).plain(text);
    labels.zip(lines).map(line).collect()
}

fn label_of(label: &str) -> Line {
    Line::default().ink(Ink::Faint, format!("  {label:<width$}", width = VALUES - 2))
}

/// A bar of `width` columns, filled as far as `amount` is of `whole`.
fn bar(line: Line, ink: Ink, amount: u64, whole: u64, width: usize, style: &Style) -> Line {
    let columns = u128::try_from(width).unwrap_or(0);
    let exact = u128::from(amount) * columns / u128::from(whole.max(1));
    // Something is never shown as nothing.
    let filled = usize::try_from(exact).unwrap_or(width).clamp(usize::from(amount > 0), width);
    let (full, empty) = if style.unicode { ("━", "─") } else { ("=", "-") };
    line.ink(ink, full.repeat(filled)).ink(Ink::Faint, empty.repeat(width - filled))
}

#[cfg(test)]
mod tests;
