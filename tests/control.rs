//! Machines by name: starting, asking, stopping and ending them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use support::{Host, Machine, PATIENCE, wait};

const CLOCK: [&str; 4] = ["--guest", "clock", "--memory", "32M"];

fn clock(host: &Host, name: &str, more: &[&str]) -> Machine {
    let machine = host.start(name, &[&CLOCK[..], more].concat());
    machine.wait_for("CLOCK", |_| true);
    machine
}

fn status(host: &Host, name: &str) -> Value {
    serde_json::from_str(&host.ok(&["status", name, "--json"])).unwrap()
}

/// How often the guest's clock was read since its start, as far as it has told.
fn reports(machine: &Machine) -> usize {
    machine.lines().iter().filter(|line| line.starts_with("CLOCK")).count()
}

#[test]
fn a_machine_tells_what_it_is() {
    let host = Host::new();
    let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    let _machine = clock(&host, "a", &["--cpus", "2", "--uuid", uuid]);
    let view = status(&host, "a")["machine"].clone();
    assert_eq!(view["name"], "a");
    assert_eq!(view["uuid"], uuid);
    assert_eq!(view["status"], "running");
    assert_eq!(view["cpus"], 2);
    assert_eq!(view["memory"]["size"], 32 << 20);
    assert_eq!(view["memory"]["backing"], "off");
    let touched = view["memory"]["touched"].as_u64().unwrap();
    assert!(touched > 0 && touched < 32 << 20, "{view:#}");
    assert!(view["uptime-seconds"].as_f64().unwrap() > 0.0);
    assert!(view["devices"].as_array().unwrap().contains(&"uart16550".into()), "{view:#}");
    let screen = host.ok(&["status", "a"]);
    for word in ["running", uuid, "32.0 MiB", "uart16550", "unix:"] {
        assert!(screen.contains(word), "{word} is not in\n{screen}");
    }
}

#[test]
fn the_list_shows_each_machine_once_and_none_that_has_ended() {
    let host = Host::new();
    assert_eq!(host.ok(&["list", "--json"]), "");
    let _a = clock(&host, "a", &[]);
    let b = clock(&host, "b", &["--cpus", "3"]);
    let names = |machines: Vec<Value>| -> Vec<String> {
        machines.iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(host.machines()), ["a", "b"]);
    let text = host.ok(&["list"]);
    let line = text.lines().find(|line| line.starts_with("b ")).unwrap();
    assert!(line.contains("running") && line.contains(" 3 "), "{text}");
    drop(b);
    assert_eq!(names(host.machines()), ["a"]);
}

#[test]
fn a_paused_guest_says_nothing_and_goes_on_where_it_was() {
    let host = Host::new();
    let machine = clock(&host, "a", &[]);
    host.ok(&["pause", "a"]);
    host.ok(&["pause", "a"]);
    assert_eq!(host.state("a"), "paused");
    let before = reports(&machine);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    // The line that was under way may still have come.
    assert!(reports(&machine) <= before + 1);
    host.ok(&["resume", "a"]);
    host.ok(&["resume", "a"]);
    assert_eq!(host.state("a"), "running");
    wait("the guest to go on", || (reports(&machine) > before + 2).then_some(()));
    assert!(machine.lines().iter().filter(|line| line.starts_with("HELLO")).count() == 1);
}

#[test]
fn a_machine_started_paused_waits_for_resume() {
    let host = Host::new();
    let machine = host.start("a", &[&CLOCK[..], &["--paused"]].concat());
    host.wait_for_state("a", "prelaunch");
    assert!(machine.lines().is_empty());
    host.ok(&["resume", "a"]);
    machine.wait_for("HELLO", |_| true);
}

#[test]
fn kill_ends_the_process_and_leaves_nothing_behind() {
    let host = Host::new();
    let mut machine = clock(&host, "a", &[]);
    host.ok(&["kill", "a"]);
    assert_eq!(machine.wait_for_end(), Some(0));
    let left: Vec<_> = std::fs::read_dir(host.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("a.") && name != "a.log")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let said = host.fails(1, &["kill", "a"]);
    assert!(said.contains("no machine named `a`") && said.contains("whimbrel list"), "{said}");
}

