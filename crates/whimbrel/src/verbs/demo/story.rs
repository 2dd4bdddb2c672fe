//! What happens in the demo.

use super::process::Process;
use super::stage::Stage;
use super::told::{Step, Teller, Told};
use anyhow::{Context, bail};
use monitor::{Error, Signals, Woken};
use qmp::command::{Command, Migrate, Mode, SetParameters, TimeoutAction, Update, UpdateMode};
use qmp::reply::{MigrationInfo, MigrationStatus};
use state::Code;
use std::time::{Duration, Instant};

const CPUS: u64 = 2;
/// The guest writes this memory all the time.
const WORKING_SET: &str = "64M";
const MOVES: u32 = 4;
const CONNECTIONS: u8 = 4;
/// What slows the move down whose destination is killed, in bytes per second: it has to have a
/// middle.
const SLOWLY: u64 = 20 << 20;
/// How long the guest runs beside its copy, in milliseconds.
const LONGEST_COPY: u64 = 5000;
/// How long a move may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells it.
pub fn tell(stage: &Stage, signals: &Signals, teller: &Teller) -> anyhow::Result<Told> {
    let begun = Instant::now();
    teller.begin("starting a guest that checks itself");
    let cmdline = format!("ws={WORKING_SET} rate=20000");
    let cpus = CPUS.to_string();
    let words =
        ["--guest", "selfcheck", "--cmdline", &cmdline, "--memory", "256M", "--cpus", &cpus];
    let mut here = Process::start(stage, "process-1", "run", &words)?;
    let mut guest = here.guest()?;
    guest.wait_for_a_round()?;
    teller.say(&format!(
        "A guest with {CPUS} processors and 256 MiB runs in a process of its own. It writes\n\
         {WORKING_SET} over and over, 20,000 pages a second, and checks each page before it\n\
         writes it again."
    ));
    let mut told = Vec::new();
    let mut next = 2;
    for number in 1..=MOVES {
        let what = format!("move {number}");
        teller.begin(&format!("{what}: to process {next}, over {CONNECTIONS} connections"));
        (here, guest) = {
            let mut there = waiting(stage, next)?;
            let step = go(&what, here, &mut guest, &mut there, signals)?;
            told.push(step.0);
            (there, step.1)
        };
        teller.done(told.last().context("a step was just taken")?)?;
        next += 1;
    }
    teller.begin("a move whose destination is killed in the middle");
    let there = waiting(stage, next)?;
    let step = die(&mut here, &mut guest, there, signals)?;
    teller.done(&step)?;
    told.push(step);
    next += 1;
    let what = format!("move {}", MOVES + 1);
    teller.begin(&format!("{what}: to process {next}, after all"));
    let mut there = waiting(stage, next)?;
    let (step, mut guest) = go(&what, here, &mut guest, &mut there, signals)?;
    teller.done(&step)?;
    told.push(step);
    next += 1;
    teller.begin("an update: the process runs its program anew, under the running guest");
    let step = renew(&mut there, &mut guest, signals)?;
    teller.done(&step)?;
    told.push(step);
    teller.begin("a snapshot, while the guest runs");
    let step = copy(stage, &mut there, &mut guest, signals)?;
    teller.done(&step)?;
    told.push(step);
    teller.begin("a save: the guest is in a file, and goes on from there");
    let (step, mut here) = keep(stage, there, &name(next), signals)?;
    teller.done(&step)?;
    told.push(step);
    let mut guest = here.guest()?;
    guest.wait_for_progress()?;
    here.machine.view()?;
    teller.begin("the guest checks every page");
    let check = guest.check_everything()?;
    Ok(Told { steps: told, check, begun })
}

fn name(number: u32) -> String {
    format!("process-{number}")
}

/// A process that waits for the guest.
fn waiting(stage: &Stage, number: u32) -> anyhow::Result<Process> {
    Process::start(stage, &name(number), "run", &["--incoming", "tcp:127.0.0.1:0"])
}

/// Moves the guest.
fn go(
    what: &str,
    mut here: Process,
    guest: &mut super::guest::Guest,
    there: &mut Process,
    signals: &Signals,
) -> anyhow::Result<(Step, super::guest::Guest)> {
    // Begins a new account of gaps, so that the next one is of the move alone.
    guest.longest_gap(CPUS)?;
    start(&mut here, there, 0)?;
    let info = wait(&mut here, signals, has_ended)?;
    if info.status != Some(MigrationStatus::Completed) {
        bail!("{what} failed: {}", info.error_desc.unwrap_or_default());
    }
    let mut moved = there.guest()?;
    let here_gap = guest.gaps_so_far();
    let gap = moved.longest_gap(CPUS)?.max(here_gap);
    let outcome = format!("goes on in {}", there.name);
    let report = info.report.as_ref();
    let blackout = report.and_then(|report| report["blackout"]["ns"].as_u64());
    let step = step(what, outcome, &info, blackout, Some(gap));
    Ok((step, moved))
}

