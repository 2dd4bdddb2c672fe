//! A guest from a file.

use crate::arrival::{Arrivals, Arrived};
use crate::monitor::Monitor;
use crate::{Ending, Error, MachineName};
use memory::userfault::{Userfault, UserfaultError};
use memory::{Backing, GuestRam, MemoryFile};
use motion::restore::{Claimant, How, Phase, RestoreJob, RestoreOptions, Terms, admit};
use motion::{Progress, Report, Status};
use snapshot::{Apart, Origin, Reader};
use state::Code;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use uuid::Uuid;
use vmm::{Builder, GuestClock, RamOrigin, Wishes};

/// A file to take a guest from, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The file.
    pub file: PathBuf,
    /// Where in it the snapshot begins, in bytes.
    pub offset: u64,
    /// How the guest is taken out of it.
    pub manner: Manner,
}

/// How a guest is taken out of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// On what terms.
    pub terms: Terms,
    /// When RAM is filled; by default while the guest runs, where that can be done.
    pub how: Option<How>,
    /// Where RAM is mapped: whether all of it is checked before the guest runs.
    pub verify: bool,
    /// How long a page may take to come while the guest runs; by default as the parameters say.
    pub io_stall: Option<Duration>,
    /// What becomes of the guest's clocks.
    pub clock: GuestClock,
    /// Pages are read past the page cache, where the file system can do that and they are not mapped: what
    /// was saved is seldom still there, and nobody needs it twice.
    pub direct: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            terms: Terms::AsSaved,
            how: None,
            verify: true,
            io_stall: None,
            clock: GuestClock::Continue,
            direct: true,
        }
    }
}

impl Restore {
    /// The guest in this file, as it was saved.
    #[must_use]
    pub fn of(file: PathBuf) -> Self {
        Self { file, offset: 0, manner: Manner::default() }
    }
}

/// A snapshot that was opened, and may be restored as asked.
pub(crate) struct OpenFile {
    reader: Reader,
    /// What to call it.
    name: String,
    manner: Manner,
    how: How,
}

impl OpenFile {
    /// Opens the file of a `restore`.
    pub fn of(restore: &Restore, backing: Option<Backing>) -> Result<Self, Error> {
        let Restore { file, offset, manner } = restore;
        let name = match offset {
            0 => file.display().to_string(),
            _ => format!("{} (at {offset})", file.display()),
        };
        let origin = Origin::Path { path: file.clone(), offset: *offset };
        Self::open(origin, name, *manner, backing)
    }

    /// Opens a snapshot, and says what is against taking a guest out of it.
    pub fn open(
        origin: Origin,
        name: String,
        manner: Manner,
        backing: Option<Backing>,
    ) -> Result<Self, Error> {
        let fail = |code, why: String| {
            // What is wrong with a file names it.
            let why = why.strip_prefix(&format!("{name}: ")).unwrap_or(&why);
            Error::new(code, format!("cannot restore {name}: {why}"))
        };
        // What is mapped is mapped from the page cache.
        let direct = manner.direct && manner.how != Some(How::Mapped);
        let reader = Reader::open(origin, direct).map_err(motion::MotionError::from);
        let checked = reader.and_then(|reader| admit(&reader, manner.terms).map(|_| reader));
        let reader = checked.map_err(|e| fail(e.code, e.why))?;
        let how = match (reader.apart().is_some(), manner.how) {
            // All of it is there before the guest runs, as it is when it was read.
            (true, None | Some(How::Eager | How::InPlace)) => How::InPlace,
            (true, Some(how @ (How::Lazy | How::Mapped))) => {
                let why = format!("its RAM stays in its memory file: leave --{} out", how.as_str());
                return Err(fail(Code::ConfigConflict, why));
            }
            (false, how) => when_to_fill(how, backing.unwrap_or(reader.header().backing))
                .map_err(|e| fail(Code::Unsupported, e.to_string()))?,
        };
        Ok(Self { reader, name, manner, how })
    }

    /// What the machine was called when it was saved.
    pub fn machine(&self) -> &str {
        &self.reader.header().name
    }
}

/// While the guest runs, unless it was said otherwise, or cannot be. Who waits for a page of 1 GiB
/// waits for all of it, so that it has to be asked for.
fn when_to_fill(how: Option<How>, backing: Backing) -> Result<How, UserfaultError> {
    match (how, Userfault::check()) {
        (Some(how @ (How::Eager | How::Mapped | How::InPlace)), _) => Ok(how),
        (None, _) if backing == Backing::Huge1G => Ok(How::Eager),
        (_, Ok(())) => Ok(How::Lazy),
        (Some(How::Lazy), Err(e)) => Err(e),
        (None, Err(e)) => {
            tracing::warn!("RAM is filled before the guest runs, because {e}");
            Ok(How::Eager)
        }
    }
}

