//! The passes, one a line.

use super::number;
use crate::output::{bytes, nanos};
use crate::terminal::{Ink, Line};
use serde_json::Value;

/// Of more passes than this, those in the middle are left out.
const MOST: usize = 10;
const PAGE: u64 = memory::PAGE_SIZE;

/// The table. What a guest wrote during a pass is what the next one has to send; what the blackout
/// would have been after it is why there was a next one.
pub fn table(report: &Value) -> Vec<Line> {
    let passes = report["passes"].as_array().map(Vec::as_slice).unwrap_or_default();
    // The last pass of a motion that came so far was sent while the guest stood still.
    let stopped = report["status"] == "completed" || report["given_up_pause_ns"].is_u64();
    let row = |cells: [&str; 6]| {
        let [pass, sent, took, rate, written, then] = cells;
        format!("{pass:>6}  {sent:>9}  {took:>8}  {rate:>11}  {written:>10}  {then:>13}")
    };
    let head = row(["pass", "sent", "took", "rate", "written", "blackout then"]);
    let mut lines = vec![Line::default().ink(Ink::Faint, head)];
    // As many at the end as at the start: how it began, and how it ended.
    let hidden = MOST / 2..passes.len().saturating_sub(MOST / 2);
    for (index, pass) in passes.iter().enumerate() {
        if passes.len() > MOST && hidden.contains(&index) {
            if index == hidden.start {
                lines.push(Line::of(format!("     …  {} more", hidden.len())));
            }
            continue;
        }
        let (sent, took) = (number(&pass["bytes"]), number(&pass["duration_ns"]));
        let rate = u128::from(sent) * 1_000_000_000 / u128::from(took.max(1));
        let rate = format!("{}/s", bytes(u64::try_from(rate).unwrap_or(u64::MAX)));
        let last = index + 1 == passes.len() && (stopped || report["frozen"] == true);
        let dirtied = number(&pass["dirtied_pages"]).saturating_mul(PAGE);
        let (written, then) = if last {
            ("stopped".to_owned(), String::new())
        } else {
            (bytes(dirtied), known(number(&pass["predicted_blackout_ns"])))
        };
        let name = number(&pass["pass"]).to_string();
        lines.push(Line::of(
            row([&name, &bytes(sent), &nanos(took), &rate, &written, &then]).trim_end().to_owned(),
        ));
    }
    lines
}

/// A pass that was cut short has told nothing.
fn known(ns: u64) -> String {
    if ns == 0 { String::new() } else { nanos(ns) }
}
