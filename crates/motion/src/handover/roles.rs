//! The handover as the engine sees it: decisions joined with permits, tokens and records.

use super::decide::{self, DestinationPhase, SourcePhase};
use super::{
    Decision, Denial, DriveError, Fate, HandoverError, Input, Journal, JournalError, Key, Message,
    Output, Particulars, Record, Role, RunPermit, Side, Token, Word,
};
use serde::Serialize;
use std::convert::Infallible;

/// The source's side of one handover. It has the guest's permit from its beginning to COMMIT.
#[derive(Debug)]
#[must_use = "it holds the guest's permit"]
pub struct SourceHandover {
    particulars: Particulars,
    decisions: decide::Source,
}

/// The destination's side of one handover.
#[derive(Debug)]
#[must_use = "it is the only way to the guest's permit"]
pub struct DestinationHandover {
    particulars: Particulars,
    decisions: decide::Destination,
}

/// Speaks for a process that is dead and left a record. It never has a permit to give.
#[derive(Debug)]
pub struct Witness {
    particulars: Particulars,
    role: Role,
    decisions: decide::Witness,
}

/// The phase of a handover whose process is dead.
pub const GONE: &str = "gone";

/// What one process knows about a handover: what `x-whimbrel-handover-query` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Standing {
    /// The role of this process, or of the dead one that it speaks for.
    pub role: Role,
    /// The phase in one word; `gone` for a process that is dead.
    pub phase: &'static str,
    /// Who owns the guest, where that is decided.
    pub owner: Option<Side>,
    /// Which handover, of which machine, with whom.
    #[serde(flatten)]
    pub particulars: Particulars,
}

impl SourceHandover {
    /// Begins a handover: the guest is stopped, and its permit is turned in. The READY timer
    /// ([`Timer::Ready`](super::Timer::Ready)) is the caller's to start.
    pub fn begin(particulars: Particulars, permit: RunPermit) -> Self {
        // From here on the phase says who has the permit, and makes it anew when it is given back.
        let RunPermit { .. } = permit;
        Self { particulars, decisions: decide::Source::default() }
    }

    /// What this comes to where the destination shares the guest's RAM: asks the word where that matters.
    #[must_use]
    pub fn fated(&self, input: Input, fate: &Fate) -> Input {
        let phase = self.phase();
        let ask = |event| decide::at_source::<decide::InForce>(phase, event, || fate.keep());
        of_words(self.particulars.token(), input, ask)
    }

    /// Takes one step; see the [module](super) for how the outputs are to be carried out.
    ///
    /// # Errors
    /// [`HandoverError`]; the handover is as it was.
    pub fn step(&mut self, input: Input) -> Result<Vec<Output>, HandoverError> {
        let effects = step(&self.particulars, input, |event| self.decisions.step(event))?;
        Ok(lift(&self.particulars, Role::Source, effects, RunPermit::of_decided_handover))
    }

    /// Takes one step and carries out what concerns the journal; `act` does the rest, in order. It
    /// sees every output but [`Output::Record`]; a record that is to be forgotten is gone by then.
    ///
    /// # Errors
    /// [`DriveError`]
    pub fn drive(
        &mut self,
        input: Input,
        journal: &mut dyn Journal,
        act: &mut dyn FnMut(Output),
    ) -> Result<(), DriveError> {
        drive(self.key(), &mut |input| self.step(input), input, journal, act)
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> SourcePhase {
        self.decisions.phase()
    }

    /// Who owns the guest; `None` while that is undecided.
    #[must_use]
    pub fn owner(&self) -> Option<Side> {
        self.decisions.owner()
    }

    /// Which handover, of which machine, with whom.
    #[must_use]
    pub fn particulars(&self) -> &Particulars {
        &self.particulars
    }

    /// What its record is filed under.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { token: self.particulars.token(), role: Role::Source }
    }

    /// What there is to know about it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            role: Role::Source,
            phase: self.phase().name(),
            owner: self.owner(),
            particulars: self.particulars.clone(),
        }
    }

    /// Whether the process may end (`kill`, `quit`) without being forced to.
    ///
    /// # Errors
    /// [`Denial::Undecided`] while the copy that is here may be the only one that can still run.
    pub fn may_end(&self) -> Result<(), HandoverError> {
        self.owner().map(drop).ok_or(undecided(self.particulars.token()))
    }
}

