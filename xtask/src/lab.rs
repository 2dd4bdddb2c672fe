//! `cargo xtask lab`: stock Linux guests on a complete KVM, on any machine.

mod guest;
mod host;
mod scenario;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::places;
use guest::Guest;
pub use guest::Programs;
use host::{Ended, Host};
use scenario::Scenario;

/// No program can bring the host's kernel down; QEMU's emulation of SVM, now and then, does. That
/// says nothing about what was to be tested, so it is tried again, and said.
const ATTEMPTS: u32 = 3;

/// What the lab is to do.
#[derive(clap::Parser)]
pub struct Lab {
    /// Play only this scenario; otherwise all for which there is memory, at the same time, each in an emulated
    /// host of its own
    #[arg(long, value_enum)]
    scenario: Option<Scenario>,
    /// Build everything and print where it lies, without running it
    #[arg(long, conflicts_with = "payload")]
    build: bool,
    /// Boot the emulated host and run DIR/run.sh in it, instead of playing a scenario
    #[arg(long, value_name = "DIR", conflicts_with = "scenario")]
    payload: Option<PathBuf>,
    /// A shell in the emulated host on this terminal (poweroff -f ends it), instead of run.sh
    #[arg(long)]
    shell: bool,
    /// Processors of the emulated host; QEMU 10 emulates nested virtualisation reliably on one only
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory of the emulated host in MiB; otherwise what the scenario needs, or 2048
    #[arg(long)]
    memory: Option<u32>,
    /// Seconds after which the emulated host is ended
    #[arg(long, default_value_t = 420)]
    timeout: u64,
}

impl Lab {
    /// Without any arguments.
    pub fn plain() -> Self {
        clap::Parser::parse_from(["lab"])
    }
}

/// What came of it, where nothing failed.
#[derive(Default)]
pub struct Played {
    /// So many scenarios were played to their end.
    pub scenarios: u32,
    /// Why others were left out.
    pub left_out: Option<&'static str>,
}

/// Installs what the lab needs from the system.
pub fn install() -> Result<()> {
    host::install()
}

/// Runs the lab.
pub fn run(args: &Lab) -> Result<Played> {
    let folder = places::target().join("lab");
    let mut host = Host::build(&folder, &places::cache())?;
    host.cpus = args.cpus;
    host.timeout = Duration::from_secs(args.timeout);
    host.memory_mib = args.memory.unwrap_or(host.memory_mib);
    if let Some(payload) = &args.payload {
        match args.shell {
            true => host.shell(payload, &folder)?,
            false => attempt(&host, payload, &folder)?,
        }
        return Ok(Played::default());
    }
    let scenarios = match args.scenario {
        Some(scenario) => vec![scenario],
        None if args.shell => vec![Scenario::Moves],
        None => Scenario::that_fit(scenario::available_mib()?),
    };
    let stages = build_stages(&host, &scenarios, args.memory, &folder)?;
    if args.build {
        stages.iter().for_each(|stage| println!("payload: {}", stage.payload.display()));
        return Ok(Played::default());
    }
    if let (true, Some(stage)) = (args.shell, stages.first()) {
        stage.host.shell(&stage.payload, &stage.folder)?;
        return Ok(Played::default());
    }
    play(&stages)?;
    let all = args.scenario.is_some() || scenarios.len() == Scenario::ALL.len();
    Ok(Played {
        scenarios: u32::try_from(scenarios.len()).expect("they are few"),
        left_out: (!all)
            .then_some("there is too little memory for the emulated host with pages of 1 GiB"),
    })
}

/// Where a scenario is played.
struct Stage {
    host: Host,
    payload: PathBuf,
    folder: PathBuf,
}

/// Puts together what each scenario needs.
fn build_stages(
    host: &Host,
    scenarios: &[Scenario],
    memory_mib: Option<u32>,
    folder: &Path,
) -> Result<Vec<Stage>> {
    let programs = Programs::build(folder, &[])?;
    let guest = Guest::build(&programs, folder, &places::cache())?;
    let build = |(turn, scenario): (usize, &Scenario)| {
        let folder = folder.join(scenario.name());
        let mut host = host.clone();
        host.label = format!("{}: ", scenario.name());
        host.turn = turn;
        host.memory_mib = memory_mib.unwrap_or(scenario.memory_mib());
        host.gibibytes = scenario.gibibytes();
        let payload = build_payload(*scenario, &programs, &guest, &folder)?;
        Ok(Stage { host, payload, folder })
    };
    scenarios.iter().enumerate().map(build).collect()
}

/// Plays all at the same time, to the end of each.
fn play(stages: &[Stage]) -> Result<()> {
    let play = |stage: &Stage| attempt(&stage.host, &stage.payload, &stage.folder);
    let failures: Vec<String> = thread::scope(|scope| {
        let all: Vec<_> = stages.iter().map(|stage| scope.spawn(move || play(stage))).collect();
        let ended = all.into_iter().map(|played| played.join().expect("no scenario panics"));
        ended.filter_map(Result::err).map(|error| format!("{error:#}")).collect()
    });
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

/// Runs what is in `payload`, again where the emulated host dies of itself.
fn attempt(host: &Host, payload: &Path, folder: &Path) -> Result<()> {
    let left = format!(
        "its serial line is {}/serial.log, and what it left on its disk {0}/disk; docs/lab.md says \
         how to look closer",
        folder.display()
    );
    for attempt in 1..=ATTEMPTS {
        match host.run(payload, folder)? {
            Ended::Ran(0) => return Ok(()),
            Ended::Ran(status) => bail!("run.sh ended with status {status} in the lab; {left}"),
            Ended::Died(how) => println!(
                "!!! THE EMULATED HOST DIED (attempt {attempt} of {ATTEMPTS}): {how}\n{left}"
            ),
        }
    }
    bail!("the emulated host died {ATTEMPTS} times; {left}")
}

/// Puts together what plays a scenario in the emulated host.
fn build_payload(
    scenario: Scenario,
    programs: &Programs,
    guest: &Guest,
    folder: &Path,
) -> Result<PathBuf> {
    let payload = folder.join("payload");
    let _ = fs::remove_dir_all(&payload);
    fs::create_dir_all(&payload)?;
    let copy = |from: &Path, name: &str| {
        fs::copy(from, payload.join(name))
            .with_context(|| format!("cannot copy {} for the emulated host", from.display()))
    };
    copy(&programs.path("whimbrel"), "whimbrel")?;
    copy(&programs.path("scenario"), "scenario")?;
    copy(&guest.kernel, "vmlinuz")?;
    copy(&guest.initramfs, "guest.cpio")?;
    fs::write(payload.join("run.sh"), scenario.script())?;
    Ok(payload)
}
