//! How far a restore is, for whoever waits for it at a terminal.

use crate::motion::restoring;
use crate::terminal::{Screen, Style, is_screen};
use monitor::MachineName;
use motion::Progress;
use serde_json::json;
use std::io::stderr;
use std::time::{Duration, Instant};

/// What takes longer than this is worth watching.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a line is printed where there is no terminal.
const LINE_STEP: Duration = Duration::from_secs(2);

/// A picture on a terminal, a line now and then elsewhere.
pub struct Display<'a> {
    name: &'a MachineName,
    quiet: bool,
    begun: Instant,
    screen: Option<Screen>,
    last_line: Instant,
}

impl<'a> Display<'a> {
    /// For the restore of `name`.
    pub fn new(name: &'a MachineName, quiet: bool) -> Self {
        let screen = is_screen(&stderr()).then(Screen::default);
        let now = Instant::now();
        Self { name, quiet, begun: now, screen, last_line: now }
    }

    /// Shows how far it is.
    pub fn show(&mut self, progress: &Progress) {
        if self.quiet || self.begun.elapsed() < PATIENCE {
            return;
        }
        let progress = json!(progress);
        if let Some(screen) = &mut self.screen {
            let style = Style::of(&stderr());
            let lines = restoring::frame(self.name, &progress, &style);
            screen.draw(&mut stderr().lock(), &lines, &style);
        } else if self.last_line.elapsed() >= LINE_STEP {
            self.last_line = Instant::now();
            eprintln!("{}", restoring::one_line(&progress));
        }
    }
}

/// Whatever comes next begins on a clean line.
impl Drop for Display<'_> {
    fn drop(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.clear(&mut stderr().lock(), &Style::of(&stderr()));
        }
    }
}
