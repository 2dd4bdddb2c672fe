//! What can happen, and what must never.

use crate::world::{Fault, World};
use stateright::{Model, Property};
use std::marker::PhantomData;
use whimbrel_motion::handover::decision::{DestinationPhase, Event, Rules, SourcePhase};
use whimbrel_motion::handover::{Decision, Input, Output, Role, Side, Timer, Verdict, Word};

/// The model, with the rules of `R`.
#[derive(Debug, Clone, Copy)]
pub struct Handover<R> {
    /// How many processes or hosts crash at most.
    pub crashes: u8,
    /// How many writes to a journal fail at most.
    pub failures: u8,
    pub rules: PhantomData<R>,
}

impl<R> Default for Handover<R> {
    fn default() -> Self {
        Self { crashes: 2, failures: 1, rules: PhantomData }
    }
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// A message arrives. It may arrive again.
    Deliver { to: Role, word: Word, fault: Fault },
    /// A message is lost.
    Lose { to: Role, word: Word },
    /// Somebody on the destination's side asks the source.
    AskSource,
    /// Something happens at one side.
    Event { at: Role, event: Event, fault: Fault },
    /// The process that speaks for a dead one starts.
    Wake(Role),
    /// A process dies, or its host does and takes the journal along.
    Crash { at: Role, host: bool },
}

impl Action {
    fn with(self, fault: Fault) -> Self {
        match self {
            Self::Deliver { to, word, .. } => Self::Deliver { to, word, fault },
            Self::Event { at, event, .. } => Self::Event { at, event, fault },
            other => other,
        }
    }

    /// Whether this happens by itself once both sides are up and the network works.
    pub fn is_progress<R: Rules>(&self, world: &World<R>) -> bool {
        match self {
            Self::Deliver { fault, .. } => *fault == Fault::default(),
            Self::Event { at, event, fault } if *fault == Fault::default() => match event {
                Input::Complete => true,
                Input::Expired(timer) => *timer != Timer::Hold,
                // One end is closed, and the other end notices.
                Input::LinkLost => match at {
                    Role::Source => !world.destination.link,
                    Role::Destination => !world.source.link,
                },
                _ => false,
            },
            Self::Wake(_) => true,
            _ => false,
        }
    }

    /// Whether an operator does this who tells the truth.
    pub fn is_operators_word(&self) -> bool {
        matches!(
            self,
            Self::Event { event: Input::Resolve { fenced: true, .. }, fault, .. }
                if *fault == Fault::default()
        )
    }
}

/// The properties, by name.
pub mod promise {
    pub const ONE: &str = "at most one side may run the guest";
    pub const OWNED: &str = "who owns the guest has the permit, and nobody else has";
    pub const NO_WAY_BACK: &str = "the guest does not go back in time unless an operator says so";
    pub const NOT_NOWHERE: &str = "the sides do not both give the guest up";
    pub const NOT_DROPPED: &str = "a complete copy is not dropped unasked";
    pub const READY_KNOWN: &str = "a READY that was heard is not forgotten";
    pub const COMMIT_KNOWN: &str = "a COMMIT that was said is not forgotten";
    pub const REFUSED_STAYS: &str = "what was refused stays refused";
    pub const COMMITTED_STAYS: &str = "what was committed stays committed";
}

impl<R: Rules> Model for Handover<R> {
    type State = World<R>;
    type Action = Action;

    fn init_states(&self) -> Vec<World<R>> {
        vec![World::new(self.crashes, self.failures)]
    }

    fn actions(&self, world: &World<R>, actions: &mut Vec<Action>) {
        if world.is_over() {
            return;
        }
        let fault = Fault::default();
        for word in world.network.to_source.iter() {
            add(world, actions, Action::Deliver { to: Role::Source, word, fault });
            actions.push(Action::Lose { to: Role::Source, word });
        }
        for word in world.network.to_destination.iter() {
            add(world, actions, Action::Deliver { to: Role::Destination, word, fault });
            actions.push(Action::Lose { to: Role::Destination, word });
        }
        for at in [Role::Source, Role::Destination] {
            for event in events(world, at) {
                add(world, actions, Action::Event { at, event, fault });
            }
            if !world.is_alive(at) {
                actions.push(Action::Wake(at));
            } else if world.crashes_left > 0 {
                actions.push(Action::Crash { at, host: false });
                actions.push(Action::Crash { at, host: true });
            }
        }
        if world.destination_phase() == Some(DestinationPhase::Holding) {
            actions.push(Action::AskSource);
        }
    }

