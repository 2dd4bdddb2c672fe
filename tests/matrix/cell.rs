//! One cell of the table: something goes wrong, and what the table says becomes of the guest.

use crate::stage::Stage;
use crate::support::wait;
use crate::table::{Fault, Outcome, Phase};
use qmp::ClientError;
use serde_json::{Value, json};
use state::Code;
use std::thread;

/// How a handover that nobody else decides is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// By an operator: the guest is to run here.
    Here,
    /// By an operator: it is the other side's, or nobody's.
    Peer,
    /// By the word of a dead source, which the next process on its host passes on.
    Word,
}

/// One cell, and how it is resolved where it has to be.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub phase: Phase,
    pub fault: Fault,
    pub outcome: Outcome,
    pub resolution: Option<Resolution>,
}

impl Cell {
    /// Plays it. Panics when anything is not as the table says.
    pub fn play(self) {
        let mut stage = Stage::set(self.phase, self.fault);
        self.strike(&mut stage);
        match self.outcome {
            Outcome::Lost => self.is_lost(&mut stage),
            Outcome::Source | Outcome::HeldThenSource | Outcome::UndecidedThenSource => {
                self.is_at_the_source(&mut stage);
            }
            Outcome::Destination | Outcome::UndecidedThenDestination | Outcome::TooLate => {
                self.is_at_the_destination(&mut stage);
            }
            Outcome::Held => self.is_held(&mut stage),
            Outcome::Undecided => self.is_undecided(&mut stage),
        }
    }

    /// Lets it go wrong, and ends what lasts.
    fn strike(self, stage: &mut Stage) {
        match self.fault {
            Fault::SourceKilled => {
                stage.a.kill();
                lose_what_is_on_the_way(stage);
            }
            Fault::DestinationKilled => {
                stage.b.kill();
                lose_what_is_on_the_way(stage);
            }
            Fault::SourceFrozen => {
                stage.a.freeze();
                stage.link.heal();
                thread::sleep(stage.patience * 3 / 2);
                stage.wait_for_destination();
                self.meanwhile(stage);
                stage.a.thaw();
            }
            Fault::DestinationFrozen => {
                stage.b.freeze();
                stage.link.heal();
                thread::sleep(stage.patience * 3 / 2);
                // A destination that builds a machine may be silent for longer.
                if self.phase != Phase::Greeting {
                    stage.wait_for_source();
                }
                self.meanwhile(stage);
                stage.b.thaw();
            }
            Fault::LinkCut | Fault::LinkStalled => {
                if self.fault == Fault::LinkCut {
                    stage.link.cut();
                } else {
                    stage.link.stall();
                }
                // The same holds here.
                if (self.phase, self.fault) != (Phase::Description, Fault::LinkStalled) {
                    stage.wait_for_source();
                }
                stage.wait_for_destination();
                self.meanwhile(stage);
                stage.link.heal();
            }
            Fault::Cancelled => {
                let answer = stage.host.ask("a", "migrate_cancel", None);
                let too_late = code(&answer) == Some(Code::TooLate);
                assert_eq!(too_late, self.outcome == Outcome::TooLate, "cancel: {answer:?}");
                assert!(too_late || answer.is_ok(), "cancel: {answer:?}");
                stage.link.heal();
            }
        }
    }

    /// What the table says of the time while the fault lasts.
    fn meanwhile(self, stage: &Stage) {
        let waits = match self.outcome {
            Outcome::HeldThenSource => Some("b"),
            Outcome::UndecidedThenSource | Outcome::UndecidedThenDestination => Some("a"),
            _ => None,
        };
        if let Some(name) = waits {
            wait("one side to wait for the other", || stage.undecided(name));
            assert!(!stage.runs(name), "{name} runs what may not be its own");
        }
        // Who is frozen cannot be asked, and does not run either.
        if !matches!(self.fault, Fault::SourceFrozen | Fault::DestinationFrozen) {
            assert!(stage.running().len() <= 1, "{:?} run", stage.running());
        }
    }

    fn is_lost(self, stage: &mut Stage) {
        self.destination_gives_up(stage);
        assert!(stage.running().is_empty());
    }

    /// A destination to which nobody has come yet waits on; any other ends, saying so.
    fn destination_gives_up(self, stage: &mut Stage) {
        if self.phase == Phase::Greeting {
            wait("the source to be turned away", || {
                stage.b.log().contains("a source went away").then_some(())
            });
            assert_eq!(stage.host.view("b").unwrap()["status"], "inmigrate");
        } else {
            // Before the handover begins it hears why.
            let told = self.fault == Fault::Cancelled
                && matches!(self.phase, Phase::Description | Phase::Passes);
            assert_eq!(stage.b.wait_for_end(), Some(if told { 4 } else { 1 }));
        }
    }

