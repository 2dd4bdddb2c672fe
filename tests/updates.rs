//! Updates: the process of a machine is replaced under its running guest, and nobody notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
#[path = "support/talker.rs"]
mod talker;

use qmp::Client;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use support::{Host, Machine, PATIENCE, huge_pages, transparent_huge_pages, wait};
use talker::talker;

/// Ends the machine of that name, whichever process has it by then.
struct Ends<'a>(&'a Host, &'a str);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.run(&["kill", "--force", self.1]);
    }
}

/// However busy the host is: no promise is tested here.
fn update(host: &Host, name: &str, more: &[&str]) -> Value {
    let patiently = ["update", name, "--json", "--max-blackout", "unlimited"];
    let text = host.ok(&[&patiently[..], more].concat());
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn pid(host: &Host, name: &str) -> u64 {
    host.view(name).unwrap()["pid"].as_u64().unwrap()
}

fn goes_over(cpus: &str, backing: &str) {
    let host = Host::new();
    let shape = ["--memory", "128M", "--cpus", cpus, "--hugepages", backing];
    let mut machine =
        host.selfcheck("m", &[&shape[..], &["--cmdline", "ws=48M rate=5000"]].concat());
    let _ends = Ends(&host, "m");
    for turn in 0..3 {
        let before = pid(&host, "m");
        let report = update(&host, "m", &["--mode", "transfer"]);
        assert_eq!(report["status"], "completed", "{report:#}");
        assert_eq!(report["ram"]["bytes"], 0, "{report:#}");
        assert_ne!(pid(&host, "m"), before);
        assert_eq!(host.state("m"), "running");
        machine.check_all();
        if turn == 0 {
            assert_eq!(machine.wait_for_end(), Some(0), "{}", machine.log());
        }
    }
    assert!(machine.faults().is_empty());
    assert_eq!(host.machines().len(), 1);
}

#[test]
fn one_vcpu_goes_over() {
    goes_over("1", "off");
}

#[test]
fn two_vcpus_go_over() {
    goes_over("2", "off");
}

#[test]
fn eight_vcpus_go_over() {
    goes_over("8", "off");
}

#[test]
fn a_guest_on_huge_pages_goes_over() {
    assert!(huge_pages(128), "no huge pages are to be had for this test");
    goes_over("2", "2M");
}

#[test]
fn a_guest_on_huge_pages_stays_in_its_process_which_becomes_another() {
    assert!(huge_pages(128), "no huge pages are to be had for this test");
    let host = Host::new();
    let shape = ["--memory", "128M", "--cpus", "2", "--hugepages", "2M"];
    let machine = host.selfcheck("m", &[&shape[..], &["--cmdline", "ws=48M rate=5000"]].concat());
    for _ in 0..2 {
        assert_eq!(update(&host, "m", &["--mode", "exec"])["status"], "completed");
        assert_eq!(pid(&host, "m"), u64::from(machine.pid()));
        machine.check_all();
    }
    assert!(machine.faults().is_empty());
}

#[test]
fn a_guest_on_transparent_huge_pages_goes_over() {
    assert!(transparent_huge_pages(), "shared memory may have no transparent huge pages here");
    goes_over("2", "thp");
}

#[test]
fn a_paused_guest_stays_paused_and_goes_on_later() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let _ends = Ends(&host, "m");
    for mode in ["transfer", "exec"] {
        host.ok(&["pause", "m"]);
        assert_eq!(update(&host, "m", &["--mode", mode])["status"], "completed");
        assert_eq!(host.state("m"), "paused", "{mode}");
        host.ok(&["resume", "m"]);
        machine.check_all();
    }
}

