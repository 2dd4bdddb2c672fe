//! An update in exec mode that has come to where something is to go wrong.

use super::table::Fault;
use crate::courier::{Courier, Leg};
use crate::scene::Scene;
use crate::support::wait;
use crate::table::Step;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use std::os::fd::OwnedFd;

/// A machine whose process is to become another program, and what is between it and its guardian.
pub struct Stage {
    /// It has the guest while the process becomes another.
    pub guardian: Guardian,
    pub courier: Courier,
    pub scene: Scene,
}

/// A process that the one before it has started. It is killed when the value is dropped.
pub struct Guardian {
    pub pid: Pid,
    process: OwnedFd,
}

impl Stage {
    /// Starts an update and returns when it is at this step.
    pub fn set(leg: Leg, step: Step, fault: Fault) -> Self {
        // What it is about are processes: one more processor costs more time than anything else here.
        let scene = Scene::set("1", fault.is_silent());
        let courier = Courier::before(&scene.host.folder().join("image"), leg, step.holds());
        let update = json!({ "binary": courier.path(), "mode": "exec" });
        scene.host.ask("a", "x-whimbrel-update", update).unwrap();
        wait("what the courier holds", || courier.has_held().then_some(()));
        let pid = courier.image(Leg::Over).unwrap();
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        Self { guardian: Guardian { pid, process }, courier, scene }
    }

    /// The process that the machine had before.
    pub fn process(&self) -> Pid {
        Pid::from_raw(self.scene.process.pid().try_into().unwrap()).unwrap()
    }
}

impl Guardian {
    pub fn kill(&self) {
        // One that is gone cannot be killed.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Whether nothing is left of it but what its parent may want to know.
    pub fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
        stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.kill();
    }
}
