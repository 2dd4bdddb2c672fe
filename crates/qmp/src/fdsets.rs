//! Sets of descriptors that stand for one file: `add-fd`.
//!
//! A set belongs to the machine and not to a client, so that whoever manages it can name a file in one
//! command that it may not be able to open, as `/dev/fdset/N`. The sets are gone when the last client
//! is: nobody is left who could take them away.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use crate::carry::{AdoptError, Packer, Unpacker};
use crate::command::{AddFd, RemoveFd};
use crate::error::Error;
use crate::reply::{AddedFd, FdSetFd, FdSetInfo};
use crate::saved::{Role, SavedMember, SavedSet};

/// Where a path into a set begins.
const FOLDER: &str = "/dev/fdset";

/// The sets of one machine.
#[derive(Debug, Clone)]
pub(crate) struct FdSets {
    sets: Arc<Mutex<BTreeMap<u32, Vec<Member>>>>,
    /// Most descriptors of all sets together.
    limit: usize,
}

#[derive(Debug)]
struct Member {
    fd: OwnedFd,
    /// What clients call it by: the descriptor's number in the process that received it, unless
    /// another is called so already.
    number: i32,
    opaque: Option<String>,
}

/// What a set has to offer for one purpose, duplicated.
#[derive(Debug)]
pub struct SetFiles {
    /// The file.
    pub file: OwnedFd,
    /// The file, opened with `O_DIRECT`.
    pub direct: Option<OwnedFd>,
}

/// What a file of a set is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To be read.
    Read,
    /// To be written.
    Write,
}

impl Access {
    fn is_given_by(self, flags: OFlags) -> bool {
        let mode = flags & OFlags::RWMODE;
        mode == OFlags::RDWR
            || match self {
                Self::Read => mode == OFlags::RDONLY,
                Self::Write => mode == OFlags::WRONLY,
            }
    }
}

/// The set that a path means, if it means one.
///
/// # Errors
/// When what follows `/dev/fdset/` is no number.
pub fn set_of(path: &Path) -> Result<Option<u32>, Error> {
    let Ok(rest) = path.strip_prefix(FOLDER) else { return Ok(None) };
    let number = rest.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match number.and_then(|text| text.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => Err(Error::invalid(format!(
            "`{}` names no set: it is /dev/fdset/ and the number of one",
            path.display()
        ))),
    }
}

impl FdSets {
    pub(crate) fn new(limit: usize) -> Self {
        Self { sets: Arc::default(), limit }
    }

    /// `add-fd`: puts a descriptor into a set, or into a new one.
    pub(crate) fn add(&self, add: &AddFd, fd: Option<OwnedFd>) -> Result<AddedFd, Error> {
        let fd = fd.ok_or_else(|| {
            Error::invalid("add-fd: no descriptor came with this command; pass one with SCM_RIGHTS")
        })?;
        let mut sets = self.lock();
        if sets.values().map(Vec::len).sum::<usize>() >= self.limit {
            return Err(Error::invalid(format!(
                "add-fd: there are {} descriptors in sets, which is the most there may be; take \
                 some away with remove-fd",
                self.limit
            )));
        }
        let free = || (0..=u32::MAX).find(|number| !sets.contains_key(number));
        let number = add.fdset_id.or_else(free).unwrap_or(u32::MAX);
        let used: BTreeSet<i32> = sets.values().flatten().map(|member| member.number).collect();
        let own = fd.as_raw_fd();
        let name = (own..=i32::MAX).chain(0..own).find(|name| !used.contains(name)).unwrap_or(own);
        let added = AddedFd { fdset_id: number, fd: name };
        let member = Member { fd, number: name, opaque: add.opaque.clone() };
        sets.entry(number).or_default().push(member);
        Ok(added)
    }

    /// `remove-fd`: closes one descriptor of a set, or all of them. What is in use stays open there.
    pub(crate) fn remove(&self, remove: &RemoveFd) -> Result<(), Error> {
        let mut sets = self.lock();
        let RemoveFd { fdset_id, fd } = remove;
        let missing = || Error::invalid(format!("remove-fd: there is no set {fdset_id}"));
        let set = sets.get_mut(fdset_id).ok_or_else(missing)?;
        match fd {
            None => set.clear(),
            Some(fd) => {
                let at = set.iter().position(|member| member.number == *fd);
                let at = at.ok_or_else(|| {
                    Error::invalid(format!("remove-fd: no descriptor {fd} is in set {fdset_id}"))
                })?;
                set.remove(at);
            }
        }
        if set.is_empty() {
            sets.remove(fdset_id);
        }
        Ok(())
    }

    /// `query-fdsets`
    pub(crate) fn list(&self) -> Vec<FdSetInfo> {
        let member = |member: &Member| FdSetFd { fd: member.number, opaque: member.opaque.clone() };
        let info = |(number, set): (&u32, &Vec<Member>)| FdSetInfo {
            fdset_id: *number,
            fds: set.iter().map(member).collect(),
        };
        self.lock().iter().map(info).collect()
    }

