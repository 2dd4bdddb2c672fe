//! Builds machines for guests that come from the other host.

use crate::book::Book;
use crate::guest::SharedGuest;
use crate::life::Life;
use crate::machine::{Nature, Operation, SimMachine};
use memory::GuestRam;
use motion::{DestinationMachine, MachineBuilder};
use state::{Bundle, Code, Refusal};
use std::sync::{Arc, Mutex, Weak};

/// Builds machines for one process, and knows the last one for as long as it is there.
pub struct Builder {
    pub life: Arc<Life>,
    pub guest: SharedGuest,
    pub book: Book,
    pub nature: Nature,
    pub refuses: bool,
    /// The RAM that the guest is to keep, in an update.
    pub shared: Option<Arc<GuestRam>>,
    pub built: Mutex<Weak<SimMachine>>,
}

impl Builder {
    pub fn machine(&self) -> Option<Arc<SimMachine>> {
        self.built.lock().expect("nobody panics while holding it").upgrade()
    }
}

impl MachineBuilder for Builder {
    fn check(&self, _: &Bundle) -> Vec<Refusal> {
        let refusal = |code| Refusal::new(code, "machine", "it was told to refuse", "");
        if self.refuses {
            vec![refusal(Code::IncompatibleCpu), refusal(Code::InsufficientMemory)]
        } else {
            Vec::new()
        }
    }

    fn build(&self, _: Bundle) -> Result<Arc<dyn DestinationMachine>, Vec<Refusal>> {
        self.life.takes(self.nature.build);
        if self.nature.fails == Some(Operation::Build) {
            let why = "it was told to fail";
            return Err(vec![Refusal::new(Code::MemoryUnavailable, "RAM", why, "")]);
        }
        let (life, guest) = (self.life.clone(), self.guest.clone());
        let (book, nature) = (self.book.clone(), self.nature);
        let machine = match &self.shared {
            Some(ram) => SimMachine::over(ram.clone(), life, guest, book, nature),
            None => SimMachine::empty(life, guest, book, nature),
        };
        *self.built.lock().expect("nobody panics while holding it") = Arc::downgrade(&machine);
        Ok(machine)
    }
}