#[test]
fn whoever_is_connected_notices_nothing_but_the_event() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let _ends = Ends(&host, "m");
    let mut stream = UnixStream::connect(host.folder().join("m.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert!(next()["QMP"].is_object());
    stream
        .write_all(b"{\"execute\": \"qmp_capabilities\", \"id\": 1}\n{\"execute\": \"query-")
        .unwrap();
    assert_eq!(next()["id"], 1);
    assert_eq!(update(&host, "m", &[])["status"], "completed");
    stream.write_all(b"name\", \"id\": 2}\n").unwrap();
    // The event and the answer come in either order: the one is not asked for.
    let both = [next(), next()];
    let event = both.iter().find(|line| line["event"].is_string()).unwrap();
    assert_eq!(event["event"], "x-whimbrel-updated");
    assert_eq!(event["data"]["pid"], pid(&host, "m"));
    let answer = both.iter().find(|line| line["id"] == 2).unwrap();
    assert_eq!(answer["return"]["name"], "m");
    machine.check_all();
}

#[test]
fn commands_sent_as_fast_as_can_be_are_all_answered_once_and_in_order() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let _ends = Ends(&host, "m");
    let mut stream = UnixStream::connect(host.folder().join("m.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let reader = BufReader::new(stream.try_clone().unwrap());
    stream.write_all(b"{\"execute\": \"qmp_capabilities\"}\n").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let (sent, answered) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut id = 0u64;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                id += 1;
                writeln!(stream, "{{\"execute\": \"query-status\", \"id\": {id}}}").unwrap();
            }
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            id
        });
        let reader = scope.spawn(|| {
            let mut last = 0;
            for line in reader.lines() {
                let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
                if let Some(id) = line["id"].as_u64() {
                    assert_eq!(id, last + 1, "{line}");
                    assert_eq!(line["return"]["status"], "running", "{line}");
                    last = id;
                }
            }
            last
        });
        for _ in 0..5 {
            assert_eq!(update(&host, "m", &[])["status"], "completed");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (writer.join().unwrap(), reader.join().unwrap())
    });
    assert_eq!(sent, answered);
    machine.check_all();
}

#[test]
fn a_console_loses_and_repeats_no_byte() {
    let host = Host::new();
    let machine = host.start(
        "m",
        &["--guest", "clock", "--memory", "32M", "--cpus", "2", "--cmdline", "report=5ms"],
    );
    let _ends = Ends(&host, "m");
    machine.wait_for("CLOCK", |_| true);
    for _ in 0..5 {
        assert_eq!(update(&host, "m", &[])["status"], "completed");
    }
    let until = machine.lines().len() + 20;
    wait("both of the guest's processors to go on", || {
        let lines = machine.lines();
        // One that finds the console taken tries again, and may do so for a while.
        let has_spoken = |cpu| lines.iter().any(|line| line.starts_with(cpu));
        (lines.len() > until && ["CLOCK cpu=0", "CLOCK cpu=1"].into_iter().all(has_spoken))
            .then_some(())
    });
    // A byte too many or too few leaves no line of this form, or one that was there before.
    let keys = "cpu t kvm reads gap at back stalls stalled paused away other hist";
    let mut last = std::collections::BTreeMap::new();
    for line in machine.lines().iter().filter(|line| line.contains("CLOCK")) {
        let fields: Vec<_> = line.strip_prefix("CLOCK ").unwrap_or_default().split(' ').collect();
        let named = fields.iter().filter_map(|field| field.split_once('=')).collect::<Vec<_>>();
        let found = named.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(" ");
        assert_eq!(found, keys, "{line}");
        let time: u64 = named[1].1.parse().unwrap();
        let before = last.insert(named[0].1.to_owned(), time).unwrap_or(0);
        assert!(time > before, "{line}");
    }
    assert_eq!(last.len(), 2);
}

/// A program that is no whimbrel.
fn program(host: &Host, name: &str, content: &[u8], mode: u32) -> PathBuf {
    let path = host.folder().join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn fails_with(host: &Host, machine: &Machine, binary: &str, reason: &str) {
    let before = pid(host, "m");
    let output = host.run(&["update", "m", "--binary", binary]);
    let text =
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 3)), "{binary}: {text}");
    assert!(text.contains(reason), "{binary}: {text}");
    assert_eq!(pid(host, "m"), before);
    assert_eq!(host.state("m"), "running", "{binary}");
    machine.check_all();
}

#[test]
fn a_bad_binary_leaves_the_guest_where_it_is_and_says_why() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let not_executable = text(program(&host, "data", b"#!/bin/sh\n", 0o600));
    let empty = text(program(&host, "empty", b"", 0o700));
    let words = text(program(&host, "words", b"hello there\n", 0o700));
    let zero = text(program(&host, "zero", b"#!/bin/sh\nexit 0\n", 0o700));
    let crashes = text(program(&host, "crashes", b"#!/bin/sh\nkill -SEGV $$\n", 0o700));
    let old =
        text(program(&host, "old", b"#!/bin/sh\necho 'no such address' >&2; exit 2\n", 0o700));
    fails_with(&host, &machine, "/nowhere/whimbrel", "No such file");
    fails_with(&host, &machine, host.folder().to_str().unwrap(), "Permission denied");
    fails_with(&host, &machine, &not_executable, "Permission denied");
    fails_with(&host, &machine, &empty, "Exec format error");
    fails_with(&host, &machine, &words, "Exec format error");
    fails_with(&host, &machine, &zero, "exit status: 0");
    fails_with(&host, &machine, &crashes, "signal: 11");
    fails_with(&host, &machine, &old, "too old");
    // And a good one is as good as ever.
    assert_eq!(update(&host, "m", &[])["status"], "completed");
    let _ends = Ends(&host, "m");
    machine.check_all();
}

