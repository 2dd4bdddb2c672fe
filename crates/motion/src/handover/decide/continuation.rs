//! What is decided before a guest goes on from a file.
//!
//! A saved guest goes on once. That it does is written into the file, durably, before its first
//! instruction: the *claim*. Of everything else a file makes independent copies, which need none.

use super::{AllRules, InForce};
use crate::handover::Denial;
use std::fmt::Debug;
use std::marker::PhantomData;

/// What a file entitles to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Entitlement {
    /// To continue the one guest that was saved in it: that has to be claimed.
    Once,
    /// To any number of copies.
    Copies,
}

/// Where a guest from a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContinuationPhase {
    /// RAM and state are being loaded.
    Loading,
    /// All is loaded and verified. Nothing was claimed, and nobody may run it.
    Held,
    /// The claim is being written.
    Claiming,
    /// The guest is owned here. Final.
    Owned,
    /// The guest will not run here. Final.
    Ended,
}

/// What happened to a guest from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileInput {
    /// RAM is complete, and the state was loaded and verified.
    Restored,
    /// The claim is durable in the file.
    ClaimWritten,
    /// The claim could not be written, or another has the guest.
    ClaimFailed,
    /// An operator wants the guest to run.
    Cont,
    /// An operator wants the restore to end.
    Cancel,
    /// Something failed.
    Failed,
}

/// What is to be done about a guest from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum FileOutput<P> {
    /// Write the claim, and say what came of it.
    WriteClaim,
    /// The guest may run here.
    Grant(P),
    /// Drop the copy of the guest that is here.
    Discard,
}

/// A rule of [`Continuation`]. None can be left out: a test takes out one at a time, and a promise
/// breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileRule {
    /// Nothing is granted or claimed before all is loaded.
    LoadedFirst,
    /// A saved guest needs its claim.
    ClaimedFirst,
    /// A guest that is to stay stopped is claimed when it is to run, not before.
    ClaimWaitsForCont,
    /// Once the claim is on its way, nobody can say that the guest does not go on here.
    ClaimDecides,
    /// A claim that was not asked for means nothing.
    OnlyTheClaimAskedFor,
    /// The end is final.
    EndIsFinal,
    /// Who owns the guest has its permit already.
    OwnedIsFinal,
}

impl FileRule {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::LoadedFirst,
        Self::ClaimedFirst,
        Self::ClaimWaitsForCont,
        Self::ClaimDecides,
        Self::OnlyTheClaimAskedFor,
        Self::EndIsFinal,
        Self::OwnedIsFinal,
    ];
}

/// Which rules are kept. Production has [`AllRules`], which is no choice at run time.
pub trait FileRules: Copy + Debug {
    /// Whether this one is.
    fn keep(rule: FileRule) -> bool;
}

impl FileRules for AllRules {
    fn keep(_: FileRule) -> bool {
        true
    }
}

/// The decisions about one guest from a file.
#[derive(Debug, Clone, Copy)]
pub struct Continuation<R: FileRules = InForce> {
    phase: ContinuationPhase,
    entitlement: Entitlement,
    /// It is to stay stopped until an operator says `cont`.
    paused: bool,
    rules: PhantomData<R>,
}

type Effects = Result<Option<FileOutput<()>>, Denial>;

