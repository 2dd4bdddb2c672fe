//! Somebody who is connected to a machine's control socket all the time, asks without end, and listens.

use crate::support::PATIENCE;
use qmp::Client;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The client library of QEMU's users, driven by this script.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/qmp_client.py");
/// The interpreter that has the library, where it was installed (`cargo xtask`).
const INTERPRETER: &str = "WHIMBREL_QMP_PYTHON";

/// A client at work.
pub enum Witness {
    /// The one that QEMU's users have.
    Theirs(Child, BufReader<ChildStdout>),
    /// Our own.
    Ours(Arc<AtomicBool>, JoinHandle<Testimony>),
}

/// What it saw.
#[derive(Debug, Default)]
pub struct Testimony {
    /// How often it was answered: as often as it asked.
    pub answers: u64,
    /// All that it was told, in that order.
    pub events: Vec<Told>,
}

/// One event: its name, and what process it speaks of.
pub type Told = (String, Option<u64>);

impl Witness {
    /// Connects.
    pub fn listen(socket: &Path) -> Self {
        match std::env::var_os(INTERPRETER) {
            Some(python) => {
                let mut child = Command::new(python)
                    .args([Path::new(SCRIPT), socket])
                    .arg("--listen")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut said = BufReader::new(child.stdout.take().unwrap());
                let mut first = String::new();
                said.read_line(&mut first).unwrap();
                assert_eq!(first, "listening\n");
                println!("a client of qemu.qmp listens");
                Self::Theirs(child, said)
            }
            None => {
                let done = Arc::new(AtomicBool::new(false));
                let (client, is_done) = (Client::connect(socket).unwrap(), done.clone());
                Self::Ours(done, thread::spawn(move || ask(client, &is_done)))
            }
        }
    }

    /// Lets it hear whatever was said by now, and ends it.
    pub fn end(self) -> Testimony {
        match self {
            Self::Ours(done, thread) => {
                done.store(true, Ordering::Relaxed);
                thread.join().unwrap()
            }
            Self::Theirs(mut child, mut said) => {
                drop(child.stdin.take());
                let mut line = String::new();
                said.read_line(&mut line).unwrap();
                assert!(child.wait().unwrap().success(), "the client failed");
                let told: Value = serde_json::from_str(&line).unwrap();
                let events = told["events"].as_array().unwrap();
                Testimony {
                    answers: told["answers"].as_u64().unwrap(),
                    events: events
                        .iter()
                        .map(|event| {
                            let name = event["event"].as_str().unwrap().to_owned();
                            (name, event["data"]["pid"].as_u64())
                        })
                        .collect(),
                }
            }
        }
    }
}

fn ask(mut client: Client, is_done: &AtomicBool) -> Testimony {
    let mut seen = Testimony::default();
    while !is_done.load(Ordering::Relaxed) {
        let status = client.execute("query-status", None, Some(PATIENCE)).unwrap();
        assert!(status["status"] == "running" || status["status"] == "paused", "{status}");
        seen.answers += 1;
        seen.hear(&mut client, Duration::from_millis(1));
    }
    // Whatever was said before this answer has come with it.
    client.execute("query-name", None, Some(PATIENCE)).unwrap();
    seen.hear(&mut client, Duration::from_millis(100));
    seen
}

impl Testimony {
    fn hear(&mut self, client: &mut Client, time: Duration) {
        while let Some(event) = client.next_event(Some(time)).unwrap() {
            self.events.push((event.event, event.data["pid"].as_u64()));
        }
    }
}
