//! An update that has come to where something is to go wrong.

use crate::courier::Courier;
use crate::scene::Scene;
use crate::support::{Machine, wait};
use crate::table::{Fault, Step};
use serde_json::json;

/// The old process of a machine and the new one, and what is between them.
pub struct Stage {
    pub new: Machine,
    pub courier: Courier,
    /// The machine, with its old process. What the new one has logged is in its folder too.
    pub scene: Scene,
}

impl Stage {
    /// Starts an update and returns when it is at this step.
    pub fn set(step: Step, fault: Fault) -> Self {
        let scene = Scene::set("2", fault.is_silent());
        let folder = scene.host.folder();
        let socket = folder.join("new");
        let new = scene.host.successor("new", &socket);
        let courier = Courier::between(&folder.join("courier"), &socket, step.holds());
        let stage = Self { new, courier, scene };
        let to = json!({ "to": stage.courier.path() });
        stage.scene.host.ask("a", "x-whimbrel-update", to).unwrap();
        wait("what the courier holds", || stage.courier.has_held().then_some(()));
        stage
    }
}
