//! What the destination decides.

use super::{Effect, Event, InForce, Rule, Rules};
use crate::handover::{Decision, Denial, Input, Notice, Output, Side, Timer, Verdict, Word};
use std::marker::PhantomData;

/// Where the destination of a handover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationPhase {
    /// The guest is on its way: nothing has been promised.
    Preparing,
    /// READY was said. The copy is complete and does not run.
    Ready,
    /// READY was said, and then the source was lost.
    Holding,
    /// The guest is owned here. Final.
    Committed,
    /// The guest will never run here. Final.
    Refused {
        /// That is on record, so that it may be the answer to a question.
        recorded: bool,
    },
}

impl DestinationPhase {
    /// The phase in one word, for people and scripts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Holding => "holding",
            Self::Committed => "committed",
            Self::Refused { .. } => "refused",
        }
    }
}

/// What the step before left to be taken back if its record could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unwritten {
    Ready,
    Commit,
    Failure,
    /// The answer is `unknown` then.
    Refusal(DestinationPhase),
    Timeout,
    Resolve(DestinationPhase),
}

/// The destination's decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination<R: Rules = InForce> {
    phase: DestinationPhase,
    unwritten: Option<Unwritten>,
    rules: PhantomData<R>,
}

impl<R: Rules> Default for Destination<R> {
    fn default() -> Self {
        Self { phase: DestinationPhase::Preparing, unwritten: None, rules: PhantomData }
    }
}

impl<R: Rules> Destination<R> {
    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> DestinationPhase {
        self.phase
    }

    /// Who owns the guest, where that is decided.
    #[must_use]
    pub fn owner(&self) -> Option<Side> {
        match self.phase {
            DestinationPhase::Preparing | DestinationPhase::Refused { .. } => Some(Side::Peer),
            DestinationPhase::Ready | DestinationPhase::Holding => None,
            DestinationPhase::Committed => Some(Side::Here),
        }
    }

    /// Takes one step.
    ///
    /// # Errors
    /// [`Denial`]; the phase is what it was.
    pub fn step(&mut self, event: Event) -> Result<Vec<Effect>, Denial> {
        let unwritten = self.unwritten.take();
        match event {
            Input::Received(word) => self.received(word),
            Input::Complete => self.complete(),
            Input::LinkLost => Ok(self.link_lost()),
            Input::Failed => Ok(self.failed()),
            Input::Expired(Timer::Hold) if self.phase == DestinationPhase::Holding => {
                Ok(self.refuse(Unwritten::Timeout))
            }
            Input::Expired(_) => Ok(vec![]),
            Input::Cancel => self.cancel(),
            Input::Cont => self.cont(),
            Input::Resolve { owner, fenced } => self.resolve(owner, fenced),
            Input::RecordFailed => Ok(self.take_back(unwritten)),
        }
    }

    fn received(&mut self, word: Word) -> Result<Vec<Effect>, Denial> {
        use DestinationPhase::*;
        match (word, self.phase) {
            (Word::Commit, Ready | Holding) => Ok(self.commit()),
            (Word::Commit, Committed) => Ok(vec![Output::Send(Word::Running)]),
            (Word::Commit, Refused { .. }) if !R::keep(Rule::RefusalIsFinal) => Ok(self.commit()),
            // Too late; the source hears why, so that it need not ask.
            (Word::Commit | Word::Query, Refused { .. }) => Ok(self.answer_refused()),
            // Nothing was promised, so no honest source can have committed.
            (Word::Commit, Preparing) => Err(Denial::Unexpected(word)),

            (Word::Abort, Preparing | Ready | Holding) if R::keep(Rule::AbortIsObeyed) => {
                Ok(self.obey_abort())
            }
            (Word::Abort, Refused { .. }) => {
                self.phase = Refused { recorded: false };
                Ok(vec![Output::Forget, Output::Send(Word::Answer(Verdict::Refused))])
            }
            (Word::Abort, Preparing | Ready | Holding) => Ok(vec![]),
            (Word::Abort, Committed) => Err(Denial::Contradiction(word)),

            (Word::Query, Preparing | Ready | Holding) if R::keep(Rule::QuestionDecides) => {
                Ok(self.refuse(Unwritten::Refusal(self.phase)))
            }
            (Word::Query, Preparing | Ready | Holding) => {
                Ok(vec![Output::Send(Word::Answer(Verdict::Unknown))])
            }
            (Word::Query, Committed) => {
                Ok(vec![Output::Send(Word::Answer(if R::keep(Rule::CommittedIsFinal) {
                    Verdict::Committed
                } else {
                    Verdict::Refused
                }))])
            }

            (Word::Answer(Verdict::Committed), Committed) => Ok(vec![Output::Forget]),
            (Word::Answer(Verdict::Committed), _) => Err(Denial::Contradiction(word)),
            (Word::Answer(Verdict::Unknown), _) => Ok(vec![]),
            (Word::Answer(Verdict::Refused) | Word::Ready | Word::Running, _) => {
                Err(Denial::Unexpected(word))
            }
        }
    }

