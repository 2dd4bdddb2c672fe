//! Two processes, a network between them, and what has happened to them.

use std::convert::Infallible;
use whimbrel_motion::handover::decision::{
    Destination, DestinationPhase, Effect, Event, Rules, Source, SourcePhase, Witness,
};
use whimbrel_motion::handover::{Decision, Denial, Input, Output, Role, Timer, Verdict, Word};

/// One state of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct World<R: Rules> {
    pub source: Process<Source<R>, R>,
    pub destination: Process<Destination<R>, R>,
    pub network: Network,
    /// How many more processes or hosts may crash.
    pub crashes_left: u8,
    /// How many more writes to a journal may fail.
    pub failures_left: u8,
    pub past: Past,
}

/// One side: a process and its host's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process<M, R: Rules> {
    pub life: Life<M, R>,
    /// What is on record on this side's host.
    pub record: Option<Decision>,
    /// It believes the connection that the motion began with to be up.
    pub link: bool,
    /// The timers that run.
    pub timers: Set<Timer>,
    /// It has a permit in its hands.
    pub runs: bool,
    pub told: Told,
}

/// A process, or what speaks for it once it is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Life<M, R: Rules> {
    Alive(M),
    Gone(Witness<R>),
}

/// What one side has said, and what has become of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Told {
    /// Its process said something that decides.
    pub word: bool,
    pub ready: bool,
    pub commit: bool,
    pub refused: bool,
    pub committed: bool,
    /// A record could not be written.
    pub unwritten: bool,
    /// Its host died, and took the journal along.
    pub host_died: bool,
    /// It died before it had given its word, or what it wrote down is not to be had.
    pub lost_word: bool,
}

/// What has happened in the world.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Past {
    /// The guest has run again at the source after it was stopped for the handover.
    pub ran_at_source: bool,
    pub ran_at_destination: bool,
    /// An operator's `resolve` was carried out.
    pub overruled: bool,
    /// A destination dropped its complete copy though nobody had asked it to.
    pub squandered: bool,
}

/// The messages on their way: any of them may arrive, any number of times, or be lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    pub to_source: Set<Word>,
    pub to_destination: Set<Word>,
}

/// A small set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set<T>(u16, std::marker::PhantomData<T>);

/// What goes wrong while a step is carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fault {
    /// The first record of the step cannot be written.
    pub record_fails: bool,
    /// The process dies after so many of the step's effects.
    pub dies_after: Option<u8>,
}

pub trait Member: Copy + PartialEq + 'static {
    const ALL: &'static [Self];
}

impl Member for Timer {
    const ALL: &'static [Self] = &[Timer::Ready, Timer::Reply, Timer::Retry, Timer::Hold];
}

impl Member for Word {
    const ALL: &'static [Self] = &[
        Word::Ready,
        Word::Commit,
        Word::Running,
        Word::Abort,
        Word::Query,
        Word::Answer(Verdict::Committed),
        Word::Answer(Verdict::Refused),
        Word::Answer(Verdict::Unknown),
    ];
}

impl<T: Member> Set<T> {
    pub fn iter(self) -> impl Iterator<Item = T> {
        T::ALL.iter().copied().filter(move |member| self.0 & Self::bit(*member) != 0)
    }

    pub fn insert(&mut self, member: T) {
        self.0 |= Self::bit(member);
    }

    pub fn remove(&mut self, member: T) {
        self.0 &= !Self::bit(member);
    }

    fn bit(member: T) -> u16 {
        1 << T::ALL.iter().position(|m| *m == member).expect("ALL has every member")
    }
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self(0, std::marker::PhantomData)
    }
}

impl<T: Member + std::fmt::Debug> std::fmt::Debug for Set<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<M, R: Rules> Process<M, R> {
    fn new(machine: M) -> Self {
        Self {
            life: Life::Alive(machine),
            record: None,
            link: true,
            timers: Set::default(),
            runs: false,
            told: Told::default(),
        }
    }

    /// The machine, while its process lives.
    pub fn alive(&self) -> Option<&M> {
        match &self.life {
            Life::Alive(machine) => Some(machine),
            Life::Gone(_) => None,
        }
    }

    /// The process dies; with its host, so does the journal.
    fn die(&mut self, role: Role, host: bool) {
        if host {
            self.record = None;
            self.told.host_died = true;
        }
        let told = self.told;
        self.life = Life::Gone(Witness::new(self.record.map(|decision| (role, decision))));
        self.link = false;
        self.timers = Set::default();
        self.runs = false;
        self.told.lost_word |= !told.word || told.unwritten || told.host_died;
    }
}

