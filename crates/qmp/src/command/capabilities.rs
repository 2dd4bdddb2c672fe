//! The switches of a motion (QAPI `MigrationCapability`).

use serde::{Deserialize, Serialize};

use super::Arguments;
use crate::error::Error;
use crate::json;

macro_rules! capabilities {
    ($($(#[$doc:meta])* $name:literal => $variant:ident: $kind:expr,)+) => {
        /// A switch by QEMU's name. Each is one of three things here: always on, a real switch, or
        /// not supported.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Capability {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)+
        }

        impl Capability {
            /// All of them, in the order of the table in `docs/qmp.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in QMP.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            fn kind(self) -> Kind {
                match self { $(Self::$variant => $kind,)+ }
            }
        }
    };
}

/// What a capability is here.
enum Kind {
    /// Always so, because of what is said.
    AlwaysOn(&'static str),
    /// Can be switched.
    Switch,
    /// Always off, because of what is said.
    Unsupported(&'static str),
}

use Kind::{AlwaysOn, Switch, Unsupported};

const LATER: &str = "this version does not have it";

capabilities! {
    /// Events tell each change of status.
    "events" => Events: AlwaysOn("every change of status is an event"),
    /// The destination answers the source.
    "return-path" => ReturnPath: AlwaysOn("the destination always answers the source"),
    /// Pages that the guest waits for go first.
    "postcopy-preempt" => PostcopyPreempt:
        AlwaysOn("pages that the guest waits for always go first"),
    /// The time for which processors waited for pages is measured.
    "postcopy-blocktime" => PostcopyBlocktime:
        AlwaysOn("the time for which processors wait is always measured"),
    /// The destination checks the machine's UUID.
    "validate-uuid" => ValidateUuid: AlwaysOn("the machine's identity is always checked"),
    /// Disks are taken over as late as can be.
    "late-block-activate" => LateBlockActivate:
        AlwaysOn("the destination touches no disk before it owns the guest"),
    /// The switchover waits for the destination's consent.
    "switchover-ack" => SwitchoverAck:
        AlwaysOn("the source never switches over before the destination is ready"),
    /// Several connections carry pages.
    "multifd" => Multifd:
        AlwaysOn("all connections are equal; set `multifd-channels` to 1 for a single one"),
    /// Wait for `migrate-continue` before switching over.
    "pause-before-switchover" => PauseBeforeSwitchover: Switch,
    /// Run at the destination before all pages are there: for a guest that comes out of a file.
    "postcopy-ram" => PostcopyRam: Switch,
    /// To a file: copy the guest as it was at the start, while it runs.
    "background-snapshot" => BackgroundSnapshot: Switch,
    /// Each page has its place in the file.
    "mapped-ram" => MappedRam: AlwaysOn("every page has its place in a file, whatever is set"),
    /// Memory that both sides share is not sent.
    "x-ignore-shared" => IgnoreShared: Unsupported(LATER),
    /// Slow the guest down until it converges.
    "auto-converge" => AutoConverge: Unsupported(LATER),
    /// Limit how fast each processor dirties memory.
    "dirty-limit" => DirtyLimit: Unsupported(LATER),
    /// Send without copying in the kernel.
    "zero-copy-send" => ZeroCopySend: Unsupported(LATER),
    /// Give memory back as soon as it has been sent.
    "release-ram" => ReleaseRam: Unsupported(LATER),
    /// Send the difference to the page's last version.
    "xbzrle" => Xbzrle: Unsupported("it is not supported"),
    /// Pin all memory for RDMA.
    "rdma-pin-all" => RdmaPinAll: Unsupported("RDMA is not supported"),
    /// Continuous replication.
    "x-colo" => Colo: Unsupported("it is not supported"),
    /// Carry the dirty bitmaps of disks.
    "dirty-bitmaps" => DirtyBitmaps: Unsupported("it is not supported"),
    /// Compress pages.
    "compress" => Compress: Unsupported("it is not supported"),
    /// Leave zeroes out of block migration.
    "zero-blocks" => ZeroBlocks: Unsupported("it is not supported"),
}

/// A capability and how it stands (QAPI `MigrationCapabilityStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapabilityState {
    /// Which.
    pub capability: Capability,
    /// On or off.
    pub state: bool,
}

/// Arguments of `migrate-set-capabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetCapabilities {
    /// What to set; later entries win.
    #[serde(deserialize_with = "json::objects")]
    pub capabilities: Vec<CapabilityState>,
}