#[test]
fn kill_with_force_ends_a_process_that_hangs() {
    let host = Host::new();
    let mut machine = clock(&host, "a", &[]);
    machine.signal(Signal::STOP);
    host.ok(&["kill", "--force", "a"]);
    assert_eq!(machine.wait_for_end(), None);
    assert_eq!(host.ok(&["list", "--json"]), "");
    assert!(host.fails(1, &["kill", "--force", "a"]).contains("no machine named `a`"));
}

#[test]
fn a_machine_that_hangs_does_not_hide_the_others() {
    let host = Host::new();
    let hangs = clock(&host, "a", &[]);
    let _well = clock(&host, "b", &[]);
    hangs.signal(Signal::STOP);
    let machines = host.machines();
    assert_eq!(machines.len(), 2);
    assert!(machines[0]["error"].as_str().unwrap().contains("kill --force a"), "{machines:?}");
    assert_eq!(machines[1]["status"], "running");
    hangs.signal(Signal::CONT);
}

#[test]
fn a_signal_ends_a_machine_in_good_order() {
    let host = Host::new();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut machine = clock(&host, "a", &[]);
        machine.signal(signal);
        assert_eq!(machine.wait_for_end(), Some(0), "{signal:?}");
    }
}

#[test]
fn a_guest_that_powers_off_ends_its_machine() {
    let host = Host::new();
    let mut machine = host.start("a", &[&CLOCK[..], &["--cmdline", "poweroff=300ms"]].concat());
    assert_eq!(machine.wait_for_end(), Some(0));
    assert!(machine.lines().last().unwrap().starts_with("BYE end=poweroff"));
}

#[test]
fn a_guest_that_resets_begins_anew_in_the_same_machine() {
    let host = Host::new();
    let machine = clock(&host, "a", &[]);
    machine.type_byte(b'r');
    let hellos = || machine.lines().iter().filter(|line| line.starts_with("HELLO")).count();
    wait("the guest to begin anew", || (hellos() == 2).then_some(()));
    assert!(host.qmp("a", "system_reset", "{}").status.success());
    wait("the guest to begin anew", || (hellos() == 3).then_some(()));
    assert_eq!(host.state("a"), "running");
}