    fn complete(&mut self) -> Result<Vec<Effect>, Denial> {
        match self.phase {
            DestinationPhase::Preparing => {}
            DestinationPhase::Refused { .. } => return Err(Denial::AlreadyDecided(Side::Peer)),
            _ => return Ok(vec![]),
        }
        self.phase = DestinationPhase::Ready;
        let mut effects = Vec::with_capacity(3);
        if R::keep(Rule::ReadyIsRecorded) {
            self.unwritten = Some(Unwritten::Ready);
            effects.push(Output::Record(Decision::Open));
        }
        if !R::keep(Rule::ReadyDoesNotRun) {
            effects.push(Output::Grant(()));
        }
        effects.push(Output::Send(Word::Ready));
        Ok(effects)
    }

    /// The guest is this side's. It runs first, then that is written down, then it is said.
    fn commit(&mut self) -> Vec<Effect> {
        self.phase = DestinationPhase::Committed;
        let mut effects = vec![
            Output::Grant(()),
            Output::Notice(Notice::Decided(Side::Here)),
            Output::ClearTimer(Timer::Hold),
        ];
        if R::keep(Rule::CommittedIsRecorded) {
            self.unwritten = Some(Unwritten::Commit);
            effects.push(Output::Record(Decision::Committed));
        }
        effects.push(Output::Send(Word::Running));
        if !R::keep(Rule::CommittedStaysUntilHeard) {
            effects.push(Output::Forget);
        }
        effects
    }

    /// The guest will never run here, though the source does not know yet.
    fn refuse(&mut self, unwritten: Unwritten) -> Vec<Effect> {
        self.phase = DestinationPhase::Refused { recorded: true };
        let mut effects = Vec::with_capacity(5);
        if R::keep(Rule::RefusalIsRecorded) {
            self.unwritten = Some(unwritten);
            effects.push(Output::Record(Decision::Refused));
        }
        effects.push(Output::Send(Word::Answer(Verdict::Refused)));
        effects.extend(Self::drop_copy());
        effects
    }

    /// The source has the guest: what was promised need not be kept any longer.
    fn obey_abort(&mut self) -> Vec<Effect> {
        self.phase = DestinationPhase::Refused { recorded: false };
        let mut effects = vec![Output::Forget, Output::Send(Word::Answer(Verdict::Refused))];
        effects.extend(Self::drop_copy());
        effects
    }

    fn drop_copy() -> [Effect; 3] {
        [
            Output::Discard,
            Output::ClearTimer(Timer::Hold),
            Output::Notice(Notice::Decided(Side::Peer)),
        ]
    }

