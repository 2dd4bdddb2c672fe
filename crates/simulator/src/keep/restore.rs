//! A guest on its way out of a file: the engine's restore, on this thread, with somebody who may do
//! something between any two things that it does to the file.

use super::disk::Hands;
use crate::book::Book;
use crate::guest::SharedGuest;
use crate::life::Life;
use crate::machine::{Nature, Operation, SimMachine};
use crate::watcher::Watcher;
use motion::restore::{Claimant, How, Phase, RestoreJob, RestoreOptions, Terms};
use motion::{DestinationMachine, MachineBuilder, MotionError};
use snapshot::{Origin, Reader, watched_by};
use state::{Bundle, Code, Refusal};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

/// Builds a machine, and keeps it.
pub struct Builder {
    pub life: Arc<Life>,
    pub guest: SharedGuest,
    pub book: Book,
    pub nature: Nature,
    built: Mutex<Option<Arc<SimMachine>>>,
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
        let (life, guest) = (self.life.clone(), self.guest.clone());
        let machine = SimMachine::empty(life, guest, self.book.clone(), self.nature);
        *self.built.lock().expect("nobody panics while holding it") = Some(machine.clone());
        Ok(machine)
    }
}

pub struct RestoreSide {
    pub path: PathBuf,
    pub terms: Terms,
    pub paused: bool,
    pub hands: Rc<Hands>,
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
    ) -> Rc<Self> {
        let life = hands.life.clone();
        let builder = Arc::new(Builder { life, guest, book, nature, built: Mutex::default() });
        let (job, refused) = (RefCell::default(), RefCell::default());
        Rc::new(Self { path, terms, paused, hands, builder, job, refused })
    }

    /// All of it, up to the guest or the reason why there is none.
    pub fn run(&self) {
        let begun = watched_by(self.hands.clone(), || {
            let origin = Origin::Path { path: self.path.clone(), offset: 0 };
            let reader = Reader::open(origin, false)?;
            let boot = Uuid::from_u128(u128::from(self.hands.life.pid));
            let host = format!("host {}", self.hands.life.host);
            let options = RestoreOptions {
                terms: self.terms,
                how: How::Eager,
                paused: self.paused,
                claimant: Claimant { host, boot },
                threads: 1,
                io_stall: Duration::from_secs(5),
                verify: true,
            };
            let watcher = Watcher::new(self.builder.book.clone(), "restore", false);
            let watcher = Arc::new(watcher);
            let prepared =
                RestoreJob::prepare(reader, "file", self.builder.clone(), options, watcher)?;
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
        self.builder.built.lock().expect("nobody panics while holding it").clone()
    }
}