#[test]
fn a_guest_whose_processor_fails_stays_to_be_looked_at() {
    let host = Host::new();
    let machine = clock(&host, "a", &[]);
    let mut stream = UnixStream::connect(host.folder().join("a.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"{\"execute\": \"qmp_capabilities\"}\n").unwrap();
    let mut told = BufReader::new(stream).lines().map(|line| line.unwrap());
    // It is told of everything from then on.
    assert!(told.any(|line| line.contains("return")));
    machine.type_byte(b't');
    host.wait_for_state("a", "internal-error");
    let screen = host.ok(&["status", "a"]);
    assert!(screen.contains("triple fault"), "{screen}");
    let event = told.find(|line| line.contains("x-whimbrel-guest-error")).unwrap();
    let event = serde_json::from_str::<Value>(&event).unwrap()["data"].clone();
    assert_eq!(event["cpu"], 0, "{event}");
    assert!(event["reason"].as_str().unwrap().contains("triple fault"), "{event}");
    let log = machine.log();
    for register in ["rip", "rsp", "cr3"] {
        let value = event["registers"][register].as_str().unwrap();
        assert!(value.starts_with("0x"), "{event}");
        assert!(log.contains(&format!("{register}={value}")), "{event}\n{log}");
    }
    let said = host.fails(1, &["resume", "a"]);
    assert!(said.contains("reset it first"), "{said}");
    // It did not run, and so it does not run again before somebody says so.
    let hellos = || machine.lines().iter().filter(|line| line.starts_with("HELLO")).count();
    assert!(host.qmp("a", "system_reset", "{}").status.success());
    assert_eq!((&*host.state("a"), hellos()), ("paused", 1));
    host.ok(&["resume", "a"]);
    wait("the guest to begin anew", || (hellos() == 2).then_some(()));
    assert_eq!(host.state("a"), "running");
}

#[test]
fn shutting_down_asks_a_guest_that_runs_and_no_other() {
    let host = Host::new();
    let _machine = clock(&host, "a", &[]);
    host.ok(&["shutdown", "a"]);
    host.ok(&["pause", "a"]);
    let said = host.fails(1, &["shutdown", "a"]);
    assert!(said.contains("does not run") && said.contains("whimbrel kill a"), "{said}");
}

#[test]
fn a_name_is_taken_once_and_numbered_where_none_was_given() {
    let host = Host::new();
    let _machine = clock(&host, "clock", &[]);
    let run = ["run", "--guest", "clock", "--memory", "32M", "--console", "off"];
    let said = host.fails(1, &[&run[..], &["--name", "clock"]].concat());
    assert!(said.contains("running already") && said.contains("whimbrel kill clock"), "{said}");
    let said = host.ok(&[&run[..], &["--detach"]].concat());
    assert!(said.starts_with("`clock-2` runs"), "{said}");
    host.ok(&["kill", "clock-2"]);
}

#[test]
fn a_machine_in_the_background_outlives_who_started_it_and_says_why_it_cannot() {
    let host = Host::new();
    let run = ["run", "--name", "a", "--guest", "clock", "--memory", "32M", "--detach"];
    let said = host.ok(&[&run[..], &["--json"]].concat());
    let started: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(started["name"], "a");
    assert_eq!(status(&host, "a")["machine"]["pid"], started["pid"]);
    assert_eq!(status(&host, "a")["machine"]["console"], "off");
    let said = host.fails(1, &run);
    assert!(said.contains("running already"), "{said}");
    let said = host.fails(1, &[&run[..], &["--json"]].concat());
    let error: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(error["error"]["code"], "name-taken");
    host.ok(&["kill", "a"]);
}

#[test]
fn the_console_goes_to_a_file() {
    let host = Host::new();
    let path = host.folder().join("console");
    let console = format!("file:{}", path.display());
    let run = ["run", "--name", "a", "--guest", "clock", "--memory", "32M", "--detach"];
    host.ok(&[&run[..], &["--console", &console]].concat());
    wait("a line in the file", || {
        std::fs::read_to_string(&path).ok().filter(|text| text.contains("CLOCK cpu=0"))
    });
    host.ok(&["kill", "a"]);
    let before = std::fs::read_to_string(&path).unwrap();
    host.ok(&[&run[..], &["--console", &console]].concat());
    wait("the file to be appended to", || {
        let text = std::fs::read_to_string(&path).ok()?;
        (text.starts_with(&before) && text.matches("HELLO").count() == 2).then_some(())
    });
    host.ok(&["kill", "a"]);
}

#[test]
fn the_console_goes_to_a_pseudo_terminal_both_ways() {
    let host = Host::new();
    let run = ["run", "--name", "a", "--guest", "clock", "--memory", "32M", "--detach"];
    let said = host.ok(&[&run[..], &["--console", "pty", "--cmdline", "report=600s"]].concat());
    let place = said.lines().find_map(|line| line.strip_prefix("console: pty ")).unwrap();
    let mut pty = std::fs::File::options().read(true).write(true).open(place).unwrap();
    let mut text = String::new();
    let mut read_until = |pty: &mut std::fs::File, word: &str| {
        let mut buffer = [0; 512];
        while !text.contains(word) {
            let count = pty.read(&mut buffer).unwrap();
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    read_until(&mut pty, "HELLO");
    pty.write_all(b"s").unwrap();
    read_until(&mut pty, "CLOCK cpu=0");
    host.ok(&["kill", "a"]);
}

#[test]
fn the_console_goes_to_standard_output_and_comes_from_standard_input() {
    let host = Host::new();
    let run = ["run", "--name", "a", "--guest", "clock", "--memory", "32M", "--console", "stdio"];
    let mut child = host
        .whimbrel(&[&run[..], &["--cmdline", "report=600s"]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"sp").unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HELLO") && text.contains("BYE end=poweroff"), "{text}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.starts_with("`a` runs"), "{said}");
}

#[test]
fn further_control_sockets_have_the_mode_that_was_asked_for() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    let path = host.folder().join("more.sock");
    let qmp = format!("unix:{},mode=0640", path.display());
    let mut machine = clock(&host, "a", &["--qmp", &qmp]);
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.clone()), 0o640);
    assert_eq!(mode(host.folder().join("a.sock")), 0o600);
    host.ok(&["kill", "a"]);
    machine.wait_for_end();
    assert!(!path.exists());
}

#[test]
fn one_qmp_command_is_sent_and_its_answer_printed() {
    let host = Host::new();
    let _machine = clock(&host, "a", &["--cpus", "2"]);
    let answer =
        |command| -> Value { serde_json::from_str(&host.ok(&["qmp", "a", command])).unwrap() };
    assert_eq!(answer("query-status"), serde_json::json!({"running": true, "status": "running"}));
    assert_eq!(answer("query-name"), serde_json::json!({"name": "a"}));
    assert_eq!(answer("query-kvm"), serde_json::json!({"enabled": true, "present": true}));
    let memory = answer("query-memory-size-summary");
    assert_eq!(memory, serde_json::json!({"base-memory": 32 << 20}));
    let cpus = answer("query-cpus-fast");
    let threads: Vec<i64> =
        cpus.as_array().unwrap().iter().map(|cpu| cpu["thread-id"].as_i64().unwrap()).collect();
    assert_eq!(threads.len(), 2);
    let process = status(&host, "a")["machine"]["pid"].as_i64().unwrap();
    for thread in threads {
        let task = format!("/proc/{process}/task/{thread}/comm");
        assert!(std::fs::read_to_string(task).unwrap().starts_with("vcpu"));
    }
    assert!(host.fails(2, &["qmp", "a", "no-such-command"]).contains("does not exist"));
    assert!(host.fails(2, &["qmp", "a", "query-status", "[]"]).contains("no object"));
}

#[test]
fn a_built_in_guest_is_exported_as_the_image_that_boots() {
    let host = Host::new();
    let file = host.folder().join("clock.elf");
    let file = file.to_str().unwrap();
    host.ok(&["guest", "export", "clock", file]);
    let machine = host.start("a", &["--kernel", file, "--memory", "32M"]);
    machine.wait_for("HELLO guest=clock", |_| true);
    let listed = host.ok(&["guest", "list", "--json"]);
    let names: Vec<String> = listed
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["guest"].to_string())
        .collect();
    assert_eq!(names, ["\"workload\"", "\"selfcheck\"", "\"clock\""]);
}