impl DestinationHandover {
    /// Begins a handover: the guest is on its way.
    pub fn begin(particulars: Particulars) -> Self {
        Self { particulars, decisions: decide::Destination::default() }
    }

    /// What this comes to where the source shares the guest's RAM: asks the word where that matters.
    #[must_use]
    pub fn fated(&self, input: Input, fate: &Fate) -> Input {
        let phase = self.phase();
        let ask = |event| decide::at_destination::<decide::InForce>(phase, event, || fate.enter());
        of_words(self.particulars.token(), input, ask)
    }

    /// Takes one step; see the [module](super) for how the outputs are to be carried out.
    ///
    /// # Errors
    /// [`HandoverError`]; the handover is as it was.
    pub fn step(&mut self, input: Input) -> Result<Vec<Output>, HandoverError> {
        let effects = step(&self.particulars, input, |event| self.decisions.step(event))?;
        Ok(lift(&self.particulars, Role::Destination, effects, RunPermit::of_decided_handover))
    }

    /// Takes one step and carries out what concerns the journal; `act` does the rest, in order. It
    /// sees every output but [`Output::Record`]; a record that is to be forgotten is gone by then.
    ///
    /// # Errors
    /// [`DriveError`]
    pub fn drive(
        &mut self,
        input: Input,
        journal: &mut dyn Journal,
        act: &mut dyn FnMut(Output),
    ) -> Result<(), DriveError> {
        drive(self.key(), &mut |input| self.step(input), input, journal, act)
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> DestinationPhase {
        self.decisions.phase()
    }

    /// Who owns the guest; `None` while that is undecided.
    #[must_use]
    pub fn owner(&self) -> Option<Side> {
        self.decisions.owner()
    }

    /// Which handover, of which machine, with whom.
    #[must_use]
    pub fn particulars(&self) -> &Particulars {
        &self.particulars
    }

    /// What its record is filed under.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { token: self.particulars.token(), role: Role::Destination }
    }

    /// What there is to know about it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            role: Role::Destination,
            phase: self.phase().name(),
            owner: self.owner(),
            particulars: self.particulars.clone(),
        }
    }

    /// Whether the process may end (`kill`, `quit`) without being forced to.
    ///
    /// # Errors
    /// [`Denial::Undecided`] while the copy that is here may be the only one.
    pub fn may_end(&self) -> Result<(), HandoverError> {
        self.owner().map(drop).ok_or(undecided(self.particulars.token()))
    }
}

impl Witness {
    /// The witness of a record that a dead process left, or of a decided one of this process. That
    /// the process is dead is for the caller to know: [`Journal::adopt`] tells.
    #[must_use]
    pub fn new(record: Record) -> Self {
        let Record { role, decision, particulars } = record;
        Self { particulars, role, decisions: decide::Witness::new(Some((role, decision))) }
    }

    /// Becomes the witness of every dead process that left a record, which is what a process does
    /// that starts to wait for a guest. Also returns what could not be read: nothing is known of
    /// those, and the files stay where they are.
    ///
    /// # Errors
    /// [`JournalError`] when the journal cannot be listed.
    pub fn of_all(
        journal: &mut dyn Journal,
    ) -> Result<(Vec<Self>, Vec<JournalError>), JournalError> {
        let (mut witnesses, mut unreadable) = (vec![], vec![]);
        for key in journal.list()? {
            match journal.adopt(key) {
                Ok(record) => witnesses.extend(record.map(Self::new)),
                Err(JournalError::InUse(_)) => {}
                Err(e) => unreadable.push(e),
            }
        }
        Ok((witnesses, unreadable))
    }

    /// What is to be said unasked, once when the process starts: a dead source's word has to reach
    /// its destination, since that one only listens.
    #[must_use]
    pub fn wake(&self) -> Vec<Output<Message, Record, Infallible>> {
        lift(&self.particulars, self.role, self.decisions.wake(), |never| never)
    }

    /// Takes one step; see the [module](super) for how the outputs are to be carried out.
    ///
    /// # Errors
    /// [`HandoverError`]; nothing changed.
    pub fn step(
        &mut self,
        input: Input,
    ) -> Result<Vec<Output<Message, Record, Infallible>>, HandoverError> {
        let effects = step(&self.particulars, input, |event| self.decisions.step(event))?;
        Ok(lift(&self.particulars, self.role, effects, |never| never))
    }