/// A restore: under way, or how it went.
pub(crate) struct Restoring {
    job: RestoreJob,
    begun: SystemTime,
    /// The process was started for it, and did not wait for a guest before.
    pub at_start: bool,
}

impl Monitor {
    /// Whether a guest may come, wherever it comes from.
    ///
    /// # Errors
    /// When there is one, or one is on its way.
    pub fn is_vacant(&self, doing: &str) -> Result<(), Error> {
        let against = {
            let state = self.state();
            match (&state.guest, &state.incoming, &state.restoring) {
                (Some(_), ..) => Some((Code::InvalidState, "it has a guest already".to_owned())),
                (None, Some(waiting), _) => {
                    let why = format!("it waits on {} already", waiting.address());
                    Some((Code::InvalidState, why))
                }
                (None, None, Some(restoring)) if !restoring.is_over() => {
                    Some((Code::Busy, "a guest is being restored".to_owned()))
                }
                (None, None, _) => None,
            }
        };
        against.map_or(Ok(()), |(code, why)| Err(Error::new(code, format!("{doing}: {why}"))))
    }

    /// Guests run before their pages are there when they come out of a file, and not otherwise.
    ///
    /// # Errors
    /// When a guest that moves is to.
    pub fn check_postcopy(&self, doing: &str) -> Result<(), Error> {
        if self.state().capabilities.postcopy_ram {
            let why = "`postcopy-ram` is for a guest that comes out of a file; switch it off";
            return Err(Error::new(Code::Unsupported, format!("{doing}: {why}")));
        }
        Ok(())
    }

    /// The RAM that the state in a file belongs to, in its memory file.
    fn ram_in_place(&self, reader: &Reader) -> Result<GuestRam, Error> {
        let none = || Error::new(Code::Internal, "its RAM is in no memory file");
        let Apart { identity, generation, path } = reader.apart().ok_or_else(none)?;
        let path = self.config.memory_file.as_ref().map_or(path, |place| &place.path);
        let path = std::path::absolute(path)
            .map_err(|e| Error::host(format!("looking for {}", path.display()), &e))?;
        let header = reader.header();
        let file = MemoryFile::open(&path).and_then(|file| {
            let of = *header.machine.as_bytes();
            file.check_fits(*identity.as_bytes(), of, header.ram(), *generation).map(|()| file)
        });
        let file = file.map_err(motion::MotionError::from)?;
        GuestRam::named(Arc::new(file))
            .map_err(|e| Error::new(Code::MemoryUnavailable, e.to_string()))
    }

    /// `restore`, and `migrate-incoming` with a file. It is vacant.
    pub fn restore(
        self: &Arc<Self>,
        file: OpenFile,
        paused: bool,
        keep_waiting: bool,
        at_start: bool,
    ) -> Result<(), Error> {
        let doing = format!("cannot restore {} as `{}`", file.name, self.name);
        let fail = |code, why: String| Error::new(code, format!("{doing}: {why}"));
        let config = &self.config;
        if config.memory_file.is_some() && file.how != How::InPlace {
            let why =
                "its RAM is in the snapshot: --memory-file is for a state that was saved without";
            return Err(fail(Code::ConfigConflict, why.to_owned()));
        }
        let ram = match file.how {
            How::Eager | How::Lazy => RamOrigin::New,
            How::InPlace => {
                let ram = self.ram_in_place(&file.reader).map_err(|e| fail(e.code, e.message))?;
                RamOrigin::Shared(Arc::new(ram))
            }
            How::Mapped => {
                let image = file.reader.image().map_err(motion::MotionError::from);
                RamOrigin::Image(Arc::new(image.map_err(|e| fail(e.code, e.why))?))
            }
        };
        let Manner { terms, how: _, verify, io_stall, clock, direct: _ } = file.manner;
        let usual = || Duration::from_millis(self.state().parameters.io_stall);
        let wishes = Wishes {
            name: Some(self.name.to_string()),
            backing: config.backing,
            uuid: config.uuid,
            memory: config.memory,
            vcpus: config.cpus.map(Into::into),
            overcommit: config.overcommit,
            clone: (terms == Terms::Clone).then(Uuid::new_v4),
            clock,
            ram,
        };
        let console = self.clone();
        let consoles = Box::new(move || console.open_console());
        let builder = Builder::new(self.hypervisor.clone(), wishes, consoles, self.sink());
        let arrivals = Arc::new(Arrivals::new(builder, Arc::downgrade(self)));
        let observer = Arc::new(Arrived::new(self, arrivals.clone()));
        let options = RestoreOptions {
            terms,
            how: file.how,
            verify,
            io_stall: io_stall.unwrap_or_else(usual),
            paused,
            claimant: claimant(),
            threads: RestoreOptions::usual_threads(),
        };
        let job = RestoreJob::start(file.reader, &file.name, arrivals, options, observer)
            .map_err(|e| fail(e.code, e.why))?;
        let restoring = Arc::new(Restoring { job, begun: SystemTime::now(), at_start });
        self.state().restoring = Some(restoring.clone());
        let (monitor, name) = (Arc::downgrade(self), self.name.clone());
        std::thread::Builder::new()
            .name("restored".into())
            .spawn(move || {
                let report = restoring.job.wait();
                let Some(monitor) = monitor.upgrade() else { return };
                if report.status.0 != Status::Completed && !keep_waiting {
                    monitor.end(Ending::Failed(in_vain(&name, &report)));
                }
                // Whoever waits for the guest looks now.
                monitor.waker.wake();
            })
            .map_err(|e| Error::host(doing, &e))?;
        Ok(())
    }
}