    fn next_state(&self, world: &World<R>, action: Action) -> Option<World<R>> {
        let mut next = *world;
        match action {
            Action::Deliver { to, word, fault } => {
                next.step(to, Input::Received(word), fault).ok()?;
            }
            Action::Lose { to: Role::Source, word } => next.network.to_source.remove(word),
            Action::Lose { to: Role::Destination, word } => {
                next.network.to_destination.remove(word);
            }
            Action::AskSource => next.network.to_source.insert(Word::Query),
            Action::Event { at, event, fault } => {
                if event == Input::LinkLost {
                    match at {
                        Role::Source => next.source.link = false,
                        Role::Destination => next.destination.link = false,
                    }
                }
                next.step(at, event, fault).ok()?;
            }
            Action::Wake(role) => next.wake(role),
            Action::Crash { at, host } => next.crash(at, host),
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(promise::ONE, |_, w: &World<R>| {
                let source = w.source.runs || w.source_phase() == Some(SourcePhase::Offered);
                !(source && w.destination.runs)
            }),
            Property::always(promise::OWNED, |_, w: &World<R>| {
                let source = matches!(w.source_phase(), Some(SourcePhase::Kept { .. }));
                let destination = w.destination_phase() == Some(DestinationPhase::Committed);
                (w.source.runs, w.destination.runs) == (source, destination)
            }),
            Property::always(promise::NO_WAY_BACK, |_, w: &World<R>| {
                w.past.overruled || !(w.past.ran_at_source && w.past.ran_at_destination)
            }),
            Property::always(promise::NOT_NOWHERE, |_, w: &World<R>| {
                w.source_phase() != Some(SourcePhase::Confirmed)
                    || matches!(w.destination_phase(), None | Some(DestinationPhase::Committed))
            }),
            Property::always(promise::NOT_DROPPED, |_, w: &World<R>| !w.past.squandered),
            Property::always(promise::READY_KNOWN, |_, w: &World<R>| {
                let due = w.destination.told.ready && w.source_waits();
                !due || w.is_alive(Role::Destination)
                    || w.destination.told.host_died
                    || w.destination.record.is_some()
            }),
            Property::always(promise::COMMIT_KNOWN, |_, w: &World<R>| {
                let due = w.source.told.commit && w.destination_waits();
                !due || w.is_alive(Role::Source)
                    || w.source.told.host_died
                    || w.source.record.is_some()
            }),
            Property::always(promise::REFUSED_STAYS, |_, w: &World<R>| {
                let due = w.destination.told.refused && w.source_waits();
                !due || w.destination.told.host_died || w.destination_word() == Verdict::Refused
            }),
            Property::always(promise::COMMITTED_STAYS, |_, w: &World<R>| {
                let due = w.destination.told.committed && w.source_waits();
                !due || w.destination.told.host_died
                    || w.destination.told.unwritten
                    || w.destination_word() == Verdict::Committed
            }),
            // What must be reachable, lest the promises be kept by nothing ever happening.
            Property::sometimes("the guest moves, and no record is left", |m, w: &World<R>| {
                w.source_phase() == Some(SourcePhase::Confirmed)
                    && w.destination.runs
                    && (w.source.record, w.destination.record) == (None, None)
                    && w.crashes_left == m.crashes
            }),
            Property::sometimes("the guest stays, and no record is left", |m, w: &World<R>| {
                w.source_phase() == Some(SourcePhase::Kept { settled: true })
                    && matches!(w.destination_phase(), Some(DestinationPhase::Refused { .. }))
                    && (w.source.record, w.destination.record) == (None, None)
                    && w.crashes_left == m.crashes
            }),
            Property::sometimes(
                "a refusal brings the guest back after COMMIT",
                |_, w: &World<R>| w.source.told.commit && w.source.runs && !w.past.overruled,
            ),
            Property::sometimes(
                "a dead source's record hands the guest over",
                |_, w: &World<R>| !w.source.told.commit && w.destination.runs && !w.past.overruled,
            ),
            Property::sometimes("an operator promotes a destination", |_, w: &World<R>| {
                w.source.told.lost_word && w.destination.runs && w.past.overruled
            }),
            Property::sometimes("an operator brings the guest back", |_, w: &World<R>| {
                !w.is_alive(Role::Destination)
                    && w.source.told.commit
                    && w.past.overruled
                    && w.source.runs
            }),
            Property::sometimes(
                "a guest given away was refused and comes back",
                |m, w: &World<R>| w.past.overruled && w.source.runs && w.crashes_left == m.crashes,
            ),
            Property::sometimes("a holding destination lets go", |_, w: &World<R>| {
                w.destination.record == Some(Decision::Refused)
                    && !w.destination.link
                    && w.is_alive(Role::Destination)
                    && !w.is_alive(Role::Source)
                    && !w.past.overruled
            }),
        ]
    }
}

