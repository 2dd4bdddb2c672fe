//! What cannot be done is refused with what was wrong, what it was done to, and what to try.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::Host;

/// Requires that a command fails with this status, and says all of these words.
fn says(host: &Host, status: i32, arguments: &[&str], words: &[&str]) {
    let said = host.fails(status, arguments);
    for word in words {
        assert!(said.contains(word), "whimbrel {arguments:?} does not say `{word}`:\n{said}");
    }
}

#[test]
fn wrong_usage_has_a_status_of_its_own() {
    let host = Host::new();
    for (arguments, word) in [
        (&["run"][..], "nothing to run"),
        (&["run", "--guest", "nope"], "workload, selfcheck and clock"),
        (&["run", "--guest", "clock", "--cmdline", "colour=red"], "no parameter `colour=red`"),
        (&["run", "--guest", "clock", "--cmdline", "report=soon"], "whimbrel guest list"),
        (&["run", "--guest", "clock", "--cpus", "65"], "1..=64"),
        (&["run", "--guest", "clock", "--memory", "much"], "64M, 2G"),
        (&["run", "--incoming", "tcp:1"], "tcp:HOST:PORT"),
        (&["migrate", "a", "nowhere"], "must start with"),
        (&["status"], "<NAME>"),
        (&["--log", "=!=", "list"], "no log level"),
        (&["fly"], "unrecognized subcommand"),
    ] {
        says(&host, 2, arguments, &[word]);
    }
}

#[test]
fn a_kernel_that_is_none_is_refused_by_name() {
    let host = Host::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = host.folder().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let elf = host.folder().join("clock.elf");
    let elf = elf.to_str().unwrap();
    host.ok(&["guest", "export", "clock", elf]);
    let image = std::fs::read(elf).unwrap();
    let empty = file("empty", b"");
    let text = file("text", "#!/bin/sh\n".repeat(200).as_bytes());
    let short = file("short", &image[..image.len() / 2]);
    let folder = host.folder().to_str().unwrap().to_owned();
    for (kernel, word) in [
        ("/nonexistent/vmlinuz", "No such file"),
        (folder.as_str(), "directory"),
        (empty.as_str(), "empty"),
        (text.as_str(), "neither an ELF file nor a bzImage"),
        (short.as_str(), "short"),
    ] {
        says(&host, 1, &["run", "--console", "off", "--kernel", kernel], &[kernel, word]);
    }
    let run = ["run", "--console", "off", "--kernel", elf];
    let initrd = ["--initrd", "/nonexistent/initrd"];
    says(&host, 1, &[&run[..], &initrd].concat(), &["/nonexistent/initrd"]);
}

#[test]
fn memory_that_cannot_be_had_is_refused_with_what_to_do() {
    let host = Host::new();
    let run = ["run", "--guest", "clock", "--console", "off", "--memory"];
    says(&host, 1, &[&run[..], &["4M"]].concat(), &["16 MiB"]);
    says(&host, 1, &[&run[..], &["100T"]].concat(), &["this host has", "--overcommit"]);
    let huge = [&run[..], &["8T", "--overcommit", "--hugepages", "2M"]].concat();
    says(&host, 1, &huge, &["huge pages", "vm.nr_hugepages"]);
}

#[test]
fn a_console_that_cannot_be_opened_is_refused_by_name() {
    let host = Host::new();
    for place in ["file:/nonexistent/c", "unix:/nonexistent/c"] {
        let run = ["run", "--console", place];
        says(&host, 1, &[&run[..], &["--guest", "clock"]].concat(), &[place]);
        says(&host, 1, &[&run[..], &["--incoming", "defer"]].concat(), &[place]);
    }
}

