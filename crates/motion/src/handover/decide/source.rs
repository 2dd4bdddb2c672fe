//! What the source decides.

use super::{Effect, Event, InForce, Rule, Rules};
use crate::handover::{Decision, Denial, Input, Notice, Output, Side, Timer, Verdict, Word};
use std::marker::PhantomData;

/// Where the source of a handover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourcePhase {
    /// The guest is stopped, and the source may run it again at any time.
    Offered,
    /// COMMIT was sent. From here on the source may not run the guest on its own authority.
    Committing,
    /// Nothing came back in time: it asks.
    Undecided,
    /// An operator said that the peer owns the guest; the peer has not confirmed it yet.
    Released,
    /// The destination owns the guest, and said so. Final.
    Confirmed,
    /// The guest stays here. Final for the guest.
    Kept {
        /// The destination knows, so there is nothing left to say.
        settled: bool,
    },
}

impl SourcePhase {
    /// The phase in one word, for people and scripts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Committing => "committing",
            Self::Undecided => "undecided",
            Self::Released => "released",
            Self::Confirmed => "confirmed",
            Self::Kept { .. } => "kept",
        }
    }
}

/// What the step before left to be taken back if its record could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unwritten {
    Commit,
    Keep,
    Resolve(SourcePhase),
}

/// The source's decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source<R: Rules = InForce> {
    phase: SourcePhase,
    unwritten: Option<Unwritten>,
    rules: PhantomData<R>,
}

impl<R: Rules> Default for Source<R> {
    fn default() -> Self {
        Self { phase: SourcePhase::Offered, unwritten: None, rules: PhantomData }
    }
}

impl<R: Rules> Source<R> {
    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> SourcePhase {
        self.phase
    }

    /// Who owns the guest, where that is decided.
    #[must_use]
    pub fn owner(&self) -> Option<Side> {
        match self.phase {
            SourcePhase::Offered | SourcePhase::Kept { .. } => Some(Side::Here),
            SourcePhase::Released | SourcePhase::Confirmed => Some(Side::Peer),
            SourcePhase::Committing | SourcePhase::Undecided => None,
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
            Input::LinkLost | Input::Failed => Ok(self.silence()),
            Input::Expired(Timer::Ready) => Ok(self.ready_is_late()),
            Input::Expired(Timer::Reply) if self.phase == SourcePhase::Committing => {
                Ok(self.silence())
            }
            Input::Expired(Timer::Retry) => Ok(self.say_again()),
            Input::Expired(Timer::Reply | Timer::Hold) => Ok(vec![]),
            Input::Cancel => self.cancel(),
            Input::Cont => self.cont(),
            Input::Resolve { owner, fenced } => self.resolve(owner, fenced),
            Input::RecordFailed => Ok(self.take_back(unwritten)),
            Input::Complete => Err(Denial::NotForThisRole),
        }
    }

    fn received(&mut self, word: Word) -> Result<Vec<Effect>, Denial> {
        use SourcePhase::*;
        match (word, self.phase) {
            (Word::Ready, Offered) => Ok(self.commit()),
            // Said twice, or late.
            (Word::Ready, Committing | Undecided | Released | Confirmed) => Ok(vec![]),
            (Word::Ready, Kept { .. }) => Ok(vec![Output::Send(Word::Abort)]),

            // Also before COMMIT: if an operator promoted the destination, the guest runs there, and
            // must not run here, whatever that operator believed about this side.
            (
                Word::Running | Word::Answer(Verdict::Committed),
                Offered | Committing | Undecided | Released,
            ) => Ok(self.confirmed()),
            (Word::Running | Word::Answer(Verdict::Committed), Confirmed) => {
                Ok(vec![Output::Send(Word::Answer(Verdict::Committed))])
            }
            (Word::Running | Word::Answer(Verdict::Committed), Kept { .. }) => {
                Err(Denial::Contradiction(word))
            }

            (Word::Answer(Verdict::Refused), Released) if !R::keep(Rule::RefusedReturnsAlways) => {
                Ok(vec![])
            }
            (Word::Answer(Verdict::Refused), Offered | Committing | Undecided | Released) => {
                Ok(self.keep())
            }
            (Word::Answer(Verdict::Refused), Kept { .. }) => Ok(self.settled()),
            (Word::Answer(Verdict::Refused), Confirmed) => Err(Denial::Contradiction(word)),

            (Word::Answer(Verdict::Unknown), Committing | Undecided)
                if !R::keep(Rule::UnknownDecidesNothing) =>
            {
                Ok(self.keep())
            }
            // Nobody there knows the token any more: there is nobody to tell.
            (Word::Answer(Verdict::Unknown), Kept { .. }) => Ok(self.settled()),
            (Word::Answer(Verdict::Unknown), _) => Ok(vec![]),

            (Word::Query, phase) => Ok(vec![Output::Send(Self::word(phase))]),
            (Word::Commit | Word::Abort, _) => Err(Denial::Unexpected(word)),
        }
    }