/// Adds an action, and the ways in which it can go wrong half way.
fn add<R: Rules>(world: &World<R>, actions: &mut Vec<Action>, action: Action) {
    actions.push(action);
    let (at, event) = match action {
        Action::Deliver { to, word, .. } => (to, Input::Received(word)),
        Action::Event { at, event, .. } => (at, event),
        _ => return,
    };
    let mut trial = *world;
    let Ok(effects) = trial.step(at, event, Fault::default()) else { return };
    let can_die = world.crashes_left > 0 && world.is_alive(at);
    let points = |count: usize| (1..count).filter_map(|n| u8::try_from(n).ok());
    if can_die {
        for point in points(effects.len()) {
            actions.push(action.with(Fault { record_fails: false, dies_after: Some(point) }));
        }
    }
    if world.failures_left > 0 && effects.iter().any(|e| matches!(e, Output::Record(_))) {
        actions.push(action.with(Fault { record_fails: true, dies_after: None }));
        if can_die {
            for point in points(effects.len() + 6) {
                let fault = Fault { record_fails: true, dies_after: Some(point) };
                let mut trial = *world;
                // Beyond the last effect it is a crash between two steps.
                if trial.step(at, event, fault).is_ok() && !trial.is_alive(at) {
                    actions.push(action.with(fault));
                }
            }
        }
    }
}

/// What can happen at one side by itself, or by an operator.
fn events<R: Rules>(world: &World<R>, at: Role) -> Vec<Event> {
    let mut events: Vec<Event> = world.timers(at).iter().map(Input::Expired).collect();
    let resolve = |owner, fenced| Input::Resolve { owner, fenced };
    match at {
        Role::Source => {
            if let Some(phase) = world.source_phase() {
                if world.source.link {
                    events.push(Input::LinkLost);
                }
                if phase == SourcePhase::Offered {
                    events.push(Input::Failed);
                }
                events.extend([Input::Cancel, Input::Cont]);
            }
        }
        Role::Destination => {
            if let Some(phase) = world.destination_phase() {
                if world.destination.link {
                    events.push(Input::LinkLost);
                }
                if phase == DestinationPhase::Preparing {
                    events.push(Input::Complete);
                }
                events.extend([Input::Failed, Input::Cancel, Input::Cont]);
            }
        }
    }
    // Operators do not lie, but may forget to make sure.
    for owner in [Side::Here, Side::Peer] {
        if is_true(world, at, owner) {
            events.push(resolve(owner, true));
        }
        events.push(resolve(owner, false));
    }
    events
}

/// Whether it is true that the side that is not to own the guest can no longer run it, and that the
/// side that is to own it still can.
fn is_true<R: Rules>(world: &World<R>, at: Role, owner: Side) -> bool {
    let owned_by = match (at, owner) {
        (Role::Source, Side::Here) | (Role::Destination, Side::Peer) => Role::Source,
        _ => Role::Destination,
    };
    match (owned_by, owner) {
        // Dead, and with it its memory; or it says itself that it has refused.
        (Role::Source, Side::Here) => {
            matches!(world.destination_phase(), None | Some(DestinationPhase::Refused { .. }))
        }
        // Dead; or it says itself that it has given the guest away.
        (Role::Destination, Side::Here) => {
            !world.is_alive(Role::Source)
                || matches!(
                    world.source_phase(),
                    Some(SourcePhase::Undecided | SourcePhase::Released | SourcePhase::Confirmed)
                )
        }
        // This side sees to it itself; the operator has looked at the other one.
        (Role::Source, Side::Peer) => {
            !matches!(world.source_phase(), None | Some(SourcePhase::Confirmed))
        }
        (Role::Destination, Side::Peer) => matches!(
            world.destination_phase(),
            Some(DestinationPhase::Ready | DestinationPhase::Holding | DestinationPhase::Committed)
        ),
    }
}
