//! One cell of the table: something goes wrong, and what the table says becomes of the guest.

use crate::scene::Scene;
use crate::stage::Stage;
use crate::support::{Machine, PATIENCE, wait};
use crate::table::{Fault, Outcome, Step};
use rustix::process::Signal;
use std::thread;
use std::time::Duration;

/// What is logged is done right after.
const AFTER_WORDS: Duration = Duration::from_millis(200);

/// One cell.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub step: Step,
    pub fault: Fault,
    pub outcome: Outcome,
}

impl Cell {
    /// Plays it. Panics when anything is not as the table says.
    pub fn play(self) {
        let mut stage = Stage::set(self.step, self.fault);
        self.strike(&mut stage);
        match self.outcome {
            Outcome::Lost => self.is_lost(&mut stage),
            Outcome::Old => self.is_in_the_old(&mut stage),
            Outcome::New => self.is_in_the_new(&mut stage),
        }
    }

    /// Lets it go wrong, and ends what lasts.
    fn strike(self, stage: &mut Stage) {
        match self.fault {
            Fault::OldKilled => stage.scene.process.kill(),
            Fault::NewKilled => stage.new.kill(),
            Fault::OldFrozen => stand_still(stage, |stage| &stage.scene.process),
            Fault::NewFrozen => stand_still(stage, |stage| &stage.new),
            Fault::Cancelled => self.cancel(stage),
            Fault::OldEnded => self.tell_to_end(stage),
        }
        stage.courier.go_on();
    }

    /// What nobody reads while it is being given away is answered by whoever has the machine then, and
    /// comes too late.
    fn cancel(self, stage: &mut Stage) {
        let Stage { scene: Scene { clients: [client, _], .. }, courier, .. } = stage;
        thread::scope(|scope| {
            let asked = scope.spawn(|| client.execute("migrate_cancel", None, Some(PATIENCE)));
            if !self.step.is_served() {
                courier.go_on();
            }
            let answer = asked.join().unwrap();
            assert!(answer.is_ok() || !self.step.is_served(), "{answer:?}");
        });
    }

    /// What is heard while the old process waits for the new one shows in what it logs, and it does it when
    /// it waits no more.
    fn tell_to_end(self, stage: &mut Stage) {
        if self.step == Step::Report {
            // It has ended already.
            return;
        }
        stage.scene.process.signal(Signal::TERM);
        let heard = if self.outcome == Outcome::Lost { "the machine ends" } else { "cannot end" };
        wait("the signal to be heard", || stage.scene.process.log().contains(heard).then_some(()));
        if self.outcome == Outcome::Lost && !matches!(self.step, Step::Ahead | Step::Prepared) {
            stage.scene.process.wait_for_end();
        } else {
            thread::sleep(AFTER_WORDS);
        }
    }

    fn is_lost(self, stage: &mut Stage) {
        match self.fault {
            Fault::OldKilled => assert_eq!(stage.new.wait_for_end(), Some(1)),
            Fault::OldEnded => {
                assert_eq!(stage.new.wait_for_end(), Some(1), "{}", stage.new.log());
                stage.scene.process.wait_for_end();
            }
            _ => assert_eq!(stage.scene.process.wait_for_end(), Some(0)),
        }
        assert_eq!(stage.scene.host.state("a"), "gone");
    }

    fn is_in_the_old(self, stage: &mut Stage) {
        let ended = if self.fault == Fault::Cancelled { "cancelled" } else { "failed" };
        wait("the update to have ended", || (stage.scene.motion() == ended).then_some(()));
        if self.fault != Fault::NewKilled {
            assert_eq!(stage.new.wait_for_end(), Some(1), "{}", stage.new.log());
        }
        let pid = stage.scene.process.pid();
        stage.scene.goes_on_in(pid);
    }

    fn is_in_the_new(self, stage: &mut Stage) {
        wait("the update to be completed", || (stage.scene.motion() == "completed").then_some(()));
        if self.fault != Fault::OldKilled {
            assert_eq!(
                stage.scene.process.wait_for_end(),
                Some(0),
                "{}",
                stage.scene.process.log()
            );
        }
        let pid = stage.new.pid();
        stage.scene.goes_on_in(pid);
    }
}

/// Has a process stand still for longer than the other puts up with.
fn stand_still(stage: &Stage, which: fn(&Stage) -> &Machine) {
    which(stage).freeze();
    stage.courier.go_on();
    thread::sleep(stage.scene.patience * 3 / 2);
    which(stage).thaw();
}
