//! Handover records, and what is asked of whoever speaks for a dead process.

use crate::allocation;
use crate::input::Input;
use crate::messages;
use motion::handover::{Input as Happened, Journal, MemoryJournal, Output, Record, Side, Witness};

/// Reads a record, and has its witness questioned.
///
/// # Panics
/// When a record can be written in two ways, or a witness says what the dead process did not decide.
pub fn run(data: &[u8]) {
    allocation::bounded(data.len(), || {
        let mut input = Input::new(data);
        let file = input.bytes();
        let Ok(record) = Record::decode(file) else { return };
        assert_eq!(record.encode(), file, "a record can be written in two ways");
        question(record, &mut input);
    });
}

fn question(record: Record, input: &mut Input<'_>) {
    let mut journal = MemoryJournal::default();
    journal.put(&record).expect("memory does not fail");
    let token = record.particulars.token();
    let mut witness = Witness::new(record);
    let mut owner = witness.standing().and_then(|standing| standing.owner);
    while !input.is_empty() && !witness.is_done() {
        let happened = match input.byte() % 4 {
            0 => Happened::Resolve {
                owner: if input.flag() { Side::Here } else { Side::Peer },
                fenced: input.flag(),
            },
            1 => Happened::Cancel,
            _ => Happened::Received(token.says(messages::handover(input).word)),
        };
        let _ = witness.drive(happened, &mut journal, &mut |output| {
            if let Output::Send(message) = output {
                assert_eq!(message.token, token);
            }
        });
        let now = witness.standing().and_then(|standing| standing.owner);
        assert!(owner.is_none() || now.is_none() || owner == now, "{owner:?} became {now:?}");
        owner = now.or(owner);
    }
}
