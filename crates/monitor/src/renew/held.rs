//! What a process holds that only the kernel can pass on: one table of descriptors, each with what it
//! is for.

use minicbor::{Decode, Encode};
use state::{Code, Saved};
use std::os::fd::OwnedFd;

use crate::Error;

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum Role {
    /// The guest's RAM.
    #[n(0)]
    Ram,
    /// The word that decides who goes on with the guest.
    #[n(1)]
    Fate,
    /// The connection of the motion.
    #[n(2)]
    Link,
    /// The lock that makes the machine's name its own.
    #[n(3)]
    Name,
    /// Where the process reads from.
    #[n(4)]
    Stdin,
    /// A part of the console.
    #[n(5)]
    Console,
    /// A part of the QMP server.
    #[n(6)]
    Qmp,
    /// The channel on which the machine is to go back to the process that sends this.
    #[n(7)]
    Back,
    /// The program that the process ran that was to be replaced in the first place.
    #[n(8)]
    Program,
    /// The kernel that the guest boots when it is reset.
    #[n(9)]
    Kernel,
    /// Its initial RAM disk.
    #[n(10)]
    Initrd,
    /// What lies beside RAM that is in a file with a name.
    #[n(11)]
    Sidecar,
    /// What userfaultfds are made from, where that was handed over.
    #[n(12)]
    Userfault,
}

/// The table, as it travels beside the descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct SavedHeld {
    /// For each descriptor, in order: what it is for, and what people call it.
    #[n(0)]
    entries: Vec<(Role, String)>,
}

impl Saved for SavedHeld {
    const SCHEMA: &'static str = "whimbrel.update.descriptors";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// Descriptors, each with its entry.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<(Role, String, OwnedFd)>);

impl Held {
    /// Adds one.
    pub fn put(&mut self, role: Role, name: impl Into<String>, descriptor: OwnedFd) {
        self.0.push((role, name.into(), descriptor));
    }

    /// The table, and the descriptors in its order.
    pub fn into_parts(self) -> (SavedHeld, Vec<OwnedFd>) {
        let mut entries = Vec::new();
        let mut descriptors = Vec::new();
        for (role, name, descriptor) in self.0 {
            entries.push((role, name));
            descriptors.push(descriptor);
        }
        (SavedHeld { entries }, descriptors)
    }

    /// What came.
    ///
    /// # Errors
    /// When the table is not about these descriptors.
    pub fn of_parts(saved: SavedHeld, descriptors: Vec<OwnedFd>) -> Result<Self, Error> {
        let SavedHeld { entries } = saved;
        let (named, came) = (entries.len(), descriptors.len());
        if named != came {
            let why = format!("{came} descriptors came, and the table names {named}");
            return Err(Error::new(Code::ProtocolError, why));
        }
        let both = entries.into_iter().zip(descriptors);
        Ok(Self(both.map(|((role, name), descriptor)| (role, name, descriptor)).collect()))
    }

    /// Takes out all of a role, in their order.
    pub fn take_all(&mut self, role: Role) -> Vec<OwnedFd> {
        let (wanted, rest): (Vec<_>, _) =
            std::mem::take(&mut self.0).into_iter().partition(|(is, ..)| *is == role);
        self.0 = rest;
        wanted.into_iter().map(|(_, _, descriptor)| descriptor).collect()
    }

    /// Takes out the only one of a role, with its name.
    pub fn take_optional(&mut self, role: Role) -> Result<Option<(String, OwnedFd)>, Error> {
        let Some(at) = self.0.iter().position(|(is, ..)| *is == role) else { return Ok(None) };
        let (_, name, descriptor) = self.0.remove(at);
        if self.0.iter().any(|(is, ..)| *is == role) {
            let why = format!("more than one descriptor came for {role:?}");
            return Err(Error::new(Code::ProtocolError, why));
        }
        Ok(Some((name, descriptor)))
    }

    /// The same, where there has to be one.
    pub fn take(&mut self, role: Role) -> Result<OwnedFd, Error> {
        let missing =
            || Error::new(Code::ProtocolError, format!("no descriptor came for {role:?}"));
        self.take_optional(role)?.map(|(_, descriptor)| descriptor).ok_or_else(missing)
    }

    /// Nothing may be left over that nobody knew what to do with.
    pub fn finish(self) -> Result<(), Error> {
        match self.0.first() {
            None => Ok(()),
            Some((role, name, _)) => {
                let why = format!("a descriptor for {role:?} ({name}) is of no use here");
                Err(Error::new(Code::ProtocolError, why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn every_descriptor_has_an_entry_and_every_entry_a_descriptor() {
        let mut held = Held::default();
        held.put(Role::Ram, "RAM", descriptor());
        held.put(Role::Qmp, "a", descriptor());
        held.put(Role::Qmp, "b", descriptor());
        let (saved, mut descriptors) = held.into_parts();
        let mut held = Held::of_parts(saved.clone(), descriptors.split_off(0)).unwrap();
        assert!(held.take(Role::Fate).is_err());
        held.take(Role::Ram).unwrap();
        assert_eq!(held.take_all(Role::Qmp).len(), 2);
        held.finish().unwrap();
        assert!(Held::of_parts(saved, vec![descriptor()]).is_err());
    }

    #[test]
    fn what_comes_twice_or_for_nothing_is_refused() {
        let mut held = Held::default();
        held.put(Role::Ram, "RAM", descriptor());
        held.put(Role::Ram, "RAM", descriptor());
        assert!(held.take(Role::Ram).is_err());
        assert!(held.finish().is_err());
    }
}
