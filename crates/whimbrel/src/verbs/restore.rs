//! `whimbrel restore`

use super::hold::{Manner, Outside, hold};
use crate::exit::Exit;
use crate::units::stall;
use monitor::{
    BootSource, GuestClock, How, Manner as Taking, MemoryPlace, Restore as File, RunConfig, Terms,
};
use std::path::PathBuf;
use std::time::Duration;

/// Let a guest go on that was saved in a file, or make a copy of one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whimbrel restore web.save
  whimbrel restore web.save --paused --detach
  whimbrel restore web.state --memory-file /pmem/web.ram
  whimbrel restore golden.snapshot --clone --name copy-1 --detach

A file of `save` continues its guest once: it is marked as used before the guest runs, and refused
from then on. The machine comes as it was saved; only what describes its outside can be said here.")]
pub struct Restore {
    /// The file
    file: PathBuf,
    /// Where in the file the snapshot begins, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
    /// Do not let the guest run, or mark the file as used, before `resume`
    #[arg(long)]
    paused: bool,
    /// Make a copy: a machine with an identity of its own, and as many as you like. It shares with
    /// the others whatever was in memory, also the state of random number generators
    #[arg(long, conflicts_with = "reclaim")]
    clone: bool,
    /// Go back to what was saved although the guest was continued from this file already. Its disks
    /// have moved on since, and it does not know
    #[arg(long)]
    reclaim: bool,
    /// Let the guest run at once, while its RAM is still being read [default, where a userfaultfd
    /// can be had]
    #[arg(long, conflicts_with = "eager")]
    lazy: bool,
    /// Read all of its RAM before the guest runs
    #[arg(long)]
    eager: bool,
    /// Run the guest on the pages of the file, which many copies then share, and never read it as a
    /// whole. The file must stay as it is while the guest lives, and the guest cannot be updated live
    #[arg(long, conflicts_with_all = ["eager", "lazy"])]
    mmap: bool,
    /// With --mmap: do not check all of the file's pages before the guest runs
    #[arg(long, requires = "mmap")]
    no_verify: bool,
    /// How long a page may take to come while the guest runs: then the guest is stopped, until it is
    /// resumed [default: 5s]
    #[arg(long, value_name = "TIME", conflicts_with_all = ["eager", "mmap"],
        value_parser = stall)]
    io_stall: Option<Duration>,
    /// How long the other side of a later move may be silent, or take nothing [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = stall)]
    stall_limit: Option<Duration>,
    /// Where the memory file is that its RAM is in, for a state of `update --mode reboot` [default:
    /// where it was]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["eager", "lazy", "mmap", "clone"])]
    memory_file: Option<PathBuf>,
    /// Whether the guest's clocks go on where they stopped, or by the time that it was away
    #[arg(long, value_name = "continue|realtime", default_value_t = GuestClock::Continue)]
    clock: GuestClock,
    #[command(flatten)]
    outside: Outside,
}

impl Restore {
    pub fn run(self) -> anyhow::Result<Exit> {
        hold(Manner::of(&self.outside), || self.config())
    }

    /// Whether its errors, too, are to be JSON.
    pub fn wants_json(&self) -> bool {
        self.outside.json
    }

    fn config(self) -> anyhow::Result<RunConfig> {
        let console = self.outside.console()?;
        let terms = match (self.clone, self.reclaim) {
            (true, _) => Terms::Clone,
            (false, true) => Terms::Reclaim,
            (false, false) => Terms::AsSaved,
        };
        let how = match (self.lazy, self.eager, self.mmap) {
            (true, ..) => Some(How::Lazy),
            (_, true, _) => Some(How::Eager),
            (.., true) => Some(How::Mapped),
            _ => None,
        };
        let Self {
            file,
            offset,
            clock,
            paused,
            outside,
            no_verify,
            io_stall,
            stall_limit,
            memory_file,
            ..
        } = self;
        let manner = Taking { terms, how, verify: !no_verify, io_stall, clock, direct: true };
        Ok(RunConfig {
            name: outside.name,
            uuid: None,
            boot: BootSource::Restore(File { file, offset, manner }),
            cmdline: String::new(),
            memory: None,
            backing: outside.hugepages,
            memory_file: memory_file.map(|path| MemoryPlace { path, discard: false }),
            cpus: None,
            console,
            qmp: outside.qmp,
            paused,
            exit_after_move: outside.exit_after_move,
            overcommit: outside.overcommit,
            hold: None,
            stall_limit,
            keep_waiting: false,
            insecure: false,
            log: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;
    use memory::Backing;
    use monitor::Console;

    fn config(line: &str) -> Result<RunConfig, String> {
        let words = ["whimbrel", "restore"].into_iter().chain(line.split(' '));
        match Cli::try_parse_from(words).map_err(|e| e.to_string())?.verb {
            Verb::Restore(restore) => restore.config().map_err(|e| e.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_is_taken_as_it_was_saved_unless_said_otherwise() {
        let config = config("a.save").unwrap();
        assert_eq!(config.boot, BootSource::Restore(File::of("a.save".into())));
        assert!(config.name.is_none() && config.backing.is_none() && !config.paused);
        assert_eq!(config.console, Console::Stdio);
    }

    #[test]
    fn every_flag_reaches_the_configuration() {
        let config = config(
            "f --offset 4096 --paused --eager --reclaim --clock realtime --name b --hugepages 2M --console \
             off --qmp unix:/q --overcommit --exit-after-move --stall-limit 20s",
        )
        .unwrap();
        let file = File {
            file: "f".into(),
            offset: 4096,
            manner: Taking {
                terms: Terms::Reclaim,
                how: Some(How::Eager),
                verify: true,
                io_stall: None,
                clock: GuestClock::Realtime,
                direct: true,
            },
        };
        assert_eq!(config.boot, BootSource::Restore(file));
        let BootSource::Restore(File { manner, .. }) =
            super::tests::config("f --mmap --no-verify").unwrap().boot
        else {
            panic!("a file is restored")
        };
        assert_eq!((manner.how, manner.verify), (Some(How::Mapped), false));
        let memory_file = super::tests::config("f --memory-file m").unwrap().memory_file;
        assert_eq!(memory_file, Some(MemoryPlace { path: "m".into(), discard: false }));
        assert_eq!(config.name.unwrap().as_str(), "b");
        assert_eq!((config.backing, config.console), (Some(Backing::Huge2M), Console::Off));
        assert!(config.paused && config.overcommit && config.exit_after_move);
        assert_eq!(config.stall_limit, Some(Duration::from_secs(20)));
        assert_eq!(config.qmp.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (line, reason) in [
            ("", "FILE"),
            ("f --clone --reclaim", "cannot be used with"),
            ("f --lazy --eager", "cannot be used with"),
            ("f --mmap --lazy", "cannot be used with"),
            ("f --memory-file m --clone", "cannot be used with"),
            ("f --memory-file m --lazy", "cannot be used with"),
            ("f --no-verify", "--mmap"),
            ("f --eager --io-stall 1s", "cannot be used with"),
            ("f --io-stall 1ms", "10 ms"),
            ("f --stall-limit 1ms", "10 ms"),
            ("f --clock stop", "continue or realtime"),
            ("f --memory 1G", "unexpected argument"),
            ("f --json", "--detach"),
        ] {
            let error = config(line).map(|_| ()).expect_err(line);
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
