//! What earlier processes and motions left on record, and the answers that follow from it.

use crate::MotionError;
use crate::handover::{
    Decision, DestinationHandover, Input, Journal, Key, Message, Output, Record, Role, Standing,
    Token, Witness,
};
use crate::rules::{Rule, keeps};

/// The handovers of dead processes whose destination they were, and of motions that failed here:
/// somebody may still ask about them.
#[derive(Debug, Default)]
pub(super) struct Records {
    witnesses: Vec<Witness>,
    /// Those of this process.
    own: Vec<Token>,
}

impl Records {
    /// Takes over what dead destinations left. What cannot be read is left alone, with a word in
    /// the log: it may be another process's, or an operator's to look at.
    pub(super) fn adopt(journal: &mut dyn Journal) -> Self {
        let keys = journal.list().unwrap_or_else(|error| {
            tracing::warn!(%error, "looking for handover records");
            Vec::new()
        });
        let mut records = Self::default();
        if !keeps(Rule::DeadAreSpokenFor) {
            return records;
        }
        for key in keys.into_iter().filter(|key| key.role == Role::Destination) {
            match journal.adopt(key) {
                Ok(Some(record)) => records.witnesses.push(Witness::new(record)),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a handover record stays where it is"),
            }
        }
        records
    }

    /// Goes on answering for a handover of this process that was refused, and is on record as such.
    pub(super) fn keep(&mut self, handover: &DestinationHandover) {
        self.own.push(handover.particulars().token());
        self.witnesses.push(Witness::new(Record {
            role: Role::Destination,
            decision: Decision::Refused,
            particulars: handover.particulars().clone(),
        }));
    }

    /// An operator decides for a dead process; nothing where none left such a record.
    pub(super) fn resolve(
        &mut self,
        token: Token,
        input: Input,
        journal: &mut dyn Journal,
    ) -> Option<Result<(), MotionError>> {
        let key = Key { token, role: Role::Destination };
        let witness = self.witnesses.iter_mut().find(|witness| witness.key() == key)?;
        Some(witness.drive(input, journal, &mut |_| {}).map_err(MotionError::from))
    }

    /// What there is to know of each.
    pub(super) fn standings(&self) -> Vec<Standing> {
        let standing = |witness: &Witness| {
            let standing = witness.standing()?;
            let own = self.own.contains(&standing.particulars.token());
            Some(if own {
                Standing { phase: Decision::Refused.name(), ..standing }
            } else {
                standing
            })
        };
        self.witnesses.iter().filter_map(standing).collect()
    }

    /// The answer to a message about a handover that is not the motion's under way.
    pub(super) fn answer(
        &mut self,
        message: Message,
        journal: &mut dyn Journal,
    ) -> Option<Message> {
        let key = Key { token: message.token, role: Role::Destination };
        let Some(witness) = self.witnesses.iter_mut().find(|w| w.key() == key) else {
            return said_elsewhere(key, message, journal)
                .or_else(|| Witness::answer_without_record(message));
        };
        let mut answer = None;
        let result = witness.drive(Input::Received(message), journal, &mut |output| {
            if let Output::Send(said) = output {
                answer = Some(said);
            }
        });
        if let Err(error) = result {
            tracing::warn!(%error, "answering for a process that is dead");
        }
        self.witnesses.retain(|witness| !witness.is_done());
        answer
    }
}

/// The answer that a record of another process gives: of the one that was the destination, or of one
/// that began to wait before this one and speaks for it. What is decided there is final, so anybody
/// may say it; the record stays for its owner to remove.
fn said_elsewhere(key: Key, message: Message, journal: &mut dyn Journal) -> Option<Message> {
    if !(keeps(Rule::OthersAreSpokenFor) && keeps(Rule::DeadAreSpokenFor)) {
        return None;
    }
    let record = match journal.get(key) {
        Ok(record) => record.filter(|record| record.decision != Decision::Open)?,
        Err(error) => {
            tracing::warn!(%error, "a handover record cannot be read");
            return None;
        }
    };
    let outputs = Witness::new(record).step(Input::Received(message)).ok()?;
    outputs.into_iter().find_map(|output| match output {
        Output::Send(said) => Some(said),
        _ => None,
    })
}
