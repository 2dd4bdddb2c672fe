//! A dead source's word is passed on: its destination only listens, and may hold a guest that
//! nobody else has.

use super::network::{Dialer, PeerAddress};
use crate::handover::{Input, Journal, Key, Output, Role, Witness};
use links::Descriptors;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use wire::{Hello, Role as LinkRole};

/// Between two attempts to reach a destination.
const RETRY: Duration = Duration::from_secs(1);
/// So many, and it is left to an operator: the record stays.
const ATTEMPTS: u32 = 60;

/// Takes over the records of dead sources in `journal` and says to each one's destination, on a
/// thread of its own, what the source had decided: COMMIT where it had given the guest away, ABORT
/// where it had kept it. A record goes when the destination has understood.
///
/// # Errors
/// When no thread can be started.
pub fn pass_on_words(
    mut journal: Box<dyn Journal + Send>,
    stall_limit: Duration,
) -> std::io::Result<()> {
    let keys: Vec<Key> = match journal.list() {
        Ok(keys) => keys.into_iter().filter(|key| key.role == Role::Source).collect(),
        Err(error) => {
            tracing::warn!(%error, "looking for handover records");
            return Ok(());
        }
    };
    let adopt = |key| match journal.adopt(key) {
        Ok(record) => record.map(Witness::new),
        Err(error) => {
            tracing::debug!(%error, "a handover record stays where it is");
            None
        }
    };
    let mut witnesses: Vec<Witness> = keys.into_iter().filter_map(adopt).collect();
    if witnesses.is_empty() {
        return Ok(());
    }
    thread::Builder::new().name("move-words".to_owned()).spawn(move || {
        for _ in 0..ATTEMPTS {
            for witness in &mut witnesses {
                say(witness, &mut *journal, stall_limit);
            }
            witnesses.retain(|witness| !witness.is_done());
            if witnesses.is_empty() {
                return;
            }
            thread::sleep(RETRY);
        }
        tracing::warn!("{} destinations of dead sources were not reached", witnesses.len());
    })?;
    Ok(())
}

/// Says a dead source's word once, and takes the answer.
fn say(witness: &mut Witness, journal: &mut dyn Journal, stall: Duration) {
    let Some(standing) = witness.standing() else { return };
    let Ok(address) = standing.particulars.peer().parse() else { return };
    let machine = *standing.particulars.machine().as_bytes();
    let session = *uuid::Uuid::new_v4().as_bytes();
    let dialer = Dialer {
        peer: PeerAddress { address, descriptors: Arc::new(Descriptors::none()), sibling: None },
        hello: Hello::new(session, machine, LinkRole::Question, 0),
        stall,
    };
    for output in witness.wake() {
        let Output::Send(message) = output else { continue };
        match dialer.ask(message) {
            Ok(answer) => {
                if let Err(error) = witness.drive(Input::Received(answer), journal, &mut |_| {}) {
                    tracing::warn!(%error, "an answer to a dead source's word");
                }
            }
            Err(error) => tracing::debug!(%error, "passing on a dead source's word"),
        }
    }
}