impl<R: Rules> World<R> {
    /// The guest was just stopped at the source, and the destination is still loading it.
    pub fn new(crashes_left: u8, failures_left: u8) -> Self {
        let mut source = Process::new(Source::default());
        source.timers.insert(Timer::Ready);
        Self {
            source,
            destination: Process::new(Destination::default()),
            network: Network::default(),
            crashes_left,
            failures_left,
            past: Past::default(),
        }
    }

    pub fn source_phase(&self) -> Option<SourcePhase> {
        self.source.alive().map(Source::phase)
    }

    pub fn destination_phase(&self) -> Option<DestinationPhase> {
        self.destination.alive().map(Destination::phase)
    }

    /// The source waits for the destination's verdict.
    pub fn source_waits(&self) -> bool {
        use SourcePhase::*;
        matches!(self.source_phase(), Some(Committing | Undecided | Released))
    }

    /// The destination has a complete copy that it may neither run nor drop.
    pub fn destination_waits(&self) -> bool {
        matches!(
            self.destination_phase(),
            Some(DestinationPhase::Ready | DestinationPhase::Holding)
        )
    }

    pub fn is_alive(&self, role: Role) -> bool {
        self.witness(role).is_none()
    }

    pub fn timers(&self, role: Role) -> Set<Timer> {
        match role {
            Role::Source => self.source.timers,
            Role::Destination => self.destination.timers,
        }
    }

    /// What the destination's side would say now if it were asked, and had not been asked before.
    pub fn destination_word(&self) -> Verdict {
        match (self.destination_phase(), self.destination.record) {
            (Some(DestinationPhase::Committed), _) | (None, Some(Decision::Committed)) => {
                Verdict::Committed
            }
            (Some(DestinationPhase::Refused { .. }), _) | (None, Some(Decision::Refused)) => {
                Verdict::Refused
            }
            _ => Verdict::Unknown,
        }
    }

    /// A process died before it had given its word, so that only an operator can decide.
    pub fn needs_operator(&self) -> bool {
        let destination_waits = self.destination_waits()
            || self.destination_phase() == Some(DestinationPhase::Preparing);
        (self.source.told.lost_word && destination_waits)
            || (self.destination.told.lost_word && self.source_waits())
    }

    /// Whoever lives knows who owns the guest.
    pub fn is_decided(&self) -> bool {
        let source = !matches!(
            self.source_phase(),
            Some(
                SourcePhase::Offered
                    | SourcePhase::Committing
                    | SourcePhase::Undecided
                    | SourcePhase::Released
            )
        );
        let destination = !matches!(
            self.destination_phase(),
            Some(DestinationPhase::Preparing | DestinationPhase::Ready | DestinationPhase::Holding)
        );
        source && destination
    }

    pub fn crash(&mut self, role: Role, host: bool) {
        self.crashes_left -= 1;
        match role {
            Role::Source => self.source.die(role, host),
            Role::Destination => self.destination.die(role, host),
        }
        self.simplify();
    }

    /// A process that speaks for a dead one says what it has to say unasked.
    pub fn wake(&mut self, role: Role) {
        let (Some(witness), Role::Source) = (self.witness(role), role) else { return };
        let effects = witness.wake().into_iter().map(without_grant).collect();
        self.carry_out(role, Input::Expired(Timer::Retry), effects, Fault::default());
    }

    pub fn witness(&self, role: Role) -> Option<Witness<R>> {
        match (role, &self.source.life, &self.destination.life) {
            (Role::Source, Life::Gone(witness), _)
            | (Role::Destination, _, Life::Gone(witness)) => Some(*witness),
            _ => None,
        }
    }

    /// One step of one side. Returns its effects, or why there were none.
    pub fn step(&mut self, role: Role, event: Event, fault: Fault) -> Result<Vec<Effect>, Denial> {
        if let Input::Expired(timer) = event {
            match role {
                Role::Source => self.source.timers.remove(timer),
                Role::Destination => self.destination.timers.remove(timer),
            }
        }
        let effects = self.decide(role, event)?;
        if matches!(event, Input::Resolve { .. }) && !effects.is_empty() {
            self.past.overruled = true;
        }
        self.carry_out(role, event, effects.clone(), fault);
        self.simplify();
        Ok(effects)
    }

    /// Forgets what makes no difference any more, so that there are fewer states.
    fn simplify(&mut self) {
        use SourcePhase::*;
        if !matches!(self.source_phase(), Some(Offered | Committing)) {
            // Its first connection and its READY timer are of no account to it.
            self.source.link = false;
            self.source.timers.remove(Timer::Ready);
        }
        if matches!(self.source_phase(), Some(Kept { .. } | Confirmed)) {
            // It waits for nobody's word.
            self.destination.told = Told::default();
        }
    }

