//! Watching a motion to its end.

use crate::exit::Exit;
use crate::machine::Machine;
use crate::output::{bytes, nanos, print_json, print_line};
use indicatif::{ProgressBar, ProgressStyle};
use monitor::{Signals, Woken};
use qmp::command::Command;
use qmp::reply::{MigrationInfo, MigrationStatus};
use state::Code;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// How often the machine is asked.
const STEP: Duration = Duration::from_millis(100);
/// What takes longer than this is worth a progress bar.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a line is printed where there is no terminal.
const LINE_STEP: Duration = Duration::from_secs(2);

/// Asks until the motion has ended, and shows how far it is. The first Ctrl-C cancels it; after
/// that it is waited for as before, since only then is it known where the guest is.
pub fn until_the_end(machine: &mut Machine, json: bool) -> anyhow::Result<MigrationInfo> {
    let signals = Signals::catch()?;
    let mut display = Display::new(json);
    loop {
        let info = machine.migration()?;
        if ended(&info) {
            display.clear();
            return Ok(info);
        }
        display.show(&info)?;
        if let Woken::By(_) = signals.wait(Some(STEP))? {
            display.say("cancelling; the guest goes on here");
            // It may be too late, or over: the next answer says which.
            if let Err(error) = machine.run(&Command::MigrateCancel) {
                display.say(&format!("{error:#}"));
            }
        }
    }
}

fn ended(info: &MigrationInfo) -> bool {
    use MigrationStatus::{Cancelled, Completed, Failed, None};
    matches!(info.status, Option::None | Some(None | Cancelled | Completed | Failed))
}

/// The exit status for how a motion ended.
pub fn exit(info: &MigrationInfo) -> Exit {
    match info.status {
        Some(MigrationStatus::Completed) => Exit::Done,
        Some(MigrationStatus::Cancelled) => Exit::Cancelled,
        // A check that found nothing to refuse leaves no motion behind.
        None | Some(MigrationStatus::None) if info.error_desc.is_none() => Exit::Done,
        _ => {
            let code = info.error_code.as_deref().and_then(|code| code.parse::<Code>().ok());
            code.map_or(Exit::Failed, Exit::of_code)
        }
    }
}

/// A bar on a terminal, lines elsewhere, objects for scripts.
struct Display {
    started: Instant,
    json: bool,
    bar: Option<ProgressBar>,
    last: Option<(Option<MigrationStatus>, u64)>,
    last_line: Instant,
}

impl Display {
    fn new(json: bool) -> Self {
        let now = Instant::now();
        Self { started: now, json, bar: None, last: None, last_line: now }
    }

    fn show(&mut self, info: &MigrationInfo) -> anyhow::Result<()> {
        if self.json {
            let pass = info.ram.as_ref().map_or(0, |ram| ram.dirty_sync_count);
            let now = Some((info.status, pass));
            if self.last != now {
                self.last = now;
                print_json(&info.report.as_ref().map(|report| &report["progress"]))?;
            }
        } else if self.started.elapsed() < PATIENCE {
            // Most motions are over before anybody could read a bar.
        } else if stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(new_bar);
            let (done, all) = amount(info);
            bar.set_length(all);
            bar.set_position(done);
            bar.set_message(describe(info));
        } else if self.last_line.elapsed() >= LINE_STEP {
            self.last_line = Instant::now();
            let (done, all) = amount(info);
            print_line(&format!("{} of {}, {}", bytes(done), bytes(all), describe(info)));
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.println(what),
            None => eprintln!("{what}"),
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed:>5} [{bar:24}] {percent:>3}%  {msg}")
        .expect("the template is a constant and valid");
    ProgressBar::new(0).with_style(style.progress_chars("=> "))
}

/// Bytes of this pass that are done, and all of them.
fn amount(info: &MigrationInfo) -> (u64, u64) {
    let Some(ram) = &info.ram else { return (0, 0) };
    let all = ram.total;
    (all.saturating_sub(ram.remaining), all)
}

fn describe(info: &MigrationInfo) -> String {
    let Some(ram) = &info.ram else { return "connecting".into() };
    let rate = bytes(ram.pages_per_second.saturating_mul(ram.page_size));
    let dirty = bytes(ram.dirty_pages_rate.saturating_mul(ram.page_size));
    let mut text = format!("pass {}, {rate}/s, guest writes {dirty}/s", ram.dirty_sync_count);
    if let Some(expected) = info.expected_downtime {
        text.push_str(&format!(", blackout about {}", nanos(expected.saturating_mul(1_000_000))));
    }
    let eta = info.report.as_ref().and_then(|report| report["progress"]["eta_ns"].as_u64());
    if let Some(eta) = eta {
        text.push_str(&format!(", done in {}", nanos(eta)));
    }
    let note = info.report.as_ref().and_then(|report| report["progress"]["note"].as_str());
    if let Some(note) = note.filter(|note| !note.is_empty()) {
        text.push_str(&format!("; {note}"));
    }
    text
}
