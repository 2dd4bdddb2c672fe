//! The escape key of a terminal: Ctrl-A, as elsewhere among virtual machines.
//!
//! Everything else that is typed belongs to the guest, Ctrl-C included.

const CTRL_A: u8 = 0x01;

/// Finds escape sequences in what is typed.
#[derive(Debug, Default)]
pub(super) struct Escape {
    /// Ctrl-A was typed and what it means is not known yet.
    pub pending: bool,
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// For the guest.
    Input(Vec<u8>),
    /// Ctrl-A x: end the machine.
    Quit,
}

impl Escape {
    /// Takes what was typed. There may be one byte more for the guest than was typed: a Ctrl-A
    /// that turned out to be no escape. Ctrl-A Ctrl-A is one Ctrl-A for the guest.
    pub fn take(&mut self, typed: &[u8]) -> Typed {
        let mut input = Vec::with_capacity(typed.len() + 1);
        for &byte in typed {
            match (std::mem::take(&mut self.pending), byte) {
                (true, b'x' | b'X') => return Typed::Quit,
                (true, CTRL_A) => input.push(CTRL_A),
                (true, other) => input.extend([CTRL_A, other]),
                (false, CTRL_A) => self.pending = true,
                (false, other) => input.push(other),
            }
        }
        Typed::Input(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ctrl_a_x_is_kept_from_the_guest() {
        let mut escape = Escape::default();
        let mut guest = |typed: &[u8]| escape.take(typed);
        assert_eq!(guest(b"a\x03x"), Typed::Input(b"a\x03x".to_vec()));
        assert_eq!(guest(b"\x01\x01x"), Typed::Input(b"\x01x".to_vec()));
        assert_eq!(guest(b"\x01k"), Typed::Input(b"\x01k".to_vec()));
        assert_eq!(guest(b"\x01"), Typed::Input(vec![]));
        assert_eq!(guest(b"x"), Typed::Quit);
    }
}
