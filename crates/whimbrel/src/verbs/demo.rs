//! `whimbrel demo`

mod guest;
mod process;
mod stage;
mod story;
mod told;

use crate::exit::Exit;
use crate::output::{print_json, print_line};
use monitor::Signals;

/// Watch a guest that works and checks itself move from process to process
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  whimbrel demo\n\nIt needs access to /dev/kvm, 512 MiB of memory \
                        to spare and less than a minute, and leaves nothing behind."
)]
pub struct Demo {
    /// One JSON object per step and line
    #[arg(long)]
    pub json: bool,
}

impl Demo {
    pub fn run(self) -> anyhow::Result<Exit> {
        // Else Ctrl-C would end us before we could clear up; the machines see it themselves.
        let signals = Signals::catch()?;
        let stage = stage::Stage::build()?;
        let told = story::tell(&stage, &signals, &told::Teller::new(self.json))?;
        if self.json {
            print_json(&told.summary())?;
        } else {
            told.lines().iter().for_each(|line| print_line(line));
        }
        Ok(if told.all_is_well() { Exit::Done } else { Exit::Failed })
    }
}
