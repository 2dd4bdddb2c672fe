//! Greetings, and the description of the machine that is to come.

use crate::allocation;
use crate::input::Input;
use state::Bundle;
use wire::{Hello, Kind, MAGIC, Message, VERSION};

/// Greets as a destination and as a source, and takes a description and a state apart.
///
/// # Panics
/// When something is accepted that cannot be.
pub fn run(data: &[u8]) {
    allocation::bounded(data.len(), || {
        let mut input = Input::new(data);
        match input.byte() % 4 {
            0 => greeted(input.rest()),
            1 => answered(input.rest()),
            2 => described(input.rest()),
            _ => saved(input.rest()),
        }
    });
}

/// What a destination hears first.
fn greeted(mut bytes: &[u8]) {
    let magic = bytes.starts_with(&MAGIC);
    assert_eq!(wire::read_magic(&mut bytes).is_ok(), magic);
    let Ok(Message::Hello(hello)) = wire::read_expected(&mut bytes, &[Kind::Hello], "Hello") else {
        return;
    };
    let Hello { least_version, version, required, page_size, .. } = hello;
    if let Ok(welcome) = hello.answer(0) {
        assert!((least_version..=version).contains(&VERSION));
        assert_eq!((welcome.version, page_size, required.0), (VERSION, 4096, 0));
    }
}

/// What a source hears first.
fn answered(mut bytes: &[u8]) {
    let expected = [Kind::Welcome, Kind::Refused];
    if wire::read_magic(&mut bytes).is_ok()
        && let Ok(Message::Refused(refusals)) = wire::read_expected(&mut bytes, &expected, "")
    {
        let _ = motion::MotionError::refused(refusals).to_string();
    }
}

/// The machine that is to come.
fn described(bytes: &[u8]) {
    if let Ok(bundle) = Bundle::decode(bytes) {
        assert_eq!(Bundle::decode(&bundle.encode()).as_ref(), Ok(&bundle));
        vmm::fuzzing::describe(bundle);
    }
}

/// Its state.
fn saved(bytes: &[u8]) {
    let Ok(bundle) = Bundle::decode(bytes) else { return };
    for payload in bundle.payloads() {
        let _ = payload.unpack::<vmm::SavedVcpu>();
        let _ = payload.unpack::<vmm::SavedClock>();
    }
    let _ = bundle.finish();
}
