//! What a process says about a handover of a process that is dead.

use super::{Event, InForce, Rule, Rules};
use crate::handover::{Decision, Denial, Input, Notice, Output, Role, Side, Timer, Verdict, Word};
use std::convert::Infallible;
use std::marker::PhantomData;

/// What comes out: whatever it is, it is no permission.
type Effect = Output<Word, Decision, Infallible>;

/// What a [`Witness`] goes by: a dead process's role and the last decision that it wrote down.
pub type Testimony = Option<(Role, Decision)>;

/// Speaks for a process that is dead, by what that wrote down. The guest's memory died with the
/// process, so a witness never grants anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Witness<R: Rules = InForce> {
    testimony: Testimony,
    unwritten: Option<Testimony>,
    rules: PhantomData<R>,
}

impl<R: Rules> Witness<R> {
    /// The witness of what was found on record.
    #[must_use]
    pub fn new(testimony: Testimony) -> Self {
        Self { testimony, unwritten: None, rules: PhantomData }
    }

    /// What it goes by.
    #[must_use]
    pub fn testimony(&self) -> Testimony {
        self.testimony
    }

    /// What it says unasked: a dead source's word has to reach the destination, because that only
    /// listens. Also what it says when it is asked.
    #[must_use]
    pub fn wake(&self) -> Vec<Effect> {
        match self.testimony {
            Some((Role::Source, _)) if R::keep(Rule::RecordedWordIsPassedOn) => {
                vec![Output::Send(self.word()), Output::SetTimer(Timer::Retry)]
            }
            _ => vec![],
        }
    }

    /// What there is to say about this handover.
    fn word(&self) -> Word {
        match self.testimony {
            // It had given the guest away, and died with its own copy: the one who asks may take it.
            Some((Role::Source, Decision::Open | Decision::Committed)) => Word::Commit,
            Some((Role::Source, Decision::Refused)) => Word::Abort,
            // It may have run the guest before it died.
            Some((Role::Destination, Decision::Open)) if R::keep(Rule::LostReadyIsUnknown) => {
                Word::Answer(Verdict::Unknown)
            }
            Some((Role::Destination, Decision::Committed)) => Word::Answer(Verdict::Committed),
            Some((Role::Destination, Decision::Open | Decision::Refused)) => {
                Word::Answer(Verdict::Refused)
            }
            None if R::keep(Rule::NoRecordIsUnknown) => Word::Answer(Verdict::Unknown),
            None => Word::Answer(Verdict::Refused),
        }
    }

    /// Takes one step.
    ///
    /// # Errors
    /// [`Denial`]; nothing changed.
    pub fn step(&mut self, event: Event) -> Result<Vec<Effect>, Denial> {
        let unwritten = self.unwritten.take();
        match event {
            Input::Received(word) => self.received(word),
            Input::Expired(Timer::Retry) => Ok(self.wake()),
            Input::Resolve { owner, fenced } => self.resolve(owner, fenced),
            Input::RecordFailed => {
                self.testimony = unwritten.unwrap_or(self.testimony);
                Ok(vec![])
            }
            Input::Cancel | Input::Cont => Err(Denial::NoGuest),
            Input::Complete => Err(Denial::NotForThisRole),
            Input::LinkLost | Input::Failed | Input::Expired(_) => Ok(vec![]),
        }
    }

    fn received(&mut self, word: Word) -> Result<Vec<Effect>, Denial> {
        match self.testimony {
            Some((Role::Source, decision)) => self.source_received(word, decision),
            Some((Role::Destination, decision)) => self.destination_received(word, decision),
            None => match word {
                Word::Query | Word::Commit | Word::Abort => Ok(vec![Output::Send(self.word())]),
                _ => Err(Denial::NoSuchToken),
            },
        }
    }

    fn source_received(&mut self, word: Word, decision: Decision) -> Result<Vec<Effect>, Denial> {
        let kept = decision == Decision::Refused;
        match word {
            Word::Query | Word::Ready => Ok(vec![Output::Send(self.word())]),
            Word::Running | Word::Answer(Verdict::Committed) if kept => {
                Err(Denial::Contradiction(word))
            }
            Word::Running | Word::Answer(Verdict::Committed) => {
                Ok(self.forget_and_say(Word::Answer(Verdict::Committed)))
            }
            Word::Answer(Verdict::Refused) if kept => Ok(self.forget()),
            // It had given the guest away to one who had refused it. The destination may forget, too.
            Word::Answer(Verdict::Refused) => {
                let mut effects = self.forget_and_say(Word::Abort);
                effects.push(Output::Notice(Notice::Lost));
                Ok(effects)
            }
            // Nobody there knows the token: there is nobody to tell that the guest was kept.
            Word::Answer(Verdict::Unknown) if kept => Ok(self.forget()),
            Word::Answer(Verdict::Unknown) => Ok(vec![]),
            Word::Commit | Word::Abort => Err(Denial::Unexpected(word)),
        }
    }

    fn destination_received(
        &mut self,
        word: Word,
        decision: Decision,
    ) -> Result<Vec<Effect>, Denial> {
        match (word, decision) {
            (Word::Query | Word::Commit, _) => Ok(vec![Output::Send(self.word())]),
            (Word::Abort, Decision::Committed) => Err(Denial::Contradiction(word)),
            (Word::Abort, _) => Ok(self.forget_and_say(Word::Answer(Verdict::Refused))),
            (Word::Answer(Verdict::Committed), Decision::Open | Decision::Committed) => {
                Ok(self.forget())
            }
            (Word::Answer(Verdict::Committed), Decision::Refused) => {
                Err(Denial::Contradiction(word))
            }
            (Word::Answer(Verdict::Unknown), _) => Ok(vec![]),
            (Word::Answer(Verdict::Refused) | Word::Ready | Word::Running, _) => {
                Err(Denial::Unexpected(word))
            }
        }
    }

    fn forget(&mut self) -> Vec<Effect> {
        self.testimony = None;
        vec![Output::ClearTimer(Timer::Retry), Output::Forget]
    }

    fn forget_and_say(&mut self, word: Word) -> Vec<Effect> {
        let mut effects = self.forget();
        effects.push(Output::Send(word));
        effects
    }

    fn resolve(&mut self, owner: Side, fenced: bool) -> Result<Vec<Effect>, Denial> {
        if R::keep(Rule::ResolveNeedsFence) && !fenced {
            return Err(Denial::NotFenced);
        }
        let (role, decision) = self.testimony.ok_or(Denial::NoSuchToken)?;
        if owner == Side::Here {
            return Err(Denial::NoGuest);
        }
        let resolved = match role {
            Role::Source => Decision::Committed,
            Role::Destination => Decision::Refused,
        };
        if decision == resolved {
            return Ok(vec![]);
        }
        if decision != Decision::Open {
            return Err(Denial::AlreadyDecided(Side::Here));
        }
        self.unwritten = Some(self.testimony);
        self.testimony = Some((role, resolved));
        Ok(vec![Output::Record(resolved), Output::Notice(Notice::Decided(Side::Peer))])
    }
}
