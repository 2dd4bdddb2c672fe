//! `whimbrel handover`

use crate::exit::{Exit, code_of};
use crate::machine::Machine;
use crate::output::{print_json, print_line, table};
use clap::{Subcommand, ValueEnum};
use monitor::{MachineName, RuntimeDir, on_record};
use motion::handover::GONE;
use qmp::command::{Command, HandoverResolve, Owner};
use qmp::reply::{HandoverInfo, HandoverSide};
use state::Code;

/// Find out, and decide, which side of a move owns a guest
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  whimbrel handover query web\n  whimbrel handover resolve web \
                        TOKEN --owner here --fenced"
)]
pub struct Handover {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the handovers that a machine has on record
    Query(Query),
    /// Decide a handover that nobody answers for
    Resolve(Resolve),
}

#[derive(Debug, clap::Args)]
struct Query {
    /// Which machine; without it, all that is on record here, of dead machines too
    name: Option<MachineName>,
    /// Only this handover
    token: Option<String>,
    /// One JSON object per handover and line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "--fenced is your word that the other side can no longer run the guest: its \
                        host is powered off, or its process is gone for good. If it is not so, two \
                        copies of the guest will run."
)]
struct Resolve {
    /// Which machine
    name: MachineName,
    /// Which handover
    token: String,
    /// Who is to own the guest
    #[arg(long, value_enum)]
    owner: Side,
    /// The other side can no longer run the guest
    #[arg(long)]
    fenced: bool,
    /// Answer with a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Side {
    /// This machine
    Here,
    /// The one at the other end
    Peer,
}

impl Handover {
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.action {
            Action::Query(query) => query.run(),
            Action::Resolve(resolve) => resolve.run(),
        }
    }

    pub fn wants_json(&self) -> bool {
        match &self.action {
            Action::Query(query) => query.json,
            Action::Resolve(resolve) => resolve.json,
        }
    }
}

impl Query {
    fn run(self) -> anyhow::Result<Exit> {
        let handovers = match &self.name {
            Some(name) => Machine::find(name)?.handovers(self.token)?,
            None => all_known(&RuntimeDir::from_environment()?)?,
        };
        if self.json {
            for handover in &handovers {
                print_json(handover)?;
            }
            return Ok(Exit::Done);
        }
        let head =
            ["TOKEN", "MACHINE", "SIDE", "STATE", "OWNER", "PEER"].map(String::from).to_vec();
        let rows: Vec<_> = std::iter::once(head).chain(handovers.iter().map(cells)).collect();
        for line in table(&rows) {
            print_line(&line);
        }
        Ok(Exit::Done)
    }
}

/// All that is on record, and where those stand that a process which lives takes part in, or speaks about: that is
/// known to it alone.
fn all_known(runtime: &RuntimeDir) -> anyhow::Result<Vec<HandoverInfo>> {
    let mut handovers = on_record(&runtime.handovers()?)?;
    for name in runtime.names()? {
        let said = Machine::find_in(runtime, &name).and_then(|mut machine| machine.handovers(None));
        match said {
            Ok(said) => said.into_iter().for_each(|known| add(&mut handovers, known)),
            // It has ended meanwhile.
            Err(error) if code_of(&error) == Some(Code::NoSuchMachine) => {}
            // One that hangs must not hide the others.
            Err(error) => {
                eprintln!("whimbrel: `{name}` is not asked about its handovers: {error:#}");
            }
        }
    }
    Ok(handovers)
}

/// Adds what a machine says. It knows the phase of its own, and of those it speaks about for a dead process; of all
/// others it says what is on record.
fn add(handovers: &mut Vec<HandoverInfo>, known: HandoverInfo) {
    let Some(phase) = known.phase.as_deref() else { return };
    match handovers.iter_mut().find(|of| of.token == known.token && of.side == known.side) {
        Some(of) if of.phase.is_none() || phase != GONE => *of = known,
        Some(_) => {}
        None => handovers.push(known),
    }
}

fn cells(handover: &HandoverInfo) -> Vec<String> {
    let side = match handover.side {
        HandoverSide::Source => "source",
        HandoverSide::Destination => "destination",
    };
    let owner = match handover.owner {
        Some(Owner::Here) => "here",
        Some(Owner::Peer) => "peer",
        None => "-",
    };
    vec![
        handover.token.clone(),
        handover.machine.clone().unwrap_or_else(|| "-".into()),
        side.to_owned(),
        state(handover),
        owner.to_owned(),
        handover.peer.clone().unwrap_or_else(|| "-".into()),
    ]
}

/// Where it is, as far as that is known, and what is on record of one whose process is dead.
fn state(handover: &HandoverInfo) -> String {
    let mut state = match handover.phase.as_deref() {
        Some(phase) if phase == handover.state => phase.to_owned(),
        Some(GONE) => format!("gone, {}", handover.state),
        Some(phase) => phase.to_owned(),
        None => handover.state.clone(),
    };
    if handover.undecided && state != "undecided" {
        state.push_str(" (undecided)");
    }
    state
}

impl Resolve {
    fn run(self) -> anyhow::Result<Exit> {
        let owner = match self.owner {
            Side::Here => Owner::Here,
            Side::Peer => Owner::Peer,
        };
        let arguments = HandoverResolve { token: self.token, owner, fenced: self.fenced };
        let answer = Machine::find(&self.name)?.run(&Command::HandoverResolve(arguments))?;
        if self.json {
            print_json(&answer)?;
        }
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn handover(state: &str, phase: Option<&str>) -> HandoverInfo {
        let since = json!({ "seconds": 1, "microseconds": 0 });
        let all = json!({ "token": "t", "side": "source", "state": state, "phase": phase, "undecided": false,
                          "since": since });
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn who_lives_knows_better_than_the_record_and_than_who_thinks_it_dead() {
        let mut all = vec![handover("open", None)];
        let phase = |all: &[HandoverInfo]| (all.len(), all[0].phase.clone());
        add(&mut all, handover("refused", None));
        assert_eq!((phase(&all), &*all[0].state), ((1, None), "open"));
        for (said, shown) in [(GONE, GONE), ("released", "released"), (GONE, "released")] {
            add(&mut all, handover("open", Some(said)));
            assert_eq!(phase(&all), (1, Some(shown.to_owned())));
        }
        let mut none = Vec::new();
        add(&mut none, handover("offered", Some("offered")));
        assert_eq!(phase(&none), (1, Some("offered".to_owned())));
    }
}
