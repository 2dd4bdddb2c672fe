//! Watching a motion to its end.

use crate::exit::Exit;
use crate::machine::Machine;
use crate::motion::{frame, has_ended, one_line};
use crate::output::{print_json, print_line};
use crate::terminal::{Screen, Style, is_screen};
use monitor::{MachineName, Signals, Woken};
use qmp::command::Command;
use qmp::reply::{MigrationInfo, MigrationStatus};
use state::Code;
use std::io::stderr;
use std::time::{Duration, Instant};

/// How often the machine is asked.
const STEP: Duration = Duration::from_millis(100);
/// What takes longer than this is worth watching.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a line is printed where there is no terminal.
const LINE_STEP: Duration = Duration::from_secs(2);

/// Asks until the motion has ended, and shows how far it is. The first Ctrl-C cancels it; after
/// that it is waited for as before, since only then is it known where the guest is.
pub fn until_the_end(
    machine: &mut Machine,
    name: &MachineName,
    json: bool,
) -> anyhow::Result<MigrationInfo> {
    let signals = Signals::catch()?;
    let mut display = Display::new(name, json);
    loop {
        let info = machine.migration()?;
        if has_ended(&info) {
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

/// A picture on a terminal, lines elsewhere, objects for scripts.
struct Display<'a> {
    name: &'a MachineName,
    started: Instant,
    json: bool,
    /// The picture, on stderr: what was asked for goes to stdout.
    screen: Option<Screen>,
    last: Option<(Option<MigrationStatus>, u64)>,
    last_line: Instant,
    /// Where it has stood, so that what could be done there is said once.
    stood: Vec<Standing>,
}

/// Where somebody may have to do something: the status, whether it does not converge, and whether
/// it is undecided.
type Standing = (Option<MigrationStatus>, bool, bool);

impl<'a> Display<'a> {
    fn new(name: &'a MachineName, json: bool) -> Self {
        let now = Instant::now();
        let screen = is_screen(&stderr()).then(Screen::default);
        Self { name, started: now, json, screen, last: None, last_line: now, stood: Vec::new() }
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
            // Most motions are over before anybody could read anything.
        } else if let Some(screen) = &mut self.screen {
            let style = Style::of(&stderr());
            screen.draw(&mut stderr().lock(), &frame(self.name, info, &style), &style);
        } else {
            let standing = standing(info);
            let is_new = !self.stood.contains(&standing);
            if is_new || self.last_line.elapsed() >= LINE_STEP {
                self.last_line = Instant::now();
                print_line(&one_line(self.name, info, is_new));
            }
            if is_new {
                self.stood.push(standing);
            }
        }
        Ok(())
    }

    fn say(&mut self, what: &str) {
        self.clear();
        eprintln!("{what}");
    }

    fn clear(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.clear(&mut stderr().lock(), &Style::of(&stderr()));
        }
    }
}

fn standing(info: &MigrationInfo) -> Standing {
    let stuck = info.report.as_ref().is_some_and(|report| report["progress"]["stuck"] == true);
    (info.status, stuck, info.undecided.is_some())
}

/// However it ends, what comes next begins on a clean line.
impl Drop for Display<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}
