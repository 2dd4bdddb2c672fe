//! How far a processor has come, kept in three places so that none of them can
//! be lost or set back unseen: its registers and two pages

/// A processor's progress
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Progress {
    /// The sweep over all its pages, from 1; during the first, pages are new
    pub round: u64,
    /// Pages of this sweep that are done
    pub position: u64,
    /// Batches run so far: differs between any two states of progress
    pub batch: u64,
    /// Generation of the content of model-specific and other slow registers
    pub state: u64,
}

/// Which of the places was wrong
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The first (0) or second (1) copy in memory
    Copy(usize),
    /// The general register with this number, in the order of the fields
    Register(usize),
}

/// What is wrong, what it should have held, and what it held
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Which place
    pub wrong: Wrong,
    /// What it should have held: for a copy, the batch
    pub expected: u64,
    /// What it held, likewise
    pub found: u64,
}

impl Progress {
    /// At the start
    pub const START: Self = Self { round: 1, position: 0, batch: 0, state: 0 };

    const fn registers(self) -> [u64; 4] {
        [self.round, self.position, self.batch, self.state]
    }

    /// Compares the two copies; the newer one is right
    #[must_use]
    pub fn recall(copies: [Self; 2]) -> (Self, Option<Disagreement>) {
        if copies[0] == copies[1] {
            return (copies[0], None);
        }
        let wrong = usize::from(copies[1].batch < copies[0].batch);
        (copies[1 - wrong], Some(copy_wrong(copies, wrong)))
    }

    /// Compares the copies and the registers; two that agree are right
    #[must_use]
    pub fn vote(copies: [Self; 2], held: Self) -> (Self, Option<Disagreement>) {
        match copies.map(|copy| copy == held) {
            [true, true] => (held, None),
            [true, false] => (held, Some(copy_wrong(copies, 1))),
            [false, true] => (held, Some(copy_wrong(copies, 0))),
            [false, false] if copies[0] == copies[1] => {
                let (expected, found) = (copies[0].registers(), held.registers());
                let first = (0..4).find(|&i| expected[i] != found[i]).unwrap_or(0);
                let wrong = Disagreement {
                    wrong: Wrong::Register(first),
                    expected: expected[first],
                    found: found[first],
                };
                (copies[0], Some(wrong))
            }
            [false, false] => Self::recall(copies),
        }
    }
}

const fn copy_wrong(copies: [Progress; 2], wrong: usize) -> Disagreement {
    Disagreement {
        wrong: Wrong::Copy(wrong),
        expected: copies[1 - wrong].batch,
        found: copies[wrong].batch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Progress = Progress { round: 3, position: 64, batch: 99, state: 5 };
    const THEN: Progress = Progress { round: 3, position: 32, batch: 98, state: 5 };

    #[test]
    fn a_copy_set_back_is_found_and_overruled() {
        for wrong in 0..2 {
            let mut copies = [NOW; 2];
            copies[wrong] = THEN;
            let found = Disagreement { wrong: Wrong::Copy(wrong), expected: 99, found: 98 };
            assert_eq!(Progress::recall(copies), (NOW, Some(found)));
            assert_eq!(Progress::vote(copies, NOW), (NOW, Some(found)));
        }
    }

    #[test]
    fn registers_set_back_are_found_and_overruled() {
        let found = Disagreement { wrong: Wrong::Register(1), expected: 64, found: 32 };
        assert_eq!(Progress::vote([NOW; 2], THEN), (NOW, Some(found)));
    }

    #[test]
    fn agreement_is_no_fault() {
        assert_eq!(Progress::recall([NOW; 2]), (NOW, None));
        assert_eq!(Progress::vote([NOW; 2], NOW), (NOW, None));
    }
}
