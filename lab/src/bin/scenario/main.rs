//! What is done to the lab's guest, inside the emulated host: boot, a snapshot, an update in each way and two
//! moves while it works, a move while it is stopped, a report, a reboot, a save and a lazy restore, another
//! report, and its power button.
//!
//! Run as `scenario WHIMBREL KERNEL INITRAMFS FOLDER`; consoles, logs and reports of the moves are
//! left in FOLDER. Ends with status 0 if every promise was kept.
#![forbid(unsafe_code)]

mod consoles;
mod findings;
mod machine;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use consoles::Consoles;
use findings::Move;
use machine::{Console, How, Machine, Place, Programs};

/// Lines that the guest writes on each console before it is moved on.
const TICKS: usize = 25;
/// Ends a run that hangs; nothing is concluded from how long anything takes.
const PATIENCE: Duration = Duration::from_secs(150);

fn main() -> ExitCode {
    let started = Instant::now();
    let mut consoles = Consoles::default();
    let mut moves = Vec::new();
    let outcome = arguments().and_then(|programs| {
        let outcome = scenario(&programs, &mut consoles, &mut moves);
        let logged = programs.logged();
        if outcome.is_err() {
            logged.iter().for_each(|line| println!("{line}"));
        }
        outcome.map(|()| logged)
    });
    let mut problems = findings::judge_moves(&consoles, &moves);
    match outcome {
        Ok(logged) => {
            problems.extend(findings::judge_guest(&consoles));
            problems.extend(findings::judge_logs(&logged));
        }
        Err(error) => problems.insert(0, format!("{error:#}")),
    }
    problems.extend(consoles.transcript().problems().iter().cloned());
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

fn arguments() -> Result<Programs> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let mut next = |what| paths.next().with_context(|| format!("missing argument: {what}"));
    Ok(Programs {
        whimbrel: next("whimbrel")?,
        kernel: next("kernel")?,
        initramfs: next("initramfs")?,
        folder: next("folder")?,
    })
}

fn scenario(programs: &Programs, consoles: &mut Consoles, moves: &mut Vec<Move>) -> Result<()> {
    let boot = Instant::now();
    let mut first = Machine::boot(programs, "a")?;
    consoles.begin(first.console())?;
    consoles.wait("the guest's first line", PATIENCE, |seen| seen.boots() == 1)?;
    println!("first line of the guest after {:.1} s", boot.elapsed().as_secs_f64());
    work(consoles)?;

    let snapshot = first.write("snapshot", &["--max-blackout", "10s"], consoles)?;
    std::fs::remove_file(snapshot)?;
    go_on(consoles)?;

    // All processes end, as when the host starts anew.
    first.reboot(consoles)?;
    go_on(consoles)?;

    first.update("exec", consoles)?;
    go_on(consoles)?;

    let mut second =
        Machine::awaiting(programs, "b", "tcp:127.0.0.1:4444", Console::File, Place::Here)?;
    moves.push(first.move_to(&second, How::Live, consoles)?);
    work(consoles)?;
    first.kill()?;
    std::fs::remove_file(programs.memory_file())?;

    // Its RAM has no name here.
    second.update("transfer", consoles)?;
    go_on(consoles)?;

    // To another host and back, as its clocks see it.
    let place = Place::Elsewhere;
    let mut third = Machine::awaiting(programs, "c", "tcp:127.0.0.1:4445", Console::File, place)?;
    moves.push(second.move_to(&third, How::Live, consoles)?);
    work(consoles)?;
    second.kill()?;

    let place = Place::Here;
    let mut fourth = Machine::awaiting(programs, "d", "tcp:127.0.0.1:4446", Console::Stdio, place)?;
    moves.push(third.move_to(&fourth, How::Frozen, consoles)?);
    work(consoles)?;
    third.kill()?;

    fourth.say("report")?;
    consoles.wait("the guest's report", PATIENCE, |seen| seen.here("report") == 1)?;
    println!("guest: {}", consoles.last("report").unwrap_or_default());

    fourth.say("reboot")?;
    consoles.wait("the guest's second boot", PATIENCE, |seen| {
        seen.boots() == 2 && seen.here("tick") > 0
    })?;
    println!("the guest has rebooted where it has come to");
    work(consoles)?;

    // Its kernel is too long for the file of so small a guest: there is no reboot after this.
    let mut last = fourth.save_and_restore("e", consoles)?;
    work(consoles)?;
    last.say("report")?;
    consoles.wait("the guest's second report", PATIENCE, |seen| seen.here("report") == 1)?;
    println!("guest: {}", consoles.last("report").unwrap_or_default());

    last.press_power_button()?;
    let status = last.wait_for_end(PATIENCE)?;
    consoles.drain()?;
    if !status.success() {
        bail!("the guest was to power off, and its process ended with {status}");
    }
    if consoles.last("end").as_deref() != Some("end button") {
        bail!("the guest does not say that its power button was pressed");
    }
    println!("the guest has powered off, and its process ended with {status}");
    consoles.check_all_read()
}

/// Lets the guest go on where it is, for some lines.
fn go_on(consoles: &mut Consoles) -> Result<()> {
    let before = consoles.transcript().here("tick");
    consoles.wait("the guest to go on", PATIENCE, |seen| seen.here("tick") > before + TICKS / 2)
}

/// Lets the guest work for some lines.
fn work(consoles: &mut Consoles) -> Result<()> {
    consoles.wait("the guest at work", PATIENCE, |seen| seen.here("tick") >= TICKS)
}
