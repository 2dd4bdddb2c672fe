//! What a client of the control socket sends.

use crate::allocation;
use crate::input::Input;

/// The longest command here, in bytes: short, so that inputs reach it.
const LONGEST: usize = 1024;

/// Reads bytes in pieces, and obeys what is a command as far as that needs no machine.
pub fn run(data: &[u8]) {
    allocation::bounded(data.len(), || {
        let mut input = Input::new(data);
        let piece = usize::from(input.byte()) + 1;
        qmp::fuzzing::serve(input.rest().chunks(piece), LONGEST);
    });
}
