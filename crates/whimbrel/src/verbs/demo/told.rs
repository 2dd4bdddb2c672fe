//! Telling what happens, and the table at the end.

use crate::output::{bytes, nanos, print_json, table};
use guest::report::{Check, Verdict};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

/// Says what is going on: a line that moves on a terminal, one line per step elsewhere.
pub struct Teller {
    json: bool,
    spinner: Option<ProgressBar>,
}

impl Teller {
    pub fn new(json: bool) -> Self {
        let spinner = (!json && stdout().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}")
                .expect("the template is a constant and valid");
            let spinner = ProgressBar::new_spinner().with_style(style);
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Self { json, spinner }
    }

    /// Something begins.
    pub fn begin(&self, what: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(what.to_owned());
        }
    }

    /// Something to read before the table.
    pub fn say(&self, what: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(what),
            None if self.json => {}
            None => println!("{what}"),
        }
    }

    /// A step is done.
    pub fn done(&self, step: &Step) -> anyhow::Result<()> {
        if self.json {
            return print_json(step);
        }
        self.say(&format!("  {}: {}", step.what, step.outcome));
        Ok(())
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// One step of the demo.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Step {
    /// What was done.
    pub what: String,
    /// What came of it.
    pub outcome: String,
    /// Whether it ended as it should.
    pub ok: bool,
    /// The blackout as the engine measured it, in nanoseconds.
    pub blackout_ns: Option<u64>,
    /// The longest that the guest stood still meanwhile, by its own clock, in nanoseconds.
    pub guest_gap_ns: Option<u64>,
    /// How much of its memory was sent, in bytes.
    pub sent_bytes: u64,
    /// How long it took, in nanoseconds.
    pub took_ns: u64,
}

/// The whole story.
pub struct Told {
    pub steps: Vec<Step>,
    /// The guest's own last word.
    pub check: Check,
    pub begun: Instant,
}

impl Told {
    /// Whether everything ended as it should, by our account and by the guest's.
    pub fn all_is_well(&self) -> bool {
        let check = &self.check;
        self.steps.iter().all(|step| step.ok) && check.verdict == Verdict::Ok && check.faults == 0
    }

    /// The last line for scripts.
    pub fn summary(&self) -> serde_json::Value {
        serde_json::json!({
            "ok": self.all_is_well(),
            "pages-checked": self.check.pages,
            "rounds": self.check.rounds,
            "faults": self.check.faults,
            "took-ns": u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX),
        })
    }

    /// The table for people.
    pub fn lines(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        let head = ["WHAT", "THE GUEST", "SENT", "TOOK", "BLACKOUT", "GUEST SAW"];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(self.steps.iter().map(|step| {
            vec![
                step.what.clone(),
                step.outcome.clone(),
                bytes(step.sent_bytes),
                nanos(step.took_ns),
                step.blackout_ns.map_or_else(dash, nanos),
                step.guest_gap_ns.map_or_else(dash, nanos),
            ]
        }));
        let mut lines = vec![String::new()];
        lines.extend(table(&rows));
        lines.push(String::new());
        lines.push(
            "BLACKOUT is the engine's figure. GUEST SAW is the longest gap that the guest's\n\
             own clock shows, from the start of the move to its end."
                .to_owned(),
        );
        lines.push(String::new());
        let Check { pages, rounds, faults, .. } = self.check;
        lines.push(format!(
            "The guest wrote and checked all of its memory {rounds} times on the way, and each of\n\
             its {pages} pages once more at the end: {faults} faults."
        ));
        lines.push(match self.all_is_well() {
            true => "Not a byte was lost.".to_owned(),
            false => "Something went wrong; please report it.".to_owned(),
        });
        lines
    }
}