#[test]
fn a_new_process_that_hangs_can_be_cancelled() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let hangs = program(&host, "hangs", b"#!/bin/sh\nexec sleep 600\n", 0o700);
    host.ask("m", "x-whimbrel-update", json!({ "binary": hangs })).unwrap();
    let error = host.ask("m", "x-whimbrel-update", json!({})).unwrap_err();
    assert!(error.to_string().contains("its update"), "{error}");
    host.ask("m", "migrate_cancel", None).unwrap();
    host.wait_for_motion("m", "cancelled");
    assert_eq!(host.state("m"), "running");
    assert_eq!(update(&host, "m", &[])["status"], "completed");
    let _ends = Ends(&host, "m");
    machine.check_all();
}

#[test]
fn a_new_process_that_hangs_is_given_up_after_its_time() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let note = host.folder().join("hanging");
    let lines = format!("#!/bin/sh\necho $$ >{}\nexec sleep 600\n", note.display());
    let hangs = program(&host, "hangs", lines.as_bytes(), 0o700);
    let stall = |limit: u64| {
        let limit = json!({ "x-whimbrel-stall-limit": limit });
        host.ask("m", "migrate-set-parameters", limit).unwrap();
    };
    stall(200);
    fails_with(&host, &machine, hangs.to_str().unwrap(), "runs and says nothing");
    assert_eq!(host.motion("m")["x-whimbrel-error-code"], "link-stalled");
    let hung = std::fs::read_to_string(&note).unwrap();
    assert!(!Path::new("/proc").join(hung.trim()).exists(), "{} is still there", hung.trim());
    stall(5000);
    assert_eq!(update(&host, "m", &[])["status"], "completed");
    let _ends = Ends(&host, "m");
    machine.check_all();
}

#[test]
fn asking_whether_it_would_touches_nothing() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let before = pid(&host, "m");
    host.ask("m", "migrate-set-parameters", json!({ "downtime-limit": 77 })).unwrap();
    let parameters = || host.ask("m", "query-migrate-parameters", None).unwrap();
    let set = parameters();
    host.ok(&["update", "m", "--check"]);
    assert_eq!(parameters(), set);
    assert_eq!(pid(&host, "m"), before);
    machine.check_all();
}

#[test]
fn what_was_set_goes_along() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let _ends = Ends(&host, "m");
    let set = json!({ "max-bandwidth": 12_345_678, "x-whimbrel-stall-limit": 7000 });
    host.ask("m", "migrate-set-parameters", set).unwrap();
    let capability = json!({ "capabilities": [{ "capability": "postcopy-ram", "state": true }] });
    host.ask("m", "migrate-set-capabilities", capability).unwrap();
    let up = || host.view("m").unwrap()["uptime-seconds"].as_f64().unwrap();
    let before = up();
    let uuid = || host.ask("m", "query-uuid", None).unwrap()["UUID"].clone();
    let own = uuid();
    assert_eq!(update(&host, "m", &[])["status"], "completed");
    let mut client = Client::connect(&host.folder().join("m.sock")).unwrap();
    let parameters = client.execute("query-migrate-parameters", None, Some(PATIENCE)).unwrap();
    assert_eq!(parameters["max-bandwidth"], 12_345_678);
    assert_eq!(parameters["x-whimbrel-stall-limit"], 7000);
    assert!(own.is_string(), "{own}");
    assert_eq!(uuid(), own);
    assert!(up() > before, "up for {before} s, and after the update for {} s", up());
    let capabilities = client.execute("query-migrate-capabilities", None, Some(PATIENCE)).unwrap();
    let is_on = |c: &Value| c["capability"] == "postcopy-ram" && c["state"] == true;
    assert!(capabilities.as_array().unwrap().iter().any(is_on), "{capabilities:#}");
    machine.check_all();
}