/// Begins to move the guest, and kills the destination half way.
fn die(
    here: &mut Process,
    guest: &mut super::guest::Guest,
    mut there: Process,
    signals: &Signals,
) -> anyhow::Result<Step> {
    guest.longest_gap(CPUS)?;
    start(here, &mut there, SLOWLY)?;
    let under_way = |info: &MigrationInfo| {
        has_ended(info) || info.ram.as_ref().is_some_and(|ram| ram.transferred > SLOWLY / 4)
    };
    let half = wait(here, signals, under_way)?;
    there.kill()?;
    let info = wait(here, signals, has_ended)?;
    let failed = info.status == Some(MigrationStatus::Failed);
    guest.wait_for_progress()?;
    let gap = guest.longest_gap(CPUS)?;
    let outcome = match failed {
        true => format!("stays in {}", here.name),
        false => "was over too soon".to_owned(),
    };
    let sent_bytes = half.ram.map_or(0, |ram| ram.transferred);
    Ok(Step { ok: failed, sent_bytes, ..step("move, killed", outcome, &info, None, Some(gap)) })
}

/// Has the process become its program anew. Whoever is connected stays so: this function, for one.
fn renew(
    here: &mut Process,
    guest: &mut super::guest::Guest,
    signals: &Signals,
) -> anyhow::Result<Step> {
    guest.longest_gap(CPUS)?;
    let update = Update { mode: Some(UpdateMode::Exec), ..Update::default() };
    here.machine.run(&Command::Update(update))?;
    let info = wait(here, signals, has_ended)?;
    if info.status != Some(MigrationStatus::Completed) {
        bail!("the update failed: {}", info.error_desc.unwrap_or_default());
    }
    let gap = guest.longest_gap(CPUS)?;
    let blackout = info.report.as_ref().and_then(|report| {
        let first = report["update"]["first-blackout-ns"].as_u64();
        report["blackout"]["ns"].as_u64().max(first)
    });
    let outcome = format!("goes on in {}", here.name);
    Ok(step("update", outcome, &info, blackout, Some(gap)))
}

/// Writes a copy of the guest to a file, while it runs.
fn copy(
    stage: &Stage,
    here: &mut Process,
    guest: &mut super::guest::Guest,
    signals: &Signals,
) -> anyhow::Result<Step> {
    guest.longest_gap(CPUS)?;
    let uri = Some(format!("file:{}", stage.file("copy.snap").display()));
    // A disk may be slower than the guest writes: then the guest stands still for what is left.
    let migrate = Migrate {
        uri,
        snapshot: true,
        timeout: Some(LONGEST_COPY),
        timeout_action: Some(TimeoutAction::Switch),
        ..Migrate::default()
    };
    here.machine.run(&Command::Migrate(migrate))?;
    let info = wait(here, signals, has_ended)?;
    if info.status != Some(MigrationStatus::Completed) {
        bail!("the snapshot failed: {}", info.error_desc.unwrap_or_default());
    }
    let gap = guest.longest_gap(CPUS)?;
    let blackout = info.report.as_ref().and_then(|report| report["blackout"]["ns"].as_u64());
    let outcome = format!("goes on in {}", here.name);
    Ok(step("snapshot", outcome, &info, blackout, Some(gap)))
}

/// Saves the guest to a file, ends its process, and lets it go on from the file in another one.
fn keep(
    stage: &Stage,
    mut here: Process,
    name: &str,
    signals: &Signals,
) -> anyhow::Result<(Step, Process)> {
    let file = stage.file("guest.snap");
    let uri = Some(format!("file:{}", file.display()));
    here.machine.run(&Command::Migrate(Migrate { uri, frozen: true, ..Migrate::default() }))?;
    let info = wait(&mut here, signals, has_ended)?;
    if info.status != Some(MigrationStatus::Completed) {
        bail!("the save failed: {}", info.error_desc.unwrap_or_default());
    }
    here.kill()?;
    let file = file.to_str().context("the demo's folder has a name that is no text")?;
    let restored = Process::start(stage, name, "restore", &[file])?;
    let outcome = format!("goes on in {name}");
    Ok((step("save, restore", outcome, &info, None, None), restored))
}

fn start(here: &mut Process, there: &mut Process, bandwidth: u64) -> anyhow::Result<()> {
    let uri = there.machine.view()?.incoming.context("the destination does not wait")?;
    let mut set = SetParameters::default();
    set.mode = Some(Mode::Normal);
    set.max_bandwidth = Some(bandwidth);
    set.multifd_channels = Some(CONNECTIONS);
    here.machine.run(&Command::MigrateSetParameters(set))?;
    here.machine.run(&Command::Migrate(Migrate { uri: Some(uri), ..Migrate::default() }))?;
    Ok(())
}

fn has_ended(info: &MigrationInfo) -> bool {
    use MigrationStatus::{Cancelled, Completed, Failed};
    matches!(info.status, Some(Cancelled | Completed | Failed))
}

fn wait(
    here: &mut Process,
    signals: &Signals,
    enough: impl Fn(&MigrationInfo) -> bool,
) -> anyhow::Result<MigrationInfo> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let info = here.machine.migration()?;
        if enough(&info) {
            return Ok(info);
        }
        if let Woken::By(_) = signals.wait(Some(Duration::from_millis(5)))? {
            return Err(Error::new(Code::Cancelled, "the demo was cancelled").into());
        }
    }
    bail!("a move takes longer than {PATIENCE:?}")
}

fn step(
    what: &str,
    outcome: String,
    info: &MigrationInfo,
    blackout_ns: Option<u64>,
    guest_gap_ns: Option<u64>,
) -> Step {
    Step {
        what: what.to_owned(),
        outcome,
        ok: true,
        blackout_ns,
        guest_gap_ns,
        sent_bytes: info.ram.as_ref().map_or(0, |ram| ram.transferred),
        took_ns: info.total_time.unwrap_or(0).saturating_mul(1_000_000),
    }
}