    fn is_at_the_source(self, stage: &mut Stage) {
        let ended = if self.fault == Fault::Cancelled { "cancelled" } else { "failed" };
        wait("the motion to have ended", || (stage.motion() == ended).then_some(()));
        if self.fault != Fault::DestinationKilled {
            self.destination_gives_up(stage);
        }
        goes_on(stage, "a", "a");
    }

    fn is_at_the_destination(self, stage: &mut Stage) {
        if self.fault != Fault::SourceKilled {
            wait("the motion to be completed", || (stage.motion() == "completed").then_some(()));
            assert_eq!(stage.host.view("a").unwrap()["status"], "postmigrate");
            let answer = stage.host.ask("a", "cont", None);
            assert_eq!(code(&answer), Some(Code::NotOwner), "cont: {answer:?}");
        }
        goes_on(stage, "b", "ab");
    }

    /// The source is dead, and the destination has a complete copy.
    fn is_held(self, stage: &mut Stage) {
        let token = wait("the destination to hold the guest", || stage.undecided("b"));
        assert!(stage.running().is_empty());
        let answer = stage.host.ask("b", "cont", None);
        assert!(answer.is_err(), "cont: {answer:?}");
        match self.resolution {
            Some(Resolution::Word) => {
                let (_next, _) = stage.host.incoming("next", &[]);
                goes_on(stage, "b", "ab");
            }
            Some(Resolution::Here) => {
                resolve(stage, "b", &token, "here");
                goes_on(stage, "b", "ab");
            }
            _ => {
                resolve(stage, "b", &token, "peer");
                // Its process stays for a while, to answer.
                wait("the copy to be given up", || stage.undecided("b").is_none().then_some(()));
                assert!(stage.running().is_empty());
            }
        }
    }

    /// The destination is dead, and the source has given the guest away.
    fn is_undecided(self, stage: &mut Stage) {
        let token = wait("the source to be undecided", || stage.undecided("a"));
        assert!(stage.running().is_empty());
        for command in ["cont", "migrate_cancel"] {
            let answer = stage.host.ask("a", command, None);
            assert!(answer.is_err(), "{command}: {answer:?}");
        }
        if self.resolution == Some(Resolution::Here) {
            resolve(stage, "a", &token, "here");
            // Where it had come to run at the destination, it goes back to the moment of the stop.
            let before = if stage.turns().contains('b') { "aba" } else { "a" };
            assert!(before == "a" || self.phase == Phase::Running, "{}", stage.turns());
            goes_on(stage, "a", before);
        } else {
            resolve(stage, "a", &token, "peer");
            wait("the motion to be completed", || (stage.motion() == "completed").then_some(()));
            let answer = stage.host.ask("a", "cont", None);
            assert_eq!(code(&answer), Some(Code::NotOwner), "cont: {answer:?}");
            assert!(stage.running().is_empty());
        }
    }
}

/// What is on the way is lost with the process that dies, as if its host had died.
fn lose_what_is_on_the_way(stage: &Stage) {
    stage.link.cut();
    stage.link.heal();
}

/// The guest runs here and nowhere else, has run nowhere else at the same time, is whole, and can
/// be moved.
fn goes_on(stage: &Stage, name: &'static str, turns: &str) {
    wait("the guest to run", || stage.runs(name).then_some(()));
    if name == "a" {
        stage.a.check_all();
    } else {
        stage.b.check_all();
    }
    assert_eq!(stage.running(), [name]);
    assert_eq!(stage.turns(), turns, "where the guest has run");
    stage.moves_on_from(name);
}

/// Decides, and only with the word that the other side cannot run the guest.
fn resolve(stage: &Stage, name: &str, token: &str, owner: &str) {
    let mut wanted = json!({ "token": token, "owner": owner, "fenced": false });
    let answer = stage.host.ask(name, "x-whimbrel-handover-resolve", wanted.clone());
    assert_eq!(code(&answer), Some(Code::NotFenced), "resolve: {answer:?}");
    wanted["fenced"] = true.into();
    stage.host.ask(name, "x-whimbrel-handover-resolve", wanted).unwrap();
}

fn code(answer: &Result<Value, ClientError>) -> Option<Code> {
    match answer {
        Err(ClientError::Command(error)) => Some(error.code),
        _ => None,
    }
}