    /// Nothing can happen any more that is of interest: one side is dead, and the other has decided,
    /// or is dead as well.
    pub fn is_over(&self) -> bool {
        matches!(
            (self.source_phase(), self.destination_phase()),
            (None, None | Some(DestinationPhase::Committed))
                | (Some(SourcePhase::Kept { .. } | SourcePhase::Confirmed), None)
        )
    }

    fn decide(&mut self, role: Role, event: Event) -> Result<Vec<Effect>, Denial> {
        fn gone<R: Rules>(witness: &mut Witness<R>, event: Event) -> Result<Vec<Effect>, Denial> {
            Ok(witness.step(event)?.into_iter().map(without_grant).collect())
        }
        match role {
            Role::Source => match &mut self.source.life {
                Life::Alive(source) => source.step(event),
                Life::Gone(witness) => gone(witness, event),
            },
            Role::Destination => match &mut self.destination.life {
                Life::Alive(destination) => destination.step(event),
                Life::Gone(witness) => gone(witness, event),
            },
        }
    }

    fn carry_out(&mut self, role: Role, event: Event, effects: Vec<Effect>, fault: Fault) {
        let mut record_fails = fault.record_fails;
        let mut left = fault.dies_after.unwrap_or(u8::MAX);
        let mut next = Some(effects);
        while let Some(effects) = next.take() {
            for effect in effects {
                if left == 0 {
                    return self.crash(role, false);
                }
                left -= 1;
                if matches!(effect, Output::Record(_)) && std::mem::take(&mut record_fails) {
                    self.failures_left -= 1;
                    match role {
                        Role::Source => self.source.told.unwritten = true,
                        Role::Destination => self.destination.told.unwritten = true,
                    }
                    next =
                        Some(self.decide(role, Input::RecordFailed).expect("it is always taken"));
                    break;
                }
                match role {
                    Role::Source => self.source_does(effect),
                    Role::Destination => self.destination_does(effect, event),
                }
            }
        }
        // A process that dies after its last effect is one that dies between two steps.
    }

    fn source_does(&mut self, effect: Effect) {
        let source = &mut self.source;
        match effect {
            // Over the link, or over a new connection: the destination listens.
            Output::Send(word) => {
                self.network.to_destination.insert(word);
                if matches!(source.life, Life::Alive(_)) {
                    source.told.word |= matches!(word, Word::Commit | Word::Abort);
                    source.told.commit |= word == Word::Commit;
                }
            }
            Output::Record(decision) => source.record = Some(decision),
            Output::Forget => source.record = None,
            Output::Grant(()) => {
                source.runs = true;
                self.past.ran_at_source = true;
            }
            Output::SetTimer(timer) => source.timers.insert(timer),
            // It may have run out already, and its expiry be on its way.
            Output::ClearTimer(Timer::Ready) | Output::Discard | Output::Notice(_) => {}
            Output::ClearTimer(timer) => source.timers.remove(timer),
        }
    }

    fn destination_does(&mut self, effect: Effect, event: Event) {
        let destination = &mut self.destination;
        match effect {
            Output::Send(word) => {
                // The source does not listen: an answer goes back over the connection that the
                // question came by, anything else needs the link.
                if !destination.link && !matches!(event, Input::Received(_)) {
                    return;
                }
                self.network.to_source.insert(word);
                if matches!(destination.life, Life::Alive(_)) {
                    let told = &mut destination.told;
                    told.ready |= word == Word::Ready;
                    told.refused |= word == Word::Answer(Verdict::Refused);
                    told.committed |=
                        matches!(word, Word::Running | Word::Answer(Verdict::Committed));
                    told.word |= told.refused || told.committed;
                }
            }
            Output::Record(decision) => destination.record = Some(decision),
            Output::Forget => destination.record = None,
            Output::Grant(()) => {
                destination.runs = true;
                self.past.ran_at_destination = true;
            }
            Output::Discard => {
                let asked = match event {
                    Input::Received(_) | Input::Resolve { .. } | Input::Failed => true,
                    Input::Expired(timer) => timer == Timer::Hold,
                    _ => false,
                };
                self.past.squandered |= destination.record.is_some() && !asked;
            }
            Output::SetTimer(timer) => destination.timers.insert(timer),
            Output::ClearTimer(timer) => destination.timers.remove(timer),
            Output::Notice(_) => {}
        }
    }
}

fn without_grant(effect: Output<Word, Decision, Infallible>) -> Effect {
    match effect {
        Output::Grant(never) => match never {},
        Output::Send(word) => Output::Send(word),
        Output::Record(decision) => Output::Record(decision),
        Output::Forget => Output::Forget,
        Output::Discard => Output::Discard,
        Output::SetTimer(timer) => Output::SetTimer(timer),
        Output::ClearTimer(timer) => Output::ClearTimer(timer),
        Output::Notice(notice) => Output::Notice(notice),
    }
}