    /// Takes one step and carries out what concerns the journal; `act` does the rest, in order. It
    /// sees every output but [`Output::Record`]; a record that is to be forgotten is gone by then.
    ///
    /// # Errors
    /// [`DriveError`]
    pub fn drive(
        &mut self,
        input: Input,
        journal: &mut dyn Journal,
        act: &mut dyn FnMut(Output<Message, Record, Infallible>),
    ) -> Result<(), DriveError> {
        drive(self.key(), &mut |input| self.step(input), input, journal, act)
    }

    /// What its record is filed under.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { token: self.particulars.token(), role: self.role }
    }

    /// Whether everything has been said and the record is gone.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.decisions.testimony().is_none()
    }

    /// What there is to know; `None` once the record is gone.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        let (role, decision) = self.decisions.testimony()?;
        let owner = decision.owner(role);
        Some(Standing { role, phase: GONE, owner, particulars: self.particulars.clone() })
    }

    /// The answer to a message about a handover of which there is neither a process nor a record
    /// here; `None` for a message that asks nothing.
    #[must_use]
    pub fn answer_without_record(message: Message) -> Option<Message> {
        let effects = decide::Witness::<decide::InForce>::new(None)
            .step(Input::Received(message.word))
            .ok()?;
        effects.into_iter().find_map(|effect| match effect {
            Output::Send(word) => Some(message.token.says(word)),
            _ => None,
        })
    }
}

fn undecided(token: Token) -> HandoverError {
    HandoverError { token, why: Denial::Undecided }
}

type Stepped<P> = Result<Vec<Output<Message, Record, P>>, HandoverError>;
type Effects<P> = Vec<Output<Word, Decision, P>>;

/// Has `ask` say what an input comes to, unless that is of another handover.
fn of_words(token: Token, input: Input, ask: impl FnOnce(decide::Event) -> decide::Event) -> Input {
    match input {
        Input::Received(message) if message.token != token => input,
        input => ask(input.map(|message| message.word)).map(|word| token.says(word)),
    }
}

fn step<P>(
    particulars: &Particulars,
    input: Input,
    decide: impl FnOnce(Input<Word>) -> Result<Effects<P>, Denial>,
) -> Result<Effects<P>, HandoverError> {
    let token = particulars.token();
    let event = match input {
        Input::Received(message) if message.token != token => {
            Err(Denial::OtherToken(message.token))
        }
        other => Ok(other.map(|message| message.word)),
    };
    event.and_then(decide).map_err(|why| HandoverError { token, why })
}

fn lift<P, Q>(
    particulars: &Particulars,
    role: Role,
    effects: Effects<P>,
    grant: impl Fn(P) -> Q,
) -> Vec<Output<Message, Record, Q>> {
    let lift = |effect| match effect {
        Output::Send(word) => Output::Send(particulars.token().says(word)),
        Output::Record(decision) => {
            Output::Record(Record { role, decision, particulars: particulars.clone() })
        }
        Output::Forget => Output::Forget,
        Output::Grant(permission) => Output::Grant(grant(permission)),
        Output::Discard => Output::Discard,
        Output::SetTimer(timer) => Output::SetTimer(timer),
        Output::ClearTimer(timer) => Output::ClearTimer(timer),
        Output::Notice(notice) => Output::Notice(notice),
    };
    effects.into_iter().map(lift).collect()
}

fn drive<P>(
    key: Key,
    step: &mut dyn FnMut(Input) -> Stepped<P>,
    input: Input,
    journal: &mut dyn Journal,
    act: &mut dyn FnMut(Output<Message, Record, P>),
) -> Result<(), DriveError> {
    let mut failure: Option<JournalError> = None;
    let mut next = Some(input);
    while let Some(input) = next.take() {
        for output in step(input)? {
            match output {
                Output::Record(record) => {
                    if let Err(e) = journal.put(&record) {
                        failure.get_or_insert(e);
                        next = Some(Input::RecordFailed);
                        break;
                    }
                }
                // A record too many harms nobody: what it says stays true.
                Output::Forget => {
                    if let Err(e) = journal.remove(key) {
                        failure.get_or_insert(e);
                    }
                    act(Output::Forget);
                }
                other => act(other),
            }
        }
    }
    failure.map_or(Ok(()), |e| Err(e.into()))
}

#[cfg(test)]
mod tests;
