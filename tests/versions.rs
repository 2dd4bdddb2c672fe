//! Updates to a later version and back, and to an earlier one and back. Only with the feature `mutate`: the
//! program is another version where its file is called so (`vmm::mutate`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use qmp::Client;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use support::{Host, Machine, PATIENCE, wait};

const MODES: [&str; 2] = ["transfer", "exec"];
/// However busy the host is: no promise is tested here.
const UPDATE: [&str; 4] = ["update", "m", "--max-blackout", "unlimited"];
const SHAPE: [&str; 6] = ["--memory", "64M", "--cpus", "2", "--cmdline", "ws=16M rate=2000"];

/// A machine, and the versions of the program.
struct Stage {
    machine: Machine,
    host: Host,
}

/// The program by another name, which makes it another version.
fn program(host: &Host, name: &str) -> PathBuf {
    let (whimbrel, path) = (env!("CARGO_BIN_EXE_whimbrel"), host.folder().join(name));
    if !path.exists() {
        // A folder for what does not last may be on another file system.
        let linked = std::fs::hard_link(whimbrel, &path);
        linked.or_else(|_| std::fs::copy(whimbrel, &path).map(drop)).unwrap();
    }
    path
}

/// A text as if it had been shown on one line.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Stage {
    fn set() -> Self {
        let host = Host::new();
        let machine = host.selfcheck("m", &SHAPE);
        Self { machine, host }
    }

    fn program(&self, name: &str) -> PathBuf {
        program(&self.host, name)
    }

    fn pid(&self) -> u64 {
        self.host.view("m").unwrap()["pid"].as_u64().unwrap()
    }

    /// Updates to this version, and requires that the guest is whole and that the report names both.
    fn goes_to(&self, name: &str, mode: &str, from: &str, to: &str) {
        let before = self.pid();
        let binary = self.program(name);
        let arguments = ["--json", "--mode", mode, "--binary", binary.to_str().unwrap()];
        let text = self.host.ok(&[&UPDATE[..], &arguments[..]].concat());
        let report: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(report["status"], "completed", "{report:#}");
        assert_eq!(report["update"]["from"], from, "{report:#}");
        assert_eq!(report["update"]["to"], to, "{report:#}");
        let shown = words(&self.host.ok(&["status", "m"]));
        assert!(shown.contains(&format!("runs in {to}, before in {from}")), "{shown}");
        assert_eq!(self.pid() == before, mode == "exec");
        assert_eq!(self.host.state("m"), "running");
        self.machine.check_all();
        assert!(self.machine.faults().is_empty(), "{:#?}", self.machine.faults());
    }

    /// Is refused by this version, in words that name field and version, before the guest was stopped.
    fn is_refused_by(&self, name: &str, mode: &str) {
        let before = self.pid();
        let binary = self.program(name);
        let arguments = ["--mode", mode, "--binary", binary.to_str().unwrap()];
        for more in [&[][..], &["--check"]] {
            let text = self.host.fails(3, &[&UPDATE[..], &arguments[..], more].concat());
            let reason = "whimbrel.acpi-pm: it comes as version 2 with `wake-mask` in use, for \
                          readers of 2 or later, and this build reads 1";
            assert!(words(&text).contains(reason), "{text}");
        }
        let report = &self.host.motion("m")["x-whimbrel-report"];
        assert!(report.is_object() && report["blackout"].is_null(), "{report:#}");
        assert_eq!((self.pid(), self.host.state("m")), (before, "running".to_owned()));
        self.machine.check_all();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Whichever process has it by now.
        self.host.run(&["kill", "--force", "m"]);
    }
}

const TODAY: &str = concat!("whimbrel ", env!("CARGO_PKG_VERSION"));
const NEXT: &str = concat!("whimbrel ", env!("CARGO_PKG_VERSION"), "-next");
const PREVIOUS: &str = concat!("whimbrel ", env!("CARGO_PKG_VERSION"), "-previous");

#[test]
fn a_guest_goes_to_a_version_with_a_field_more_and_back() {
    let stage = Stage::set();
    for mode in MODES {
        stage.goes_to("whimbrel-next", mode, TODAY, NEXT);
        stage.goes_to("whimbrel-next", mode, NEXT, NEXT);
        stage.goes_to("whimbrel", mode, NEXT, TODAY);
    }
    assert!(stage.machine.log().contains("whimbrel-test-hook: this is Next"));
}