    /// What the source has to say when it is asked.
    fn word(phase: SourcePhase) -> Word {
        match phase {
            SourcePhase::Offered if R::keep(Rule::AskedBeforeCommitKnowsNothing) => {
                Word::Answer(Verdict::Unknown)
            }
            // Saying COMMIT again is the answer: it has been given away, and the one who asks may
            // take it.
            SourcePhase::Offered
            | SourcePhase::Committing
            | SourcePhase::Undecided
            | SourcePhase::Released => Word::Commit,
            SourcePhase::Confirmed => Word::Answer(Verdict::Committed),
            SourcePhase::Kept { .. } => Word::Abort,
        }
    }

    /// The point of no return: from here on the permit is gone.
    fn commit(&mut self) -> Vec<Effect> {
        self.phase = SourcePhase::Committing;
        let mut effects = vec![Output::ClearTimer(Timer::Ready)];
        if R::keep(Rule::CommitIsRecorded) {
            self.unwritten = Some(Unwritten::Commit);
            effects.push(Output::Record(Decision::Open));
        }
        effects.extend([Output::Send(Word::Commit), Output::SetTimer(Timer::Reply)]);
        effects
    }

    /// The guest stays here: before COMMIT by the source's own decision, after it because the
    /// destination refused. The guest goes on first, and the rest follows.
    fn keep(&mut self) -> Vec<Effect> {
        self.phase = SourcePhase::Kept { settled: false };
        let mut effects = vec![
            Output::Grant(()),
            Output::Notice(Notice::Decided(Side::Here)),
            Output::ClearTimer(Timer::Ready),
            Output::ClearTimer(Timer::Reply),
        ];
        if R::keep(Rule::AbortIsRecorded) {
            self.unwritten = Some(Unwritten::Keep);
            effects.push(Output::Record(Decision::Refused));
        }
        effects.extend(Self::abort());
        effects
    }

    fn abort() -> [Effect; 2] {
        [Output::Send(Word::Abort), Output::SetTimer(Timer::Retry)]
    }

    fn settled(&mut self) -> Vec<Effect> {
        self.phase = SourcePhase::Kept { settled: true };
        vec![Output::ClearTimer(Timer::Retry), Output::Forget]
    }

    fn confirmed(&mut self) -> Vec<Effect> {
        self.phase = SourcePhase::Confirmed;
        vec![
            Output::ClearTimer(Timer::Ready),
            Output::ClearTimer(Timer::Reply),
            Output::ClearTimer(Timer::Retry),
            Output::Notice(Notice::Decided(Side::Peer)),
            Output::Forget,
            Output::Send(Word::Answer(Verdict::Committed)),
        ]
    }

    /// Nothing more will come over this link, for whatever reason.
    fn silence(&mut self) -> Vec<Effect> {
        match self.phase {
            SourcePhase::Offered => self.keep(),
            SourcePhase::Committing if !R::keep(Rule::SilenceDecidesNothing) => self.keep(),
            SourcePhase::Committing => {
                self.phase = SourcePhase::Undecided;
                let mut effects = vec![
                    Output::ClearTimer(Timer::Reply),
                    Output::Notice(Notice::Undecided),
                    Output::Send(Word::Query),
                    Output::SetTimer(Timer::Retry),
                ];
                if !R::keep(Rule::SourceRecordStaysUntilConfirmed) {
                    effects.push(Output::Forget);
                }
                effects
            }
            _ => vec![],
        }
    }