#[test]
fn a_process_that_somebody_else_started_takes_over() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let _ends = Ends(&host, "m");
    let socket = host.folder().join("next.sock");
    let waits = format!("update:unix:{}", socket.display());
    let mut next = host.whimbrel(&["run", "--incoming", &waits]).spawn().unwrap();
    wait("a process that waits", || socket.exists().then_some(()));
    host.ask(
        "m",
        "migrate-set-parameters",
        json!({ "mode": "cpr-transfer", "x-whimbrel-downtime-unlimited": true }),
    )
    .unwrap();
    let addr = json!({ "transport": "socket", "type": "unix", "path": socket });
    let channels = ["cpr", "main"].map(|kind| json!({ "channel-type": kind, "addr": addr }));
    host.ask("m", "migrate", json!({ "channels": channels })).unwrap();
    host.wait_for_motion("m", "completed");
    assert_eq!(pid(&host, "m"), u64::from(next.id()));
    machine.check_all();
    host.ok(&["kill", "m"]);
    assert!(next.wait().unwrap().success());
}

/// The descriptors of a process, by what they are, without what differs from one to the next.
fn descriptors(pid: u64) -> Vec<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let name = |link: std::fs::DirEntry| {
        let target = std::fs::read_link(link.path()).ok()?.display().to_string();
        Some(target.split(['[', '(']).next().unwrap_or_default().trim().to_owned())
    };
    let mut names: Vec<_> = links.filter_map(|link| name(link.ok()?)).collect();
    names.sort();
    names
}

/// The threads of a process, by their names.
fn threads(pid: u64) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map_while(Result::ok);
    let mut names: Vec<_> = tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    names.sort();
    names
}

fn children(pid: u64) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

/// A machine that boots from a file: what its guest boots from is a descriptor then, as it is after an
/// update whatever it was before.
fn booted_from_a_file(host: &Host) -> Machine {
    let kernel = host.folder().join("kernel");
    let kernel = kernel.to_str().unwrap();
    host.ok(&["guest", "export", "selfcheck", kernel]);
    let shape = ["--kernel", kernel, "--memory", "128M", "--cpus", "2"];
    let machine = host.start("m", &[&shape[..], &["--cmdline", "ws=48M rate=5000"]].concat());
    machine
        .wait_for("CHECK ok", |line| line.contains("scope=passing") && !line.contains("rounds=0"));
    machine
}

/// Waits until a process has of the host what another one had that was not updated.
fn is_as_fresh(pid: u64, fresh: &(Vec<String>, Vec<String>)) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let now = (descriptors(pid), threads(pid));
        if now == *fresh {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{now:#?}\nwas once {fresh:#?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn the_same_process_becomes_the_new_program_and_nothing_is_left_of_the_old() {
    let host = Host::new();
    let mut machine = booted_from_a_file(&host);
    let own = u64::from(machine.pid());
    let fresh = (descriptors(own), threads(own));
    for _ in 0..3 {
        let report = update(&host, "m", &["--mode", "exec"]);
        assert_eq!(report["status"], "completed", "{report:#}");
        assert!(report["update"]["first-blackout-ns"].is_u64(), "{report:#}");
        assert_eq!(pid(&host, "m"), own);
        machine.check_all();
        wait("the child to be gone", || children(own).trim().is_empty().then_some(()));
        is_as_fresh(own, &fresh);
    }
    assert!(!machine.has_ended());
    assert!(machine.faults().is_empty());
    host.ok(&["kill", "m"]);
    assert_eq!(machine.wait_for_end(), Some(0), "{}", machine.log());
}

#[test]
fn a_process_that_took_over_has_no_more_of_the_host_than_one_that_began() {
    let host = Host::new();
    let mut machine = booted_from_a_file(&host);
    let _ends = Ends(&host, "m");
    let fresh = (descriptors(machine.pid().into()), threads(machine.pid().into()));
    for turn in 0..3 {
        let report = update(&host, "m", &["--mode", "transfer"]);
        assert!(report["update"]["first-blackout-ns"].is_null(), "{report:#}");
        is_as_fresh(pid(&host, "m"), &fresh);
        if turn == 0 {
            assert_eq!(machine.wait_for_end(), Some(0), "{}", machine.log());
        }
    }
    machine.check_all();
}

#[test]
fn an_update_that_fails_leaves_nothing_open_that_was_for_the_new_process() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let opened = || {
        let mut names = descriptors(machine.pid().into());
        // What wakes the thread of a motion is kept with its report.
        names.retain(|name| name != "anon_inode:");
        names
    };
    let before = opened();
    assert!(before.iter().any(|name| name.starts_with("/memfd:")), "{before:?}");
    for mode in ["transfer", "exec"] {
        for program in ["/bin/true", "/nowhere/whimbrel"] {
            host.fails(1, &["update", "m", "--mode", mode, "--binary", program]);
            wait("it to be closed", || (opened() == before).then_some(()));
            // Nobody has to be asked what became of it.
            let notes = host.motion("m")["x-whimbrel-report"]["notes"].to_string();
            assert!(!notes.contains("undecided"), "{notes}");
        }
    }
    machine.check_all();
}

