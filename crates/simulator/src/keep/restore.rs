//! A guest on its way out of a file: the engine's restore, on this thread, with somebody who may do
//! something between any two things that it does to the file.

use super::Cellar;
use super::crew::{Crew, CrewMeans};
use super::disk::Hands;
use crate::book::Book;
use crate::guest::SharedGuest;
use crate::life::Life;
use crate::machine::{Nature, Operation, SimMachine};
use crate::rng::Rng;
use crate::watcher::Watcher;
use memory::{GuestRam, MemoryFile, MemoryFileError};
use motion::restore::{Claimant, How, Phase, RestoreJob, RestoreOptions, Terms};
use motion::{DestinationMachine, MachineBuilder, MotionError};
use snapshot::{Origin, Reader, watched_by};
use state::{Bundle, Code, Refusal};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

/// Builds a machine, and keeps it.
pub struct Builder {
    pub life: Arc<Life>,
    pub guest: SharedGuest,
    pub book: Book,
    pub nature: Nature,
    /// Where RAM may lie in a memory file, and whether it does.
    pub cellar: Arc<Cellar>,
    in_place: AtomicBool,
    built: Mutex<Option<Arc<SimMachine>>>,
}

impl Builder {
    /// What was built.
    pub fn built(&self) -> Option<Arc<SimMachine>> {
        self.built.lock().expect("nobody panics while holding it").clone()
    }
}

impl MachineBuilder for Builder {
    fn check(&self, _: &Bundle) -> Vec<Refusal> {
        Vec::new()
    }

    fn build(&self, _: Bundle) -> Result<Arc<dyn DestinationMachine>, Vec<Refusal>> {
        if self.nature.fails == Some(Operation::Build) {
            let why = "it was told to fail";
            return Err(vec![Refusal::new(Code::MemoryUnavailable, "RAM", why, "")]);
        }
        let (life, guest, book) = (self.life.clone(), self.guest.clone(), self.book.clone());
        let machine = if self.in_place.load(Relaxed) {
            let refused = |error: MemoryFileError| {
                let MotionError { code, why, .. } = error.into();
                vec![Refusal::new(code, "RAM", why, "")]
            };
            let file = MemoryFile::open(self.cellar.path()).map_err(refused)?;
            let ram = GuestRam::named(Arc::new(file)).expect("16 MiB can be mapped");
            SimMachine::named(ram, self.cellar.clone(), life, guest, book, self.nature)
        } else {
            SimMachine::empty(life, guest, book, self.nature)
        };
        *self.built.lock().expect("nobody panics while holding it") = Some(machine.clone());
        Ok(machine)
    }
}

pub struct RestoreSide {
    pub path: PathBuf,
    pub terms: Terms,
    pub paused: bool,
    pub hands: Rc<Hands>,
    /// Its RAM comes while it runs, brought by these.
    pub crew: Option<Arc<Crew>>,
    pub watcher: Arc<Watcher>,
    builder: Arc<Builder>,
    job: RefCell<Option<RestoreJob>>,
    /// Why it did not even begin.
    refused: RefCell<Option<MotionError>>,
}

impl RestoreSide {
    pub fn new(
        path: PathBuf,
        terms: Terms,
        paused: bool,
        hands: Rc<Hands>,
        (guest, book, nature): (SharedGuest, Book, Nature),
        lazily: Option<(Rng, u64)>,
    ) -> Rc<Self> {
        let life = hands.life.clone();
        let watcher = Arc::new(Watcher::new(book.clone(), "restore", false));
        let (cellar, in_place, built) =
            (hands.disk.cellar.clone(), AtomicBool::new(false), Mutex::default());
        let builder = Arc::new(Builder { life, guest, book, nature, cellar, in_place, built });
        let crew = lazily.map(|(rng, now)| Crew::new(builder.clone(), rng, now));
        let (job, refused) = (RefCell::default(), RefCell::default());
        Rc::new(Self { path, terms, paused, hands, crew, watcher, builder, job, refused })
    }

    /// All of it, up to the guest or the reason why there is none.
    pub fn run(&self) {
        let begun = watched_by(self.hands.clone(), || {
            let origin = Origin::Path { path: self.path.clone(), offset: 0 };
            let reader = Reader::open(origin, false)?;
            let how = match (reader.apart(), &self.crew) {
                (Some(_), _) => How::InPlace,
                (None, Some(_)) => How::Lazy,
                (None, None) => How::Eager,
            };
            self.builder.in_place.store(how == How::InPlace, Relaxed);
            let boot = Uuid::from_u128(u128::from(self.hands.life.pid));
            let host = format!("host {}", self.hands.life.host);
            let options = RestoreOptions {
                terms: self.terms,
                how,
                paused: self.paused,
                claimant: Claimant { host, boot },
                threads: 1,
                io_stall: Duration::from_secs(5),
                verify: true,
            };
            let watcher = self.watcher.clone();
            let mut prepared =
                RestoreJob::prepare(reader, "file", self.builder.clone(), options, watcher)?;
            if let Some(crew) = &self.crew {
                prepared.filled_by(Arc::new(CrewMeans(crew.clone())));
            }
            *self.job.borrow_mut() = Some(prepared.job());
            prepared.run();
            Ok(())
        });
        if let Err(error) = begun {
            *self.refused.borrow_mut() = Some(error);
        }
    }

    /// Somebody wants the guest to run.
    pub fn cont(&self) -> Result<(), MotionError> {
        let none = || MotionError::new(Code::InvalidState, "there is no restore");
        watched_by(self.hands.clone(), || self.job.borrow().as_ref().ok_or_else(none)?.cont())
    }

    /// Somebody wants it to end, or the guest to run, while it does something else.
    pub fn told(&self, run: bool) {
        if let Some(job) = self.job.try_borrow().ok().as_ref().and_then(|job| job.as_ref()) {
            let _ = if run { job.cont() } else { job.cancel() };
        }
    }

    /// Somebody wants pages to be asked for again that could not be had.
    pub fn retry(&self) -> Result<(), MotionError> {
        let retry = || self.job.borrow().as_ref().map_or(Ok(()), RestoreJob::retry);
        watched_by(self.hands.clone(), retry)
    }

    /// Why pages cannot be had, if they cannot.
    pub fn outage(&self) -> Option<String> {
        Some(self.job.borrow().as_ref()?.outage()?.why)
    }

    pub fn phase(&self) -> Option<Phase> {
        self.job.borrow().as_ref().map(RestoreJob::phase)
    }

    /// Why it brought no guest.
    pub fn code(&self) -> Option<Code> {
        let refused = self.refused.borrow().as_ref().map(|error| error.code);
        let reported = || self.job.borrow().as_ref()?.report().error.map(|error| error.code);
        refused.or_else(reported)
    }

    pub fn token(&self) -> Option<String> {
        self.job.borrow().as_ref().map(|job| job.report().token)
    }

    pub fn machine(&self) -> Option<Arc<SimMachine>> {
        self.builder.built()
    }
}