impl<R: FileRules> Continuation<R> {
    /// A guest is to come from a file.
    pub fn new(entitlement: Entitlement, paused: bool) -> Self {
        Self { phase: ContinuationPhase::Loading, entitlement, paused, rules: PhantomData }
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> ContinuationPhase {
        self.phase
    }

    /// Takes one step.
    ///
    /// # Errors
    /// [`Denial`]; the phase is what it was.
    pub fn step(&mut self, input: FileInput) -> Effects {
        use ContinuationPhase::*;
        match (input, self.phase) {
            (FileInput::Restored, Loading) => Ok(self.restored()),
            (FileInput::Cont, Held) => Ok(self.claim()),
            (FileInput::Cont, Loading) if !R::keep(FileRule::LoadedFirst) => Ok(self.claim()),
            (FileInput::ClaimWritten, Claiming) => Ok(self.own()),
            (FileInput::ClaimWritten, Loading | Held)
                if !R::keep(FileRule::OnlyTheClaimAskedFor) =>
            {
                Ok(self.own())
            }
            (FileInput::ClaimFailed, Claiming) => {
                self.phase = Held;
                Ok(None)
            }
            (FileInput::Cancel | FileInput::Failed, Loading | Held) => Ok(self.end()),
            (FileInput::Cancel | FileInput::Failed, Claiming)
                if !R::keep(FileRule::ClaimDecides) =>
            {
                Ok(self.end())
            }
            (FileInput::Cancel | FileInput::Failed, Claiming | Owned) => Err(Denial::TooLate),
            (FileInput::Restored, Ended) if !R::keep(FileRule::EndIsFinal) => Ok(self.restored()),
            (FileInput::Cont, Owned) if !R::keep(FileRule::OwnedIsFinal) => Ok(self.own()),
            (FileInput::Cont, Loading | Claiming | Ended) => Err(Denial::NotOwner),
            // It runs by its permit, which was given out.
            (FileInput::Cont, Owned) => Ok(None),
            (FileInput::Cancel | FileInput::Failed, Ended) => Ok(None),
            (
                FileInput::Restored | FileInput::ClaimWritten | FileInput::ClaimFailed,
                Loading | Held | Claiming | Owned | Ended,
            ) => Ok(None),
        }
    }

    fn restored(&mut self) -> Option<FileOutput<()>> {
        match self.entitlement {
            Entitlement::Copies => self.own(),
            Entitlement::Once if self.paused && R::keep(FileRule::ClaimWaitsForCont) => {
                self.phase = ContinuationPhase::Held;
                None
            }
            Entitlement::Once => self.claim(),
        }
    }

    fn claim(&mut self) -> Option<FileOutput<()>> {
        if !R::keep(FileRule::ClaimedFirst) {
            return self.own();
        }
        self.phase = ContinuationPhase::Claiming;
        Some(FileOutput::WriteClaim)
    }

    fn own(&mut self) -> Option<FileOutput<()>> {
        self.phase = ContinuationPhase::Owned;
        Some(FileOutput::Grant(()))
    }

    fn end(&mut self) -> Option<FileOutput<()>> {
        self.phase = ContinuationPhase::Ended;
        Some(FileOutput::Discard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    const INPUTS: [FileInput; 6] = [
        FileInput::Restored,
        FileInput::ClaimWritten,
        FileInput::ClaimFailed,
        FileInput::Cont,
        FileInput::Cancel,
        FileInput::Failed,
    ];

    /// Longer than the longest way through all phases.
    const STEPS: usize = 7;

    /// What has happened, as whoever carries out the steps sees it.
    #[derive(Clone, Copy, Default)]
    struct Seen {
        restored: bool,
        cont: bool,
        /// A claim is being written.
        writing: bool,
        claimed: bool,
        granted: bool,
        discarded: bool,
    }

    /// Takes a step, and says which promise it breaks.
    fn step<R: FileRules>(
        it: &mut Continuation<R>,
        seen: &mut Seen,
        input: FileInput,
    ) -> Result<(), &'static str> {
        match input {
            FileInput::Restored => seen.restored = true,
            FileInput::Cont => seen.cont = true,
            FileInput::ClaimWritten => seen.claimed |= std::mem::take(&mut seen.writing),
            FileInput::ClaimFailed => seen.writing = false,
            FileInput::Cancel | FileInput::Failed => {}
        }
        let Ok(Some(output)) = it.step(input) else { return Ok(()) };
        let must_claim = it.entitlement == Entitlement::Once;
        match output {
            FileOutput::Grant(()) if seen.granted => Err("two grants"),
            FileOutput::Grant(()) if seen.discarded => Err("a grant of what was discarded"),
            FileOutput::Grant(()) if !seen.restored => Err("a grant of what is not there"),
            FileOutput::Grant(()) if must_claim && !seen.claimed => Err("a grant without a claim"),
            FileOutput::WriteClaim if !must_claim => Err("a claim of a copy"),
            FileOutput::WriteClaim if !seen.restored => Err("a claim of what is not there"),
            FileOutput::WriteClaim if seen.writing => Err("two claims at once"),
            FileOutput::WriteClaim if it.paused && !seen.cont => Err("a claim before cont"),
            FileOutput::WriteClaim if seen.discarded => Err("a claim of what was discarded"),
            FileOutput::Discard if seen.writing => Err("discarded while being claimed"),
            FileOutput::Discard if seen.granted => Err("discarded while it may run"),
            FileOutput::Discard if seen.discarded => Err("discarded twice"),
            FileOutput::Grant(()) => {
                seen.granted = true;
                Ok(())
            }
            FileOutput::WriteClaim => {
                seen.writing = true;
                Ok(())
            }
            FileOutput::Discard => {
                seen.discarded = true;
                Ok(())
            }
        }
    }

    /// Every sequence of inputs, whether they make sense or not. What broke, and how.
    fn explore<R: FileRules>() -> Result<u32, String> {
        fn go<R: FileRules>(
            it: Continuation<R>,
            seen: Seen,
            path: &mut Vec<FileInput>,
            grants: &mut u32,
        ) -> Result<(), String> {
            if path.len() == STEPS {
                *grants += u32::from(seen.granted);
                return Ok(());
            }
            for input in INPUTS {
                let (mut it, mut seen) = (it, seen);
                path.push(input);
                step(&mut it, &mut seen, input).map_err(|broken| {
                    let mut text = format!("{broken}: {:?} paused {}:", it.entitlement, it.paused);
                    path.iter().for_each(|input| write!(text, " {input:?}").unwrap());
                    text
                })?;
                go(it, seen, path, grants)?;
                path.pop();
            }
            Ok(())
        }
        let mut grants = 0;
        for entitlement in [Entitlement::Once, Entitlement::Copies] {
            for paused in [false, true] {
                let before = grants;
                let it = Continuation::<R>::new(entitlement, paused);
                go(it, Seen::default(), &mut Vec::new(), &mut grants)?;
                assert!(grants > before, "{entitlement:?} paused {paused} never runs");
            }
        }
        Ok(grants)
    }

    #[test]
    fn no_sequence_runs_a_guest_twice_or_unclaimed_or_incomplete() {
        explore::<AllRules>().unwrap();
    }

    macro_rules! without {
        ($($rule:ident),+ $(,)?) => {
            $({
                #[derive(Debug, Clone, Copy)]
                struct Without;
                impl FileRules for Without {
                    fn keep(rule: FileRule) -> bool {
                        rule != FileRule::$rule
                    }
                }
                explore::<Without>().expect_err(stringify!($rule));
            })+
            assert_eq!([$(FileRule::$rule),+], FileRule::ALL);
        };
    }

    #[test]
    fn without_any_one_rule_a_promise_breaks() {
        without!(
            LoadedFirst,
            ClaimedFirst,
            ClaimWaitsForCont,
            ClaimDecides,
            OnlyTheClaimAskedFor,
            EndIsFinal,
            OwnedIsFinal,
        );
    }

    fn steps(entitlement: Entitlement, paused: bool, inputs: &[FileInput]) -> Vec<Effects> {
        let mut it = <Continuation>::new(entitlement, paused);
        inputs.iter().map(|input| it.step(*input)).collect()
    }

    #[test]
    fn a_saved_guest_runs_after_its_claim() {
        use FileInput::*;
        assert_eq!(
            steps(Entitlement::Once, false, &[Restored, ClaimWritten]),
            [Ok(Some(FileOutput::WriteClaim)), Ok(Some(FileOutput::Grant(())))]
        );
        assert_eq!(
            steps(Entitlement::Once, true, &[Cont, Restored, Cont, ClaimWritten, Cont]),
            [
                Err(Denial::NotOwner),
                Ok(None),
                Ok(Some(FileOutput::WriteClaim)),
                Ok(Some(FileOutput::Grant(()))),
                Ok(None)
            ]
        );
    }

    #[test]
    fn a_claim_that_failed_can_be_tried_again_or_given_up() {
        use FileInput::*;
        let failed = [Restored, ClaimFailed];
        let again = [&failed[..], &[Cont, ClaimWritten]].concat();
        assert_eq!(
            steps(Entitlement::Once, false, &again)[2..],
            [Ok(Some(FileOutput::WriteClaim)), Ok(Some(FileOutput::Grant(())))]
        );
        let given_up = [&failed[..], &[Failed, Cont]].concat();
        assert_eq!(
            steps(Entitlement::Once, false, &given_up)[2..],
            [Ok(Some(FileOutput::Discard)), Err(Denial::NotOwner)]
        );
    }

    #[test]
    fn a_copy_needs_no_claim() {
        use FileInput::*;
        assert_eq!(
            steps(Entitlement::Copies, true, &[Restored, Cancel]),
            [Ok(Some(FileOutput::Grant(()))), Err(Denial::TooLate)]
        );
    }
}
