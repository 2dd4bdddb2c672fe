//! `docs/qmp.md` names whatever there is.
#![allow(clippy::unwrap_used, reason = "clippy knows tests only by their attribute")]

mod machine;

use machine::Pretender;
use qmp::command::{Capability, Parameters};
use qmp::{Client, Limits};
use serde_json::{Value, json};

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/qmp.md");
    std::fs::read_to_string(path).unwrap()
}

fn assert_named(names: impl IntoIterator<Item = String>) {
    let document = document();
    let missing: Vec<_> =
        names.into_iter().filter(|name| !document.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/qmp.md does not name {missing:?}");
}

#[test]
fn every_command_is_documented() {
    let pretender = Pretender::new();
    let mut client = Client::connect(&pretender.path).unwrap();
    let commands = client.execute("query-commands", None, None).unwrap();
    let commands: Vec<Value> = serde_json::from_value(commands).unwrap();
    assert!(!commands.is_empty());
    assert_named(commands.iter().map(|command| command["name"].as_str().unwrap().to_owned()));
}

#[test]
fn every_capability_is_documented() {
    assert_named(Capability::ALL.iter().map(|capability| capability.name().to_owned()));
}

#[test]
fn every_parameter_is_documented_with_its_default() {
    let Value::Object(parameters) = json!(Parameters::default()) else { unreachable!() };
    let document = document();
    for (name, default) in parameters {
        let row = format!("| `{name}` | {default} |");
        assert!(document.contains(&row), "docs/qmp.md has no row `{row}`");
    }
}

#[test]
fn every_limit_is_documented() {
    let limits = Limits::default();
    let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
    let document = document();
    for (what, value) in [
        ("clients at once", limits.clients.to_string()),
        ("length of a command", mib(limits.line)),
        (
            "commands of one client",
            format!("{}, or {}", limits.in_flight, mib(limits.in_flight_bytes)),
        ),
        ("answers that a client", format!("{} KiB", limits.unread_answers >> 10)),
        ("answers and events", mib(limits.unread)),
        ("descriptors sent at once", limits.unclaimed_descriptors.to_string()),
        ("descriptors named", limits.named_descriptors.to_string()),
        ("at the end of the machine", format!("has {} s", limits.running_grace.as_secs())),
    ] {
        let row = document.lines().find(|line| line.starts_with(&format!("| {what}")));
        let row = row.unwrap_or_else(|| panic!("docs/qmp.md has no limit `{what}`"));
        assert!(row.contains(&value), "{row}: not {value}");
    }
}
