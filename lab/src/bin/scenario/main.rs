//! What is done to the lab's guest, inside the emulated host.
//!
//! Run as `scenario NAME WHIMBREL KERNEL INITRAMFS FOLDER`, where NAME is [`moves`] or [`pages`]; consoles, logs
//! and reports of the moves are left in FOLDER. Ends with status 0 if every promise was kept.
#![forbid(unsafe_code)]

mod consoles;
mod findings;
mod machine;
mod moves;
mod pages;
mod pool;
mod programs;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use consoles::Consoles;
use findings::Move;
use programs::Programs;

/// What is done, and how often the guest boots meanwhile.
type Scenario = (fn(&Programs, &mut Consoles, &mut Vec<Move>) -> Result<()>, usize);

fn main() -> ExitCode {
    let started = Instant::now();
    let mut consoles = Consoles::default();
    let problems = arguments()
        .map(|(scenario, programs)| play(scenario, &programs, &mut consoles))
        .unwrap_or_else(|error| vec![format!("{error:#}")]);
    for problem in &problems {
        println!("PROBLEM {problem}");
    }
    println!(
        "{} lines from the guest, {} boots, {} problems, {:.0} s",
        consoles.transcript().arrivals().len(),
        consoles.transcript().boots(),
        problems.len(),
        started.elapsed().as_secs_f64()
    );
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments() -> Result<(Scenario, Programs)> {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = |what| arguments.next().with_context(|| format!("missing argument: {what}"));
    let scenario: Scenario = match next("scenario")?.to_str() {
        Some("moves") => (moves::play, moves::BOOTS),
        Some("pages") => (pages::play, pages::BOOTS),
        _ => bail!("no such scenario: use moves or pages"),
    };
    let programs = Programs {
        whimbrel: next("whimbrel")?.into(),
        kernel: next("kernel")?.into(),
        initramfs: next("initramfs")?.into(),
        folder: next("folder")?.into(),
    };
    Ok((scenario, programs))
}

/// Plays a scenario, and returns all that was wrong.
fn play((play, boots): Scenario, programs: &Programs, consoles: &mut Consoles) -> Vec<String> {
    let mut moves = Vec::new();
    let outcome = play(programs, consoles, &mut moves);
    let logged = programs.logged();
    let mut problems = findings::judge_moves(consoles, &moves);
    match outcome {
        Ok(()) => {
            problems.extend(findings::judge_guest(consoles, boots));
            problems.extend(findings::judge_logs(&logged));
        }
        Err(error) => {
            logged.iter().for_each(|line| println!("{line}"));
            problems.insert(0, format!("{error:#}"));
        }
    }
    problems.extend(consoles.transcript().problems().iter().cloned());
    problems
}