impl Arguments for SetCapabilities {
    fn check(&self) -> Result<(), Error> {
        Capabilities::default().set(self)
    }
}

/// The switches that exist, as they stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Before switching over the motion waits, in status `pre-switchover`, for
    /// `migrate-continue`.
    pub pause_before_switchover: bool,
    /// A guest that comes out of a file runs before all of its RAM has come.
    pub postcopy_ram: bool,
    /// A copy to a file is of the moment when it begins, and the guest runs on meanwhile.
    pub background_snapshot: bool,
}

impl Capabilities {
    /// Sets what is said, or nothing if anything of it is refused: a capability without a switch
    /// may only be set to what it is.
    pub fn set(&mut self, set: &SetCapabilities) -> Result<(), Error> {
        let mut new = *self;
        for &CapabilityState { capability, state } in &set.capabilities {
            let name = capability.name();
            match (capability.kind(), state) {
                (AlwaysOn(_), true) | (Unsupported(_), false) => {}
                (AlwaysOn(why), false) => {
                    return Err(Error::unsupported(format!("`{name}` cannot be off: {why}")));
                }
                (Unsupported(why), true) => {
                    return Err(Error::unsupported(format!("`{name}` cannot be on: {why}")));
                }
                (Switch, _) => *new.switch(capability) = state,
            }
        }
        *self = new;
        Ok(())
    }

    /// How every capability stands, for `query-migrate-capabilities`.
    #[must_use]
    pub fn list(mut self) -> Vec<CapabilityState> {
        let state = |capability: Capability, switches: &mut Self| match capability.kind() {
            AlwaysOn(_) => true,
            Unsupported(_) => false,
            Switch => *switches.switch(capability),
        };
        Capability::ALL
            .iter()
            .map(|&capability| CapabilityState { capability, state: state(capability, &mut self) })
            .collect()
    }

    fn switch(&mut self, capability: Capability) -> &mut bool {
        match capability {
            Capability::PauseBeforeSwitchover => &mut self.pause_before_switchover,
            Capability::PostcopyRam => &mut self.postcopy_ram,
            Capability::BackgroundSnapshot => &mut self.background_snapshot,
            _ => unreachable!("a capability of kind Switch has a field"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(capability: Capability, state: bool) -> SetCapabilities {
        SetCapabilities { capabilities: vec![CapabilityState { capability, state }] }
    }

    #[test]
    fn a_capability_may_always_be_set_to_what_it_is() {
        let mut capabilities = Capabilities::default();
        for state in capabilities.list() {
            capabilities.set(&set(state.capability, state.state)).unwrap();
        }
        assert_eq!(capabilities, Capabilities::default());
    }

    #[test]
    fn a_capability_without_a_switch_cannot_be_set_otherwise() {
        for &capability in Capability::ALL {
            let mut capabilities = Capabilities::default();
            let before = capabilities.list();
            let was = before.iter().find(|s| s.capability == capability).unwrap().state;
            match capability.kind() {
                Switch => capabilities.set(&set(capability, !was)).unwrap(),
                _ => {
                    let error = capabilities.set(&set(capability, !was)).unwrap_err();
                    assert_eq!(error.code, state::Code::Unsupported);
                    assert!(error.desc.contains(capability.name()), "{error}");
                }
            }
            let changed = capabilities.list() != before;
            assert_eq!(changed, matches!(capability.kind(), Switch));
        }
    }

    #[test]
    fn a_list_is_set_as_a_whole_or_not_at_all() {
        let mut capabilities = Capabilities::default();
        let mut both = set(Capability::PauseBeforeSwitchover, true);
        both.capabilities.push(CapabilityState { capability: Capability::Xbzrle, state: true });
        capabilities.set(&both).unwrap_err();
        assert!(!capabilities.pause_before_switchover);
        both.capabilities.pop();
        capabilities.set(&both).unwrap();
        assert!(capabilities.pause_before_switchover);
    }
}
