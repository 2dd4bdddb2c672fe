//! RAM in pages of 1 GiB, in real processes. The host has to have one free.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{Host, Machine, wait};

fn save(host: &Host, machine: &mut Machine) -> String {
    let file = host.folder().join("a.save").to_str().unwrap().to_owned();
    host.ok(&["save", &machine.name, &file, "--force"]);
    assert_eq!(machine.wait_for_end(), Some(0));
    file
}

#[test]
fn a_guest_goes_on_in_a_page_of_a_gibibyte_and_out_of_one() {
    let host = Host::new();
    let how = |name: &str| host.motion(name)["x-whimbrel-report"]["restore"].clone();
    let mut machine = host.selfcheck("a", &["--memory", "1G", "--cmdline", "ws=16M rate=5000"]);
    let file = save(&host, &mut machine);
    let mut machine = host.restore("a", &file, &["--hugepages", "1G"]);
    assert_eq!(how("a")["how"], "eager");
    machine.check_all();
    let file = save(&host, &mut machine);
    let mut machine = host.restore("a", &file, &["--lazy"]);
    wait("RAM to be full", || (how("a")["fill_ns"].as_u64() > Some(0)).then_some(()));
    assert_eq!(how("a")["how"], "lazy");
    machine.check_all();
    let file = save(&host, &mut machine);
    host.restore("a", &file, &["--hugepages", "off"]).check_all();
}

#[test]
fn a_guest_moves_into_a_page_of_a_gibibyte() {
    let host = Host::new();
    let from = host.selfcheck("from", &["--memory", "1G", "--cmdline", "ws=16M rate=5000"]);
    let (to, address) = host.incoming("to", &["--hugepages", "1G"]);
    assert_eq!(host.migrate("from", &address, &[])["status"], "completed");
    to.check_all();
    drop(from);
}
