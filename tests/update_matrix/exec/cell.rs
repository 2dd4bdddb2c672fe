//! One cell of the table: something goes wrong, and what the table says becomes of the guest.

use super::stage::Stage;
use super::table::{Fault, Outcome};
use crate::courier::Leg;
use crate::support::{freeze, wait};
use crate::table::Step;
use rustix::process::{Pid, Signal, kill_process};
use std::thread;
use std::time::Duration;

/// An image that says nothing at first is given as long as it may take to begin.
const BEGINNING: Duration = Duration::from_secs(10);

/// One cell.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub leg: Leg,
    pub step: Step,
    pub fault: Fault,
    pub outcome: Outcome,
}

impl Cell {
    /// Plays it. Panics when anything is not as the table says.
    pub fn play(self) {
        let mut stage = Stage::set(self.leg, self.step, self.fault);
        match self.fault {
            Fault::ProcessKilled => stage.scene.process.kill(),
            Fault::GuardianKilled => stage.guardian.kill(),
            Fault::ProcessFrozen => self.stand_still(&stage, stage.process()),
            Fault::GuardianFrozen => self.stand_still(&stage, stage.guardian.pid),
        }
        stage.courier.go_on();
        let process = stage.scene.process.pid();
        match self.outcome {
            Outcome::Lost => {
                stage.scene.process.wait_for_end();
                wait("the guardian to be gone", || stage.guardian.has_ended().then_some(()));
                stage.scene.host.wait_for_state("a", "gone");
            }
            Outcome::Old => self.goes_on(&mut stage, "failed", process),
            Outcome::New => self.goes_on(&mut stage, "completed", process),
            Outcome::Guardian => {
                let guardian = stage.guardian.pid.as_raw_nonzero().get().unsigned_abs();
                wait("the guest to be its guardian's", || {
                    (stage.scene.motion() == "failed").then_some(())
                });
                stage.scene.process.wait_for_end();
                stage.scene.goes_on_in(guardian);
            }
        }
    }

    fn goes_on(self, stage: &mut Stage, motion: &str, process: u32) {
        wait("the update to have ended", || {
            let served = stage.scene.pid() == u64::from(process);
            (served && stage.scene.motion() == motion).then_some(())
        });
        wait("the guardian to be gone", || stage.guardian.has_ended().then_some(()));
        assert!(!stage.scene.process.has_ended());
        stage.scene.goes_on_in(process);
    }

    /// Has a process stand still for longer than the other puts up with.
    fn stand_still(self, stage: &Stage, pid: Pid) {
        freeze(pid);
        stage.courier.go_on();
        let begins = self.leg == Leg::Back && matches!(self.step, Step::Started | Step::Welcomed);
        let limit = match self.fault == Fault::ProcessFrozen && begins {
            true => BEGINNING,
            false => stage.scene.patience,
        };
        thread::sleep(limit + stage.scene.patience / 2);
        // It may have been ended meanwhile.
        let _ = kill_process(pid, Signal::CONT);
    }
}