    fn ready_is_late(&mut self) -> Vec<Effect> {
        match self.phase {
            SourcePhase::Offered => self.keep(),
            SourcePhase::Committing if !R::keep(Rule::ReadyTimerEndsWithCommit) => self.keep(),
            _ => vec![],
        }
    }

    fn say_again(&self) -> Vec<Effect> {
        let word = match self.phase {
            SourcePhase::Undecided if R::keep(Rule::UndecidedAsksAgain) => Word::Query,
            SourcePhase::Released if R::keep(Rule::ReleaseIsRepeated) => Word::Commit,
            SourcePhase::Kept { settled: false } if R::keep(Rule::AbortIsRepeated) => Word::Abort,
            _ => return vec![],
        };
        vec![Output::Send(word), Output::SetTimer(Timer::Retry)]
    }

    fn cancel(&mut self) -> Result<Vec<Effect>, Denial> {
        match self.phase {
            SourcePhase::Offered => Ok(self.keep()),
            SourcePhase::Committing if !R::keep(Rule::CancelEndsWithCommit) => Ok(self.keep()),
            SourcePhase::Kept { .. } => Ok(vec![]),
            _ => Err(Denial::TooLate),
        }
    }

    fn cont(&mut self) -> Result<Vec<Effect>, Denial> {
        match self.phase {
            SourcePhase::Offered => Err(Denial::InProgress),
            SourcePhase::Undecided if !R::keep(Rule::ContNeedsPermission) => Ok(self.keep()),
            SourcePhase::Committing | SourcePhase::Undecided => Err(Denial::Undecided),
            SourcePhase::Released | SourcePhase::Confirmed => Err(Denial::NotOwner),
            // It runs by its permit, which was given out.
            SourcePhase::Kept { .. } => Ok(vec![]),
        }
    }

    fn resolve(&mut self, owner: Side, fenced: bool) -> Result<Vec<Effect>, Denial> {
        use SourcePhase::*;
        if R::keep(Rule::ResolveNeedsFence) && !fenced {
            return Err(Denial::NotFenced);
        }
        match (self.phase, owner) {
            (Offered, _) => Err(Denial::NothingToResolve),
            // An operator has time: what was decided is on record before anything is done.
            (Committing | Undecided | Released, Side::Here) => {
                self.unwritten = Some(Unwritten::Resolve(self.phase));
                self.phase = Kept { settled: false };
                let mut effects = vec![
                    Output::Record(Decision::Refused),
                    Output::Grant(()),
                    Output::Notice(Notice::Decided(Side::Here)),
                    Output::ClearTimer(Timer::Reply),
                ];
                effects.extend(Self::abort());
                Ok(effects)
            }
            (Committing | Undecided, Side::Peer) => {
                self.unwritten = Some(Unwritten::Resolve(self.phase));
                self.phase = Released;
                Ok(vec![
                    Output::Record(Decision::Committed),
                    Output::Notice(Notice::Decided(Side::Peer)),
                    Output::ClearTimer(Timer::Reply),
                    Output::Send(Word::Commit),
                    Output::SetTimer(Timer::Retry),
                ])
            }
            (Released | Confirmed, Side::Peer) | (Kept { .. }, Side::Here) => Ok(vec![]),
            (Confirmed, Side::Here) => Err(Denial::AlreadyDecided(Side::Peer)),
            (Kept { .. }, Side::Peer) => Err(Denial::AlreadyDecided(Side::Here)),
        }
    }

    fn take_back(&mut self, unwritten: Option<Unwritten>) -> Vec<Effect> {
        match unwritten {
            // COMMIT did not go out, so the guest is still this side's.
            Some(Unwritten::Commit) => self.keep(),
            Some(Unwritten::Keep) => Self::abort().to_vec(),
            Some(Unwritten::Resolve(before)) => {
                self.phase = before;
                vec![]
            }
            None => vec![],
        }
    }
}