#[test]
fn ctrl_c_cancels_a_move_and_leaves_the_guest_running() {
    let host = Host::new();
    let source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=32M rate=2000"]);
    let (_destination, to) = host.incoming("b", &[]);
    let job = host
        .whimbrel(&["migrate", "a", &to, "--max-bandwidth", "2M"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    host.wait_for_motion("a", "active");
    kill_process(Pid::from_child(&job), Signal::INT).unwrap();
    let output = job.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the guest goes on here"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("motion: cancelled"));
    assert_eq!(host.state("a"), "running");
    source.check_all();
}

#[test]
fn where_there_is_no_terminal_a_long_move_says_how_far_it_is_line_by_line() {
    let host = Host::new();
    let _source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=24M rate=0"]);
    let (_destination, to) = host.incoming("b", &[]);
    let text = host.ok(&["migrate", "a", &to, "--max-bandwidth", "8M"]);
    let told = |line: &str| line.contains("pass 1,") && line.contains("of 64.0 MiB looked at");
    assert!(text.lines().any(told), "{text}");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.contains("motion: completed") && text.contains("blackout"), "{text}");
}

#[test]
fn the_demo_ends_well_and_leaves_nothing_behind() {
    let host = Host::new();
    let temporary = host.folder().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let output = host.whimbrel(&["demo", "--json"]).env("TMPDIR", &temporary).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, steps) = lines.split_last().unwrap();
    assert_eq!((&last["ok"], &last["faults"]), (&true.into(), &0.into()), "{text}");
    assert!(last["pages-checked"].as_u64().unwrap() > 0);
    // Five moves, an update and a snapshot; one move that fails, and a save that is restored.
    let stopped = steps.iter().filter(|step| step["blackout-ns"].is_u64()).count();
    let others = steps.iter().filter(|step| step["blackout-ns"].is_null()).count();
    assert_eq!((stopped, others), (7, 2), "{text}");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}