#[test]
fn what_is_logged_goes_along() {
    for mode in ["transfer", "exec"] {
        let host = Host::new();
        let shape = ["--memory", "64M", "--cmdline", "ws=16M rate=2000"];
        let log = ["--log", "whimbrel=info"];
        let machine = host.selfcheck("m", &[&shape[..], &log].concat());
        let _ends = Ends(&host, "m");
        update(&host, "m", &["--mode", mode]);
        let before = machine.log();
        // Whoever took over was told nothing on its own command line.
        update(&host, "m", &["--mode", mode]);
        let since = machine.log()[before.len()..].to_owned();
        assert!(since.contains("the machine ends"), "{mode}: {before}\nand then {since}");
    }
}

/// What a client of a machine is told that asks for nothing. The connection is to be kept.
fn events(host: &Host) -> (UnixStream, impl Iterator<Item = Value>) {
    let mut stream = UnixStream::connect(host.folder().join("m.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"{\"execute\": \"qmp_capabilities\"}\n").unwrap();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    // It hears of everything from then on.
    assert!(lines.any(|line| line["return"].is_object()));
    (stream, lines)
}

/// What a supervisor hears next.
fn told(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// A program that is whimbrel the first time, and then something else.
fn image(host: &Host, name: &str, then: &str) -> String {
    let whimbrel = env!("CARGO_BIN_EXE_whimbrel");
    let seen = host.folder().join(format!("{name}.seen"));
    let seen = seen.display();
    let script = format!(
        "#!/bin/sh\nif [ -e {seen} ]; then {then}; fi\ntouch {seen}\nexec {whimbrel} \"$@\"\n"
    );
    program(host, name, script.as_bytes(), 0o700).to_str().unwrap().to_owned()
}

#[test]
fn an_image_that_fails_leaves_the_guest_with_its_guardian() {
    // One that hangs is played in `update_matrix.rs`, where it stands still.
    for (name, then) in [("exits", "exit 0"), ("crashes", "kill -SEGV $$")] {
        let mut host = Host::new();
        let supervisor = host.supervised();
        let mut machine =
            host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
        let _ends = Ends(&host, "m");
        let (_client, mut events) = events(&host);
        let binary = image(&host, name, then);
        let text = host.fails(
            1,
            &["update", "m", "--mode", "exec", "--max-blackout", "unlimited", "--binary", &binary],
        );
        assert!(text.contains("new image"), "{name}: {text}");
        let guardian = pid(&host, "m");
        assert_ne!(guardian, u64::from(machine.pid()), "{name}");
        let event = events.find(|event| event["event"] == "x-whimbrel-updated").unwrap();
        assert_eq!(event["data"]["pid"], guardian, "{name}: {event}");
        machine.wait_for_end();
        assert_eq!(told(&supervisor), "READY=1\n", "{name}");
        assert_eq!(told(&supervisor), format!("MAINPID={guardian}\nREADY=1\n"), "{name}");
        assert_eq!(host.state("m"), "running", "{name}");
        machine.check_all();
        // It is a machine like any other.
        assert_eq!(update(&host, "m", &[])["status"], "completed", "{name}");
        machine.check_all();
    }
}

#[test]
fn a_machine_that_ends_while_its_guardian_has_it_leaves_no_process_behind() {
    for verb in ["kill", "shutdown"] {
        let host = Host::new();
        let mut machine = talker(&host, "m", &[]);
        let image = image(&host, "hangs", "exec sleep 600");
        let exec = json!({ "mode": "exec", "binary": image });
        host.ask("m", "x-whimbrel-update", exec).unwrap();
        let own = u64::from(machine.pid());
        wait("the guardian to serve people", || {
            host.view("m").filter(|view| view["pid"] != own).map(drop)
        });
        host.ok(&[verb, "m"]);
        // By whom the guest was waited for that does not come back.
        assert_eq!(machine.wait_for_end(), None, "{verb}: {}", machine.log());
        assert_eq!(host.state("m"), "gone");
    }
}

#[test]
fn a_program_that_cannot_be_executed_any_more_leaves_the_guest_with_its_guardian() {
    let host = Host::new();
    let mut machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let _ends = Ends(&host, "m");
    let whimbrel = env!("CARGO_BIN_EXE_whimbrel");
    let path = host.folder().join("goes");
    let script = format!("#!/bin/sh\nrm {}\nexec {whimbrel} \"$@\"\n", path.display());
    let binary = program(&host, "goes", script.as_bytes(), 0o700);
    let text = host.fails(
        1,
        &[
            "update",
            "m",
            "--mode",
            "exec",
            "--max-blackout",
            "unlimited",
            "--binary",
            binary.to_str().unwrap(),
        ],
    );
    assert!(text.contains("new image"), "{text}");
    assert_eq!(machine.wait_for_end(), Some(1));
    assert_eq!(host.state("m"), "running");
    machine.check_all();
}

#[test]
fn a_bad_binary_is_found_before_anything_is_executed() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let zero = program(&host, "zero", b"#!/bin/sh\nexit 0\n", 0o700);
    let text = host.fails(
        1,
        &[
            "update",
            "m",
            "--mode",
            "exec",
            "--max-blackout",
            "unlimited",
            "--binary",
            zero.to_str().unwrap(),
        ],
    );
    assert!(text.contains("exit status: 0"), "{text}");
    assert_eq!(pid(&host, "m"), u64::from(machine.pid()));
    machine.check_all();
}

#[test]
fn the_mode_of_qemu_means_the_same() {
    let host = Host::new();
    let machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let set = json!({
        "mode": "cpr-exec",
        "cpr-exec-command": [env!("CARGO_BIN_EXE_whimbrel")],
        "x-whimbrel-downtime-unlimited": true,
    });
    host.ask("m", "migrate-set-parameters", set).unwrap();
    let error = host.ask("m", "migrate", json!({ "uri": "tcp:127.0.0.1:1" })).unwrap_err();
    assert!(error.to_string().contains("nothing goes anywhere"), "{error}");
    host.ask("m", "migrate", json!({})).unwrap();
    host.wait_for_motion("m", "completed");
    assert_eq!(pid(&host, "m"), u64::from(machine.pid()));
    machine.check_all();
    let (destination, to) = host.incoming("n", &[]);
    assert_eq!(host.migrate("m", &to, &[])["status"], "completed");
    destination.check_all();
}

#[test]
fn a_supervisor_is_told_which_process_has_the_machine_before_the_old_one_ends() {
    let mut host = Host::new();
    let socket = host.supervised();
    let said = || told(&socket);
    let mut machine = host.selfcheck("m", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let _ends = Ends(&host, "m");
    assert_eq!(said(), "READY=1\n");
    assert_eq!(update(&host, "m", &["--mode", "transfer"])["status"], "completed");
    machine.wait_for_end();
    // It was sent by then.
    socket.set_nonblocking(true).unwrap();
    assert_eq!(said(), format!("MAINPID={}\nREADY=1\n", pid(&host, "m")));
}

#[test]
fn a_guest_with_a_long_initrd_can_be_reset_afterwards() {
    let host = Host::new();
    let path = |name: &str| host.folder().join(name).to_str().unwrap().to_owned();
    let (kernel, initrd) = (path("kernel"), path("initrd"));
    host.ok(&["guest", "export", "clock", &kernel]);
    // More than travels with a machine's description.
    std::fs::write(&initrd, vec![7; 20 << 20]).unwrap();
    let machine = host.start(
        "m",
        &["--kernel", &kernel, "--initrd", &initrd, "--memory", "64M", "--cmdline", "report=20ms"],
    );
    let _ends = Ends(&host, "m");
    machine.wait_for("CLOCK", |_| true);
    for _ in 0..2 {
        assert_eq!(update(&host, "m", &[])["status"], "completed");
        // They are as they were when the machine began with them.
        let _ = std::fs::remove_file(&kernel);
        let _ = std::fs::remove_file(&initrd);
        let starts = || machine.lines().iter().filter(|line| line.contains("HELLO")).count();
        let before = starts();
        host.ask("m", "system_reset", None).unwrap();
        wait("the guest to boot again", || (starts() > before).then_some(()));
        assert_eq!(host.state("m"), "running");
    }
}
