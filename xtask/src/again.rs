//! `cargo xtask matrix` and `cargo xtask soak`: tests of which CI runs a short form.

use anyhow::Result;

use crate::process::{cargo, run};
use crate::test::qmp_client;

/// How often everything that can go wrong in a move, or in an update, goes wrong.
#[derive(clap::Args)]
pub struct Matrix {
    /// How many times over
    #[arg(long, value_name = "N", default_value_t = 20)]
    times: u32,
    /// Only the cells whose name contains this, as `READY, link cut`
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Test what people run, instead of what checks itself
    #[arg(long)]
    release: bool,
}

/// For how long a guest moves, is saved and restored, and has its process replaced.
#[derive(clap::Args)]
pub struct Soak {
    /// Moves in a row
    #[arg(long, value_name = "N", default_value_t = 1000)]
    moves: u32,
    /// Moves that fail, after these
    #[arg(long, value_name = "N", default_value_t = 100)]
    failures: u32,
    /// Saves and restores in a row
    #[arg(long, value_name = "N", default_value_t = 100)]
    saves: u32,
    /// Updates in a row
    #[arg(long, value_name = "N", default_value_t = 200)]
    updates: u32,
    /// Test what people run, instead of what checks itself
    #[arg(long)]
    release: bool,
}

impl Matrix {
    /// Plays it. The last lines say how many cells were played, and how many surprised.
    pub fn run(&self) -> Result<()> {
        let times = self.times.to_string();
        let variables = [("WHIMBREL_MATRIX_TIMES", &*times), ("WHIMBREL_MATRIX_ONLY", &*self.only)];
        test(&["matrix", "update_matrix"], self.release, &variables)
    }
}

impl Soak {
    /// Moves. The last lines say what was used before and after.
    pub fn run(&self) -> Result<()> {
        let (moves, failures) = (self.moves.to_string(), self.failures.to_string());
        let (saves, updates) = (self.saves.to_string(), self.updates.to_string());
        let variables = [
            ("WHIMBREL_SOAK_MOVES", &*moves),
            ("WHIMBREL_SOAK_FAILURES", &*failures),
            ("WHIMBREL_SOAK_SAVES", &*saves),
            ("WHIMBREL_SOAK_UPDATES", &*updates),
        ];
        // Updates are watched by the client that QEMU's users have.
        qmp_client::install()?;
        test(&["endurance"], self.release, &variables)
    }
}

/// Runs tests of the program, by Cargo's own runner: it sets no limit on the time.
fn test(names: &[&str], release: bool, variables: &[(&str, &str)]) -> Result<()> {
    let mut command = cargo(&["test", "--locked", "--package", "whimbrel"]);
    command.args(names.iter().flat_map(|name| ["--test", name]));
    if release {
        command.arg("--release");
    }
    command.args(["--", "--nocapture", "--test-threads=1"]);
    run(command.envs(variables.iter().copied()).envs(qmp_client::told()))
}
