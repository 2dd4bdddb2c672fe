//! The engine is made to lose or damage one thing, and the guest has to notice: what the other tests
//! mean when they say that nothing was lost. Only with the feature `mutate`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{Host, huge_pages, transparent_huge_pages, wait};

/// Moves a guest with one mutation, and requires that it reports a fault of one of these kinds.
fn is_noticed(mutation: &'static str, kinds: &[&str]) {
    assert!(huge_pages(256), "no huge pages are to be had for this test");
    assert!(transparent_huge_pages(), "shared memory may have no transparent huge pages here");
    let backings = ["off", "2M", "thp"];
    for (cpus, backing) in backings.iter().flat_map(|b| ["1", "2", "8"].map(|cpus| (cpus, *b))) {
        let host = Host::with_mutation(mutation);
        // Pages that are rewritten fast enough for some to be written while the passes go on.
        let shape = ["--memory", "128M", "--cpus", cpus, "--hugepages", backing];
        let guest = ["--cmdline", "ws=24M rate=8000"];
        let source = host.selfcheck("a", &[&shape[..], &guest[..]].concat());
        let (destination, to) = host.incoming("b", &[]);
        // Slow enough for the guest to write pages that were sent; and damage takes its time.
        let more = ["--max-bandwidth", "60M", "--max-blackout", "unlimited"];
        let report = host.migrate("a", &to, &more);
        assert_eq!(report["status"], "completed", "{mutation}, {cpus} vCPUs: {report:#}");
        let said = format!("{}{}", source.log(), destination.log());
        assert!(said.contains("whimbrel-test-hook:"), "{mutation} was not applied:\n{said}");
        wait(&format!("{mutation} to be noticed by {cpus} vCPUs on {backing} pages"), || {
            let _ = destination.full_check();
            let faults = destination.faults();
            let noticed =
                |fault: &String| kinds.iter().any(|k| fault.contains(&format!("kind={k} ")));
            faults.iter().any(noticed).then_some(())
        });
    }
}

#[test]
fn a_dropped_page_is_noticed() {
    is_noticed("drop-page", &["zero", "dirty", "stale", "image", "record"]);
}

#[test]
fn an_old_version_of_a_page_is_noticed() {
    is_noticed("old-version", &["stale", "dirty", "zero", "record"]);
}

#[test]
fn two_swapped_pages_are_noticed() {
    is_noticed("swap-pages", &["misplaced"]);
}

#[test]
fn a_torn_page_is_noticed() {
    is_noticed("tear-page", &["torn", "record"]);
}

#[test]
fn a_forgotten_dirty_bit_is_noticed() {
    is_noticed("forget-dirty", &["stale", "zero", "dirty", "record", "torn"]);
}

#[test]
fn a_replayed_msr_is_noticed() {
    is_noticed("replay-msr", &["msr"]);
}
