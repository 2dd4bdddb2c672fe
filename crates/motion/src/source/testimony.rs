//! A dead source's word is passed on: its destination only listens, and may hold a guest that
//! nobody else has.

use super::network::{Dialer, PeerAddress};
use crate::MotionError;
use crate::again::pause_after;
use crate::handover::{Input, Journal, Key, Output, Role, Side, Standing, Token, Witness};
use links::Descriptors;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use wire::{Hello, Role as LinkRole};

/// Speaks for the dead sources of a host, on a thread of its own that goes on when the value is dropped.
pub struct Testimony {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    witnesses: Vec<Witness>,
    journal: Box<dyn Journal + Send>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Testimony {
    /// Takes over the records of dead sources in `journal` and says to each one's destination what the
    /// source had decided: COMMIT where it had given the guest away, ABORT where it had kept it. It is
    /// said until the destination has understood, or the process ends. Then the record goes.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn begin(
        mut journal: Box<dyn Journal + Send>,
        stall_limit: Duration,
    ) -> std::io::Result<Self> {
        let keys = journal.list().unwrap_or_else(|error| {
            tracing::warn!(%error, "looking for handover records");
            Vec::new()
        });
        let adopt = |key| match journal.adopt(key) {
            Ok(record) => record.map(Witness::new),
            Err(error) => {
                tracing::debug!(%error, "a handover record stays where it is");
                None
            }
        };
        let of_sources = |key: &Key| key.role == Role::Source;
        let witnesses: Vec<Witness> =
            keys.into_iter().filter(of_sources).filter_map(adopt).collect();
        let nobody = witnesses.is_empty();
        let shared = Arc::new(Mutex::new(Shared { witnesses, journal }));
        if !nobody {
            let shared = shared.clone();
            let speak = move || speak(&shared, stall_limit);
            thread::Builder::new().name("move-words".to_owned()).spawn(speak)?;
        }
        Ok(Self { shared })
    }

    /// How the handovers of those sources stood.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        lock(&self.shared).witnesses.iter().filter_map(Witness::standing).collect()
    }

    /// An operator decides for a dead source; nothing where it left no such record.
    pub fn resolve(
        &self,
        token: Token,
        owner: Side,
        fenced: bool,
    ) -> Option<Result<(), MotionError>> {
        let mut shared = lock(&self.shared);
        let Shared { witnesses, journal } = &mut *shared;
        let witness = witnesses.iter_mut().find(|witness| witness.key().token == token)?;
        let input = Input::Resolve { owner, fenced };
        Some(witness.drive(input, &mut **journal, &mut |_| {}).map_err(MotionError::from))
    }
}

/// Says every word until it was understood.
fn speak(shared: &Mutex<Shared>, stall: Duration) {
    let begun = Instant::now();
    loop {
        let standings: Vec<Standing> =
            lock(shared).witnesses.iter().filter_map(Witness::standing).collect();
        for standing in &standings {
            say(standing, shared, stall);
        }
        if lock(shared).witnesses.is_empty() {
            return;
        }
        thread::sleep(pause_after(begun.elapsed()));
    }
}

/// Says a dead source's word once, and takes the answer.
fn say(standing: &Standing, shared: &Mutex<Shared>, stall: Duration) {
    let particulars = &standing.particulars;
    let Ok(address) = particulars.peer().parse() else { return };
    let machine = *particulars.machine().as_bytes();
    let session = *uuid::Uuid::new_v4().as_bytes();
    let dialer = Dialer {
        peer: PeerAddress { address, descriptors: Arc::new(Descriptors::none()), sibling: None },
        hello: Hello::new(session, machine, LinkRole::Question, 0),
        stall,
    };
    let key = Key { token: particulars.token(), role: Role::Source };
    let is_it = |witness: &Witness| witness.key() == key;
    let words = lock(shared).witnesses.iter().find(|w| is_it(w)).map(Witness::wake);
    for output in words.unwrap_or_default() {
        let Output::Send(message) = output else { continue };
        // Nobody waits for the destination who wants to know, or decide, something meanwhile.
        match dialer.ask(message) {
            Ok(answer) => {
                let mut shared = lock(shared);
                let Shared { witnesses, journal } = &mut *shared;
                let Some(witness) = witnesses.iter_mut().find(|w| is_it(w)) else { return };
                if let Err(error) =
                    witness.drive(Input::Received(answer), &mut **journal, &mut |_| {})
                {
                    tracing::warn!(%error, "an answer to a dead source's word");
                }
                witnesses.retain(|witness| !witness.is_done());
            }
            Err(error) => tracing::debug!(%error, "passing on a dead source's word"),
        }
    }
}