    fn answer_refused(&mut self) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(2);
        let recorded = self.phase == DestinationPhase::Refused { recorded: true };
        if !recorded && R::keep(Rule::RefusalIsRecorded) {
            self.unwritten = Some(Unwritten::Refusal(self.phase));
            effects.push(Output::Record(Decision::Refused));
        }
        self.phase = DestinationPhase::Refused { recorded: true };
        effects.push(Output::Send(Word::Answer(Verdict::Refused)));
        effects
    }

    fn link_lost(&mut self) -> Vec<Effect> {
        match self.phase {
            DestinationPhase::Preparing => self.give_up(),
            DestinationPhase::Ready if !R::keep(Rule::ReadyHolds) => self.give_up(),
            DestinationPhase::Ready => {
                self.phase = DestinationPhase::Holding;
                vec![Output::Notice(Notice::Holding), Output::SetTimer(Timer::Hold)]
            }
            _ => vec![],
        }
    }

    fn failed(&mut self) -> Vec<Effect> {
        match self.phase {
            DestinationPhase::Preparing => self.give_up(),
            DestinationPhase::Ready | DestinationPhase::Holding => self.refuse(Unwritten::Failure),
            _ => vec![],
        }
    }

    /// Ends it without a word: nothing was promised.
    fn give_up(&mut self) -> Vec<Effect> {
        self.phase = DestinationPhase::Refused { recorded: false };
        Self::drop_copy().to_vec()
    }

    fn cancel(&mut self) -> Result<Vec<Effect>, Denial> {
        match self.phase {
            DestinationPhase::Preparing => Ok(self.give_up()),
            DestinationPhase::Ready | DestinationPhase::Holding => Err(Denial::Undecided),
            DestinationPhase::Committed => Err(Denial::TooLate),
            DestinationPhase::Refused { .. } => Ok(vec![]),
        }
    }

    fn cont(&self) -> Result<Vec<Effect>, Denial> {
        match self.phase {
            DestinationPhase::Preparing | DestinationPhase::Refused { .. } => Err(Denial::NotOwner),
            DestinationPhase::Ready | DestinationPhase::Holding => Err(Denial::Undecided),
            // It runs by its permit, which was given out.
            DestinationPhase::Committed => Ok(vec![]),
        }
    }

    fn resolve(&mut self, owner: Side, fenced: bool) -> Result<Vec<Effect>, Denial> {
        use DestinationPhase::*;
        if R::keep(Rule::ResolveNeedsFence) && !fenced {
            return Err(Denial::NotFenced);
        }
        match (self.phase, owner) {
            (Preparing, _) => Err(Denial::NothingToResolve),
            // An operator has time: what was decided is on record before anything is done.
            (Ready | Holding, Side::Here) => {
                self.unwritten = Some(Unwritten::Resolve(self.phase));
                self.phase = Committed;
                Ok(vec![
                    Output::Record(Decision::Committed),
                    Output::Grant(()),
                    Output::Notice(Notice::Decided(Side::Here)),
                    Output::ClearTimer(Timer::Hold),
                    Output::Send(Word::Running),
                ])
            }
            (Ready | Holding, Side::Peer) => Ok(self.refuse(Unwritten::Resolve(self.phase))),
            (Committed, Side::Here) | (Refused { .. }, Side::Peer) => Ok(vec![]),
            (Committed, Side::Peer) => Err(Denial::AlreadyDecided(Side::Here)),
            (Refused { .. }, Side::Here) => Err(Denial::AlreadyDecided(Side::Peer)),
        }
    }

    fn take_back(&mut self, unwritten: Option<Unwritten>) -> Vec<Effect> {
        match unwritten {
            // READY was not said, and must not be.
            Some(Unwritten::Ready) => self.give_up(),
            // The guest runs, and that is what counts; only a crash would show the difference.
            Some(Unwritten::Commit) => vec![Output::Send(Word::Running)],
            // It cannot run here, so the copy is of no use; but the refusal has not been said.
            Some(Unwritten::Failure) => self.give_up(),
            Some(Unwritten::Refusal(before)) => {
                self.phase = before;
                vec![Output::Send(Word::Answer(Verdict::Unknown))]
            }
            Some(Unwritten::Timeout) => {
                self.phase = DestinationPhase::Holding;
                vec![Output::SetTimer(Timer::Hold)]
            }
            Some(Unwritten::Resolve(before)) => {
                self.phase = before;
                vec![]
            }
            None => vec![],
        }
    }
}
