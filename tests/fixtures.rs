//! Guests that earlier builds have saved go on under this one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use support::{Host, wait};

/// See `fixtures/README.md`.
const V1: &[u8] = include_bytes!("fixtures/selfcheck-v1.sparse");

/// What may be against a guest from another host, and says nothing of this build.
const OTHER_HOST: [&str; 2] = ["incompatible-cpu", "incompatible-tsc"];

fn unpack(mut sparse: &[u8], path: &Path) {
    let mut take = |count: usize| {
        let (taken, rest) = sparse.split_at(count);
        sparse = rest;
        (taken, rest.is_empty())
    };
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let file = File::create_new(path).unwrap();
    file.set_len(number(take(8).0)).unwrap();
    loop {
        let offset = number(take(8).0);
        let length = u32::from_le_bytes(take(4).0.try_into().unwrap());
        let (bytes, is_last) = take(length as usize);
        file.write_all_at(bytes, offset).unwrap();
        if is_last {
            return;
        }
    }
}

#[test]
fn a_guest_that_version_1_saved_goes_on() {
    let host = Host::new();
    let path = host.folder().join("v1.save");
    unpack(V1, &path);
    let file = path.to_str().unwrap();
    let about = host.ok(&["inspect", file]);
    for word in ["save", "format version 1", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "16.0 MiB"] {
        assert!(about.contains(word), "{word}: {about}");
    }
    host.ok(&["inspect", file, "--verify"]);
    host.ok(&["inspect", file, "--state"]);
    let mut machine = host.begin_restore("b", file, &[]);
    let runs = wait("the guest to run or to be refused", || match host.state("b").as_str() {
        "running" => Some(true),
        _ => machine.has_ended().then_some(false),
    });
    if runs {
        return machine.check_all();
    }
    // Its processor is not to be had here: that, and nothing else, must be what is said.
    let said = host.fails(3, &["restore", file, "--name", "c", "--detach", "--json"]);
    let error: Value = serde_json::from_str(&said).unwrap();
    let refusals = error["error"]["refusals"].as_array().unwrap();
    assert!(!refusals.is_empty(), "{said}");
    for refusal in refusals {
        let code = refusal["code"].as_str().unwrap();
        assert!(OTHER_HOST.contains(&code), "{said}");
    }
    eprintln!(
        "this host cannot give the guest its processor: it was looked at and refused, not run"
    );
}