    /// Duplicates of what a set has for this.
    pub(crate) fn take(&self, number: u32, access: Access) -> Result<SetFiles, Error> {
        let sets = self.lock();
        let set = sets.get(&number).ok_or_else(|| {
            Error::invalid(format!("there is no /dev/fdset/{number}; make it with add-fd"))
        })?;
        let usable = |direct: bool| {
            set.iter().find(|member| {
                let flags = rustix::fs::fcntl_getfl(&member.fd).unwrap_or(OFlags::empty());
                access.is_given_by(flags) && flags.contains(OFlags::DIRECT) == direct
            })
        };
        let duplicate = |member: &Member| {
            rustix::io::fcntl_dupfd_cloexec(member.fd.as_fd(), 0).map_err(|e| {
                Error::invalid(format!("a descriptor of /dev/fdset/{number} cannot be used: {e}"))
            })
        };
        let direct = usable(true);
        let file = usable(false).or(direct).ok_or_else(|| {
            let what = if access == Access::Read { "reading" } else { "writing" };
            Error::invalid(format!("/dev/fdset/{number} has no descriptor for {what}"))
        })?;
        Ok(SetFiles { file: duplicate(file)?, direct: direct.map(duplicate).transpose()? })
    }

    /// Nobody is there any more who knows of them.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// What is needed to have them in another process, in order.
    pub(crate) fn save(&self, packer: &mut Packer) -> io::Result<Vec<SavedSet>> {
        // The limit is the server's.
        let Self { sets: _, limit: _ } = self;
        let mut member = |member: &Member| {
            let Member { fd, number, opaque } = member;
            let descriptor = packer.pack(fd.as_fd())?;
            Ok(SavedMember { number: *number, opaque: opaque.clone(), descriptor })
        };
        self.lock()
            .iter()
            .map(|(number, set)| {
                let members = set.iter().map(&mut member).collect::<io::Result<_>>()?;
                Ok(SavedSet { number: *number, members })
            })
            .collect()
    }

    /// Has them, if there could be such.
    pub(crate) fn restore(
        saved: Vec<SavedSet>,
        unpacker: &mut Unpacker,
        limit: usize,
    ) -> Result<Self, AdoptError> {
        let count: usize = saved.iter().map(|set| set.members.len()).sum();
        if count > limit {
            return Err(AdoptError::invalid(format!(
                "{count} descriptors are in sets; at most {limit} can be"
            )));
        }
        let mut names = BTreeSet::new();
        let mut sets = BTreeMap::new();
        for SavedSet { number, members } in saved {
            if members.is_empty() {
                return Err(AdoptError::invalid(format!("nothing is in set {number}")));
            }
            let mut set = Vec::with_capacity(members.len());
            for SavedMember { number: name, opaque, descriptor } in members {
                if name < 0 || !names.insert(name) {
                    return Err(AdoptError::invalid(format!(
                        "a descriptor in set {number} is called {name}, which is no name or that \
                         of another"
                    )));
                }
                let fd = unpacker.unpack(Role::SetMember { set: number, name }, descriptor)?;
                set.push(Member { fd, number: name, opaque });
            }
            if sets.insert(number, set).is_some() {
                return Err(AdoptError::invalid(format!("there are two sets {number}")));
            }
        }
        Ok(Self { sets: Arc::new(Mutex::new(sets)), limit })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Vec<Member>>> {
        // Nothing can panic half way through a change of the map.
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn add(sets: &FdSets, number: Option<u32>, file: &File) -> Result<AddedFd, Error> {
        let opaque = Some("what".to_owned());
        sets.add(&AddFd { fdset_id: number, opaque }, Some(file.try_clone().unwrap().into()))
    }

    #[test]
    fn a_set_gives_what_can_be_used_for_the_purpose() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let both = File::options().read(true).write(true).create_new(true).open(&path);
        let (both, reads) = (both.unwrap(), File::open(&path).unwrap());
        let sets = FdSets::new(3);
        assert!(sets.take(7, Access::Read).is_err());
        let added = add(&sets, Some(7), &reads).unwrap();
        assert!(sets.take(7, Access::Read).unwrap().direct.is_none());
        let error = sets.take(7, Access::Write).unwrap_err();
        assert!(error.desc.contains("no descriptor for writing"), "{error:?}");
        add(&sets, Some(7), &both).unwrap();
        sets.take(7, Access::Write).unwrap();
        // A new one has a number that is free.
        assert_eq!(add(&sets, None, &reads).unwrap().fdset_id, 0);
        assert!(add(&sets, None, &reads).unwrap_err().desc.contains("3 descriptors"));
        let list = sets.list();
        assert_eq!(
            list.iter().map(|set| (set.fdset_id, set.fds.len())).collect::<Vec<_>>(),
            [(0, 1), (7, 2)]
        );
        assert_eq!(list[0].fds[0].opaque.as_deref(), Some("what"));
        sets.remove(&RemoveFd { fdset_id: 7, fd: Some(added.fd) }).unwrap();
        assert!(sets.remove(&RemoveFd { fdset_id: 7, fd: Some(added.fd) }).is_err());
        sets.remove(&RemoveFd { fdset_id: 7, fd: None }).unwrap();
        assert!(sets.remove(&RemoveFd { fdset_id: 7, fd: None }).is_err());
        sets.clear();
        assert!(sets.list().is_empty());
        assert!(sets.add(&AddFd { fdset_id: None, opaque: None }, None).is_err());
    }

    #[test]
    fn a_path_means_a_set_or_a_file() {
        let set = |path: &str| set_of(Path::new(path));
        assert_eq!(set("/dev/fdset/12").unwrap(), Some(12));
        assert_eq!(set("/dev/fdsets/12").unwrap(), None);
        assert_eq!(set("a/dev/fdset/12").unwrap(), None);
        for wrong in [
            "/dev/fdset",
            "/dev/fdset/",
            "/dev/fdset/-1",
            "/dev/fdset/1/2",
            "/dev/fdset/4294967296",
        ] {
            assert!(set(wrong).is_err(), "{wrong}");
        }
    }
}