#[test]
fn a_guest_goes_to_a_version_with_a_field_less_and_back() {
    let stage = Stage::set();
    for mode in MODES {
        stage.goes_to("whimbrel-previous", mode, TODAY, PREVIOUS);
        stage.goes_to("whimbrel", mode, PREVIOUS, TODAY);
    }
    assert!(stage.machine.log().contains("whimbrel-test-hook: this is Previous"));
}

#[test]
fn a_guest_that_uses_what_an_older_version_does_not_know_stays_and_goes_on() {
    let stage = Stage::set();
    stage.goes_to("whimbrel-next-in-use", "transfer", TODAY, NEXT);
    for mode in MODES {
        stage.is_refused_by("whimbrel", mode);
        stage.is_refused_by("whimbrel-previous", mode);
        // What it uses goes along to where it is known.
        stage.goes_to("whimbrel-next", mode, NEXT, NEXT);
    }
    stage.is_refused_by("whimbrel", "transfer");
}

/// A program that is one version when it is rehearsed, and another when it is executed.
fn swapped(stage: &Stage, rehearsed: &str, executed: &str) -> PathBuf {
    let (path, seen) = (stage.host.folder().join("image"), stage.host.folder().join("seen"));
    let (first, then) = (stage.program(rehearsed), stage.program(executed));
    let (first, then, seen) = (first.display(), then.display(), seen.display());
    let script = format!(
        "#!/bin/sh\nif [ -e {seen} ]; then exec {then} \"$@\"; fi\ntouch {seen}\nexec {first} \"$@\"\n"
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

fn an_image_that_refuses_becomes_the_old_program(is_replaced: bool) {
    let mut host = Host::new();
    let own = program(&host, "whimbrel-next-in-use");
    host.runs(&own);
    let machine = host.selfcheck("m", &SHAPE);
    host.runs(Path::new(env!("CARGO_BIN_EXE_whimbrel")));
    let mut stage = Stage { machine, host };
    if is_replaced {
        std::fs::remove_file(&own).unwrap();
        std::fs::write(&own, "no program").unwrap();
    }
    let mut client = Client::connect(&stage.host.folder().join("m.sock")).unwrap();
    let image = swapped(&stage, "whimbrel-next", "whimbrel");
    let binary = image.to_str().unwrap();
    // The one that is executed does not know what the guest uses.
    let arguments = ["--mode", "exec", "--binary", binary];
    let text = stage.host.fails(3, &[&UPDATE[..], &arguments[..]].concat());
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for reason in ["does not take the machine back", "`wake-mask` in use", "the old program again"]
    {
        assert!(words.contains(reason), "{text}");
    }
    let motion = stage.host.motion("m");
    assert_eq!(motion["status"], "failed", "{motion:#}");
    assert_eq!(motion["x-whimbrel-error-code"], "incompatible-device", "{motion:#}");
    let pid = u64::from(stage.machine.pid());
    assert!(!stage.machine.has_ended());
    assert_eq!((stage.pid(), stage.host.machines().len()), (pid, 1));
    let runs = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap().display().to_string();
    assert!(runs.starts_with(own.to_str().unwrap()), "{runs}");
    assert_eq!(runs.ends_with(" (deleted)"), is_replaced, "{runs}");
    let status = client.execute("query-status", None, Some(PATIENCE)).unwrap();
    assert_eq!(status["status"], "running");
    stage.machine.check_all();
    assert!(stage.machine.faults().is_empty(), "{:#?}", stage.machine.faults());
    wait("the guardian to be gone", || {
        let children = format!("/proc/{pid}/task/{pid}/children");
        std::fs::read_to_string(children).unwrap().trim().is_empty().then_some(())
    });
    // It can be asked again, and this time knows what it is asked for.
    stage.goes_to("whimbrel-next", "exec", NEXT, NEXT);
}

#[test]
fn an_image_that_refuses_becomes_the_program_again_that_the_process_was() {
    an_image_that_refuses_becomes_the_old_program(false);
}

#[test]
fn an_image_that_refuses_becomes_a_program_again_whose_file_was_replaced() {
    an_image_that_refuses_becomes_the_old_program(true);
}
