//! The first process of the lab's guest: it writes memory and checks it on all processors, counts
//! time, says so in numbered lines, and does what it is told over the console.
//!
//! Kernel parameters (the kernel hands parameters that it does not know to its first process):
//! `lab_hot=MIB` is rewritten all the time by each processor, `lab_cold=MIB` is written once and
//! checked at `report`. Words understood on the console, one a line: `report` (check everything,
//! print the kernel's log), `reboot`. It powers off when its power button is pressed.
#![forbid(unsafe_code)]

mod button;
mod kernel_log;
mod memory;
mod worker;

use std::io::{BufRead, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use guest::shared::tsc::tsc;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{LocalModes, OptionalActions, OutputModes, tcgetattr, tcsetattr};
use rustix::time::{ClockId, clock_gettime};
use whimbrel_lab::line::Line;

use worker::Workers;

const TICK: Duration = Duration::from_millis(200);

fn main() -> Result<()> {
    let mut console = Console::default();
    let outcome = work(&mut console);
    if let Err(error) = &outcome {
        console.say(&format!("fault init {error:#}"));
    }
    // The kernel panics when its first process ends.
    reboot(RebootCommand::PowerOff)?;
    outcome
}

fn work(console: &mut Console) -> Result<()> {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        std::fs::create_dir_all(place)?;
        mount(kind, place, kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {place}"))?;
    }
    quiet_terminal()?;
    button::load_drivers()?;
    let processors = thread::available_parallelism()?.get();
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_string());
    console.say(&format!(
        "hello boot={} cpus={processors} clocksource={}",
        read("/proc/sys/kernel/random/boot_id")?,
        read("/sys/devices/system/clocksource/clocksource0/current_clocksource")?,
    ));

    let cold = memory::Memory::filled(parameter("lab_cold", 32)?);
    let mut workers = Workers::start(processors, parameter("lab_hot", 8)?);
    let orders = orders()?;
    loop {
        match orders.recv_timeout(TICK) {
            Err(RecvTimeoutError::Timeout) => tick(console, &mut workers),
            Err(RecvTimeoutError::Disconnected) => bail!("nobody can tell us anything"),
            Ok(Order::PowerButton) => {
                console.say("end button");
                return Ok(());
            }
            Ok(Order::Word(word)) => match word.as_str() {
                "report" => report(console, &cold, &mut workers)?,
                "reboot" => {
                    console.say("end reboot");
                    reboot(RebootCommand::Restart)?;
                }
                other => console.say(&format!("fault order {other:?}")),
            },
        }
    }
}

/// What we are told to do.
enum Order {
    /// A line on the console.
    Word(String),
    /// Somebody has pressed the power button.
    PowerButton,
}

/// Numbered lines on the console.
#[derive(Default)]
struct Console {
    next: u64,
}

impl Console {
    fn say(&mut self, text: &str) {
        let line = Line { number: self.next, text: text.to_string() };
        self.next += 1;
        let mut out = std::io::stdout().lock();
        // Nobody could be told that the console does not work.
        let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
    }
}

/// Input is not to be echoed between our lines, and output is to stay as it is.
fn quiet_terminal() -> Result<()> {
    let console = std::io::stdin();
    let mut modes = tcgetattr(&console).context("the console is no terminal")?;
    modes.local_modes &= !LocalModes::ECHO;
    modes.output_modes &= !OutputModes::OPOST;
    tcsetattr(&console, OptionalActions::Now, &modes)?;
    Ok(())
}

/// A number of MiB from the kernel's command line.
fn parameter(name: &str, default: usize) -> Result<usize> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is no number of MiB")),
    }
}

/// What is said to us over the console, and by the power button.
fn orders() -> Result<Receiver<Order>> {
    let (sender, receiver) = mpsc::channel();
    button::watch(&sender)?;
    thread::spawn(move || {
        for order in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(Order::Word(order.trim().to_string())).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

fn tick(console: &mut Console, workers: &mut Workers) {
    let Clocks { up, wall, tsc } = clocks();
    let sum = workers.collect();
    for fault in &sum.faults {
        console.say(&format!("fault {fault}"));
    }
    console.say(&format!(
        "tick up={up} wall={wall} tsc={tsc} pages={} gap_us={}",
        sum.pages,
        sum.longest_gap.as_micros()
    ));
}

/// Uptime and wall clock in nanoseconds and the time stamp counter, read so close together that they can be
/// compared.
struct Clocks {
    up: u64,
    wall: u64,
    tsc: u64,
}

fn clocks() -> Clocks {
    let read = |clock| {
        let time = clock_gettime(clock);
        u64::try_from(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
            .expect("these clocks count from 1970 and from boot")
    };
    let attempt = || {
        let (up, tsc) = (read(ClockId::Boottime), tsc());
        let (wall, after) = (read(ClockId::Realtime), read(ClockId::Boottime));
        (after.saturating_sub(up), Clocks { up, wall, tsc })
    };
    let (_, clocks) =
        (0..8).map(|_| attempt()).min_by_key(|&(spread, _)| spread).expect("eight attempts");
    clocks
}

fn report(console: &mut Console, cold: &memory::Memory, workers: &mut Workers) -> Result<()> {
    let cold_pages = cold.len();
    let mut faults: Vec<String> =
        (0..cold_pages).filter_map(|page| cold.check(page).err()).collect();
    let hot_pages = workers.check_all();
    faults.extend(workers.collect().faults);
    for fault in &faults {
        console.say(&format!("fault {fault}"));
    }
    for message in kernel_log::read()? {
        console.say(&format!("kernel {message}"));
    }
    console.say(&format!("report cold={cold_pages} hot={hot_pages} faults={}", faults.len()));
    Ok(())
}