#[test]
fn a_place_to_wait_that_cannot_be_had_is_refused_by_name() {
    let host = Host::new();
    let run = ["run", "--console", "off", "--incoming"];
    let place = "unix:/nonexistent/in";
    says(&host, 1, &[&run[..], &[place]].concat(), &[place, "create it"]);
    says(&host, 2, &[&run[..], &["fd:none"]].concat(), &["`none`"]);
    says(&host, 1, &[&run[..], &["file:x"]].concat(), &["restore x: opening"]);
    // Free in the tests' range, and taken by this test.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!("tcp:{}", taken.local_addr().unwrap());
    says(&host, 1, &[&run[..], &[&place]].concat(), &[&place, "somebody listens there"]);
}

#[test]
fn what_leaves_the_host_needs_a_word_on_both_sides() {
    let host = Host::new();
    let run = ["run", "--console", "off", "--incoming", "tcp:0.0.0.0:0"];
    says(&host, 2, &run, &["tcp:0.0.0.0:0", "--insecure"]);
    let (_waits, _) = host.incoming("b", &[]);
    let _source = host.start("a", &["--guest", "clock", "--memory", "32M"]);
    host.wait_for_state("a", "running");
    says(&host, 2, &["migrate", "a", "tcp:192.0.2.1:4444"], &["192.0.2.1", "--insecure"]);
    let started = host.ok(&[&run[..], &["--insecure", "--detach", "--name", "c"]].concat());
    assert!(started.contains("tcp:0.0.0.0:"), "{started}");
    host.ok(&["kill", "c"]);
}

#[test]
fn commands_that_do_not_fit_the_state_say_which_would() {
    let host = Host::new();
    let (_waits, to) = host.incoming("b", &[]);
    for verb in ["pause", "resume", "shutdown"] {
        says(&host, 1, &[verb, "b"], &["waits for a guest"]);
    }
    says(&host, 1, &["migrate", "b", &to], &["waits for a guest"]);
    let second = host.qmp("b", "migrate-incoming", r#"{"uri": "tcp:127.0.0.1:0"}"#);
    assert!(String::from_utf8_lossy(&second.stderr).contains("already"), "{second:?}");
    let _source = host.start("a", &["--guest", "clock", "--memory", "32M"]);
    host.wait_for_state("a", "running");
    let incoming = host.qmp("a", "migrate-incoming", r#"{"uri": "tcp:127.0.0.1:0"}"#);
    assert!(
        String::from_utf8_lossy(&incoming.stderr).contains("has a guest already"),
        "{incoming:?}"
    );
    host.migrate("a", &to, &[]);
    says(&host, 1, &["resume", "a"], &["has moved to", "127.0.0.1"]);
    says(&host, 1, &["migrate", "a", &to], &["has moved to"]);
    let token = "0".repeat(32);
    says(
        &host,
        1,
        &["handover", "resolve", "a", &token, "--owner", "here", "--fenced"],
        &["has no handover", "whimbrel handover query a"],
    );
    says(&host, 1, &["handover", "query", "a", &token], &[&token]);
    says(&host, 2, &["handover", "query", "a", "x"], &["32 hexadecimal digits"]);
}

/// Runs `whimbrel run` where `/dev` was made by this script.
fn with_dev(host: &Host, script: &str) -> String {
    let run = ["run", "--guest", "clock", "--console", "off"];
    let output = host.within(&format!("{script}\nexec \"$@\""), &run).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[test]
fn where_there_is_no_kvm_it_says_exactly_what_to_do() {
    let host = Host::new();
    let said = with_dev(&host, "mount -t tmpfs none /dev");
    assert!(said.contains("/dev/kvm does not exist") && said.contains("modprobe"), "{said}");
    let said = with_dev(&host, "mount -t tmpfs -o nodev none /dev; mknod /dev/kvm c 10 232");
    assert!(said.contains("may not be opened") && said.contains("usermod -aG kvm"), "{said}");
}

#[test]
fn errors_for_scripts_are_one_object_with_the_code() {
    let host = Host::new();
    let said = host.fails(1, &["status", "nobody", "--json"]);
    let error: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(error["error"]["code"], "no-such-machine");
    assert!(error["error"]["message"].as_str().unwrap().contains("nobody"));
}
