//! What is logged to stderr, and how much of it.

use crate::terminal::Style;
use anyhow::{Context, anyhow};
use std::sync::OnceLock;
use tracing_subscriber::EnvFilter;

/// The log of this process, once it was started.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    /// What was said on the command line.
    said: Option<String>,
    /// Has something else logged from now on.
    change: Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync>,
}

/// Logs from now on what the command line says, or else the environment; quiet unless asked to speak.
pub fn start(said: Option<&str>) -> anyhow::Result<()> {
    let environment = std::env::var("WHIMBREL_LOG").ok();
    let filter = parse(said.or(environment.as_deref()).unwrap_or("warn"))?;
    // In the background stderr soon is a file, whatever it is now.
    let stays = !std::env::args_os().any(|word| word == "--background");
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(stays && Style::of(&std::io::stderr()).colour)
        .with_filter_reloading();
    let handle = log.reload_handle();
    log.init();
    let change = Box::new(move |filter| Ok(handle.reload(filter)?));
    let log = Log { said: said.map(str::to_owned), change };
    LOG.set(log).map_err(|_| anyhow!("the log was started already"))
}

/// What this process was told to log, on its command line.
pub fn said() -> Option<String> {
    LOG.get()?.said.clone()
}

/// Logs this from now on, as the process did that this one replaces.
pub fn follow(filter: &str) {
    let Some(log) = LOG.get() else { return };
    if let Err(error) = parse(filter).and_then(|filter| (log.change)(filter)) {
        tracing::warn!("what the process before this one logged is not logged here: {error:#}");
    }
}

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::builder()
        .parse(filter)
        .with_context(|| format!("`{filter}` is no log level; use info, debug, …"))
}
