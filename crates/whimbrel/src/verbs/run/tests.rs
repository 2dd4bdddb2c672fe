use super::*;
use crate::cli::{Cli, Verb};
use clap::Parser;
use memory::Backing;
use monitor::{Console, QmpSocket};
use std::time::Duration;

fn parse(line: &str) -> Result<Run, String> {
    let words = ["whimbrel", "run"].into_iter().chain(line.split(' ').filter(|w| !w.is_empty()));
    match Cli::try_parse_from(words).map_err(|e| e.to_string())?.verb {
        Verb::Run(run) => Ok(run),
        other => panic!("{other:?}"),
    }
}

fn config(line: &str) -> Result<RunConfig, String> {
    parse(line)?.config().map_err(|e| e.to_string())
}

#[test]
fn every_flag_reaches_the_configuration() {
    let config = config(
        "--name a --uuid 6ba7b810-9dad-11d1-80b4-00c04fd430c8 --kernel k --initrd i --cmdline x=y \
         --memory 1G --hugepages 2M --cpus 8 --console pty --qmp unix:/a --qmp \
         unix:/b,mode=0660 --paused --exit-after-move",
    )
    .unwrap();
    assert_eq!(config.name.unwrap().as_str(), "a");
    assert_eq!(config.uuid.unwrap().to_string(), "6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    assert_eq!(config.boot, BootSource::Files { kernel: "k".into(), initrd: Some("i".into()) });
    assert_eq!(config.cmdline, "x=y");
    assert_eq!(config.memory, Some(1 << 30));
    assert_eq!(config.backing, Some(Backing::Huge2M));
    assert_eq!(config.cpus, Some(8));
    assert_eq!(config.memory_file, None);
    assert_eq!(config.console, Console::Pty);
    let qmp = |path: &str, mode| QmpSocket { path: path.into(), mode };
    assert_eq!(config.qmp, [qmp("/a", 0o600), qmp("/b", 0o660)]);
    assert!(config.paused && config.exit_after_move);
}

#[test]
fn ram_may_have_a_name() {
    let place = |line| config(line).unwrap().memory_file;
    let at = |discard| Some(MemoryPlace { path: "/m".into(), discard });
    assert_eq!(place("--guest clock --memory-file /m"), at(false));
    assert_eq!(place("--guest clock --memory-file /m --discard-memory"), at(true));
}

#[test]
fn a_destination_has_flags_of_its_own() {
    let config = config(
        "--incoming tcp:[::]:1 --overcommit --handover-hold 5m --stall-limit 20s --wait --insecure \
         --console unix:/c",
    )
    .unwrap();
    let address = "tcp:[::]:1".parse().unwrap();
    assert_eq!(config.boot, BootSource::Incoming(Incoming::At(address)));
    assert_eq!(config.hold, Some(Duration::from_secs(300)));
    assert_eq!(config.stall_limit, Some(Duration::from_secs(20)));
    assert!(config.overcommit && config.keep_waiting && config.insecure);
    assert_eq!(config.console, Console::Unix("/c".into()));
    assert_eq!(config.memory, None);
    assert_eq!(config.cpus, None);
}

#[test]
fn a_console_is_on_the_terminal_unless_there_is_none() {
    assert_eq!(config("--guest clock").unwrap().console, Console::Stdio);
    assert_eq!(config("--guest clock --background").unwrap().console, Console::Off);
    assert_eq!(
        config("--guest clock --console file:x").unwrap().console,
        Console::File("x".into())
    );
}

#[test]
fn json_and_the_console_do_not_share_stdout() {
    assert!(config("--guest clock --json --console off").is_ok());
    assert!(config("--guest clock --json --console stdio").is_err());
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    for (line, reason) in [
        ("", "nothing to run"),
        ("--guest nope", "workload"),
        ("--guest clock --kernel k", "cannot be used with"),
        ("--guest clock --discard-memory", "--memory-file"),
        ("--incoming defer --memory-file m", "cannot be used with"),
        ("--guest clock --incoming defer", "cannot be used with"),
        ("--guest clock --initrd i", "cannot be used with"),
        ("--guest clock --memory lots", "64M, 2G"),
        ("--guest clock --cpus 0", "1..=64"),
        ("--guest clock --cpus 65", "1..=64"),
        ("--guest clock --hugepages 4M", "1G, 2M, thp or off"),
        ("--guest clock --console tty", "stdio, pty"),
        ("--guest clock --console file:", "needs a path"),
        ("--guest clock --qmp /x", "starts with unix:"),
        ("--guest clock --qmp unix:", "path is missing"),
        ("--guest clock --qmp unix:/x,mode=9", "octal"),
        ("--guest clock --name a/b", "no name for a machine"),
        ("--guest clock --wait", "cannot be used with"),
        ("--initrd i", "nothing to run"),
        ("--incoming nowhere", "or defer"),
        ("--incoming defer --cmdline x", "cannot be used with"),
        ("--incoming defer --handover-hold 5", "300ms, 2s"),
        ("--guest clock --json", "--detach"),
    ] {
        let error = config(line).map(|_| ()).expect_err(line);
        assert!(error.contains(reason), "{line}: {error}");
    }
}