/// This host, as a claim names it.
fn claimant() -> Claimant {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let boot = boot.and_then(|text| text.trim().parse().ok()).unwrap_or_default();
    Claimant { host, boot }
}

/// Why no guest came.
fn in_vain(name: &MachineName, report: &Report) -> Error {
    let (code, why) = match &report.error {
        Some(error) => (error.code, error.why.as_str()),
        None => (Code::Internal, "for a reason that is not known"),
    };
    Error::new(code, format!("cannot restore {} as `{name}`: {why}", report.peer))
}

impl Restoring {
    pub fn begun(&self) -> SystemTime {
        self.begun
    }

    pub fn progress(&self) -> Progress {
        self.job.progress()
    }

    pub fn report(&self) -> Report {
        self.job.report()
    }

    /// Whether the guest is here, or will not come.
    pub fn is_over(&self) -> bool {
        self.job.is_over()
    }

    /// Whether all of the guest is here, but nobody may run it before it was claimed.
    pub fn is_held(&self) -> bool {
        matches!(self.job.phase(), Phase::Held | Phase::Claiming)
    }

    /// Asks the file again for pages that could not be had.
    pub fn retry(&self) -> Result<(), Error> {
        match self.job.outage() {
            Some(_) => self.job.retry().map_err(Into::into),
            None => Ok(()),
        }
    }

    /// Claims a guest that is held, and lets it run.
    pub fn cont(&self) -> Result<(), Error> {
        self.job.cont().map_err(Into::into)
    }

    /// Gives it up, if it is under way.
    pub fn cancel(&self) -> Result<(), Error> {
        if self.is_over() { Ok(()) } else { self.job.cancel().map_err(Into::into) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::{Layout, PAGE_SIZE, PageSet};
    use snapshot::{Header, Kind, Target, WriteOptions, Writer};

    const RAM: u64 = 16 << 20;

    #[test]
    fn a_file_is_read_past_the_page_cache_unless_it_is_mapped_or_was_not_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.snap");
        let header = Header {
            kind: Kind::Snapshot,
            machine: Uuid::from_u128(1),
            name: "a".to_owned(),
            snapshot: Uuid::from_u128(2),
            taken: 3,
            builder: "0".to_owned(),
            regions: Layout::new(RAM, PAGE_SIZE).unwrap().regions().to_vec(),
            backing: Backing::Small,
            apart: false,
        };
        let target = Target::Path { path: path.clone(), offset: 0, force: false };
        let writer = Writer::create(target, header, &[], &WriteOptions { direct: false }).unwrap();
        writer.finish(&[], &PageSet::new(RAM / PAGE_SIZE)).unwrap();
        writer.commit().unwrap();
        let is_direct = |how, direct| {
            let manner = Manner { how: Some(how), direct, ..Manner::default() };
            let origin = Origin::Path { path: path.clone(), offset: 0 };
            OpenFile::open(origin, "a.snap".to_owned(), manner, None).unwrap().reader.is_direct()
        };
        let can = Reader::open(Origin::Path { path: path.clone(), offset: 0 }, true).unwrap();
        assert_eq!(is_direct(How::Eager, true), can.is_direct());
        assert!(!is_direct(How::Eager, false) && !is_direct(How::Mapped, true));
    }
}
