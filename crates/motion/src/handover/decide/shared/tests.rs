//! Every state that two processes can reach which share a guest's RAM and a word: either dies or stands
//! still between any two things that it does, also between asking the word and acting on it, and the
//! link between them is cut with or without what was on its way.

use super::*;
use crate::handover::decide::{Destination, Effect, Source};
use crate::handover::{Denial, Output};
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fate {
    Open,
    Kept,
    Entered,
}

/// A process: its decisions, what it was told and has not read, and what it is about to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process<D> {
    decisions: D,
    is_dead: bool,
    inbox: Vec<Word>,
    /// It reads nothing more.
    has_hung_up: bool,
    /// What the word made of an event: the next thing that it does.
    about_to: Option<Event>,
    /// It was given the guest, ever.
    has_run: bool,
}

impl<D> Process<D> {
    fn new(decisions: D) -> Self {
        let (inbox, about_to) = (Vec::new(), None);
        Self { decisions, is_dead: false, inbox, has_hung_up: false, about_to, has_run: false }
    }

    fn hears(&mut self, word: Word) {
        if !self.has_hung_up && !self.is_dead {
            self.inbox.push(word);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    old: Process<Source<AllRules>>,
    new: Process<Destination<AllRules>>,
    fate: Fate,
    is_linked: bool,
    /// The source has put a question that the word will answer.
    asks: bool,
}

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    OldHears,
    /// The link has ended, or nothing came for long.
    OldLosesLink,
    /// It gives up: READY is late, a step failed, an operator wants it to.
    OldFails,
    OldCancels,
    OldIsTold,
    OldGoesOn,
    NewIsComplete,
    NewHears,
    NewLosesLink,
    NewFails,
    NewGoesOn,
    /// With what was on its way, or without.
    Cut(bool),
    OldDies(bool),
    NewDies(bool),
}

const STEPS: [Step; 17] = [
    Step::OldHears,
    Step::OldLosesLink,
    Step::OldFails,
    Step::OldCancels,
    Step::OldIsTold,
    Step::OldGoesOn,
    Step::NewIsComplete,
    Step::NewHears,
    Step::NewLosesLink,
    Step::NewFails,
    Step::NewGoesOn,
    Step::Cut(true),
    Step::Cut(false),
    Step::OldDies(true),
    Step::OldDies(false),
    Step::NewDies(true),
    Step::NewDies(false),
];

impl Step {
    fn is_misfortune(self) -> bool {
        matches!(self, Self::Cut(_) | Self::OldDies(_) | Self::NewDies(_))
    }
}

impl World {
    fn new() -> Self {
        let (old, new) = (Process::new(Source::default()), Process::new(Destination::default()));
        Self { old, new, fate: Fate::Open, is_linked: true, asks: false }
    }

    fn decide(&mut self, wanted: Fate) -> bool {
        if self.fate == Fate::Open {
            self.fate = wanted;
        }
        self.fate == wanted
    }

    /// The source asks the word what to make of an event, and stands before acting on it.
    fn old_meets<R: SharedRules>(&mut self, event: Event) {
        let phase = self.old.decisions.phase();
        self.old.about_to = Some(at_source::<R>(phase, event, || self.decide(Fate::Kept)));
    }

    fn new_meets<R: SharedRules>(&mut self, event: Event) {
        let phase = self.new.decisions.phase();
        self.new.about_to = Some(at_destination::<R>(phase, event, || self.decide(Fate::Entered)));
    }

    fn old_does(&mut self, effects: Result<Vec<Effect>, Denial>) {
        for effect in effects.unwrap_or_default() {
            match effect {
                Output::Grant(()) => self.old.has_run = true,
                Output::Send(word) => {
                    let is_sent = self.is_linked && !self.old.has_hung_up;
                    if is_sent {
                        self.new.hears(word);
                    }
                    // What is no question needs no answer; and ABORT need not be heard.
                    let asks = !matches!(word, Word::Answer(_));
                    self.asks |= asks && (!is_sent || word == Word::Abort);
                }
                _ => {}
            }
        }
        let ended = [SourcePhase::Confirmed, SourcePhase::Kept { settled: true }];
        if ended.contains(&self.old.decisions.phase()) {
            self.old_hangs_up();
        }
    }

    fn new_does(&mut self, effects: Result<Vec<Effect>, Denial>) {
        for effect in effects.unwrap_or_default() {
            match effect {
                Output::Grant(()) => self.new.has_run = true,
                Output::Send(word) if self.is_linked && !self.new.has_hung_up => {
                    self.old.hears(word);
                }
                _ => {}
            }
        }
    }

    fn old_hangs_up(&mut self) {
        (self.old.has_hung_up, self.is_linked) = (true, false);
        self.old.inbox.clear();
    }

    fn new_hangs_up(&mut self) {
        (self.new.has_hung_up, self.is_linked) = (true, false);
        self.new.inbox.clear();
    }

    /// What follows, if this can happen.
    fn after<R: SharedRules>(&self, step: Step) -> Option<Self> {
        let mut world = self.clone();
        let w = &mut world;
        let old_free = !w.old.is_dead && w.old.about_to.is_none();
        let new_free = !w.new.is_dead && w.new.about_to.is_none();
        let offers = w.old.decisions.phase() == SourcePhase::Offered;
        let preparing = w.new.decisions.phase() == DestinationPhase::Preparing;
        let is_open = offers || w.old.decisions.phase() == SourcePhase::Committing;
        match step {
            Step::OldHears if old_free && !w.old.inbox.is_empty() => {
                let word = w.old.inbox.remove(0);
                w.old_meets::<R>(Input::Received(word));
            }
            Step::OldLosesLink if old_free && is_open => {
                w.old_hangs_up();
                w.old_meets::<R>(Input::LinkLost);
            }
            Step::OldFails if old_free && is_open => w.old_meets::<R>(Input::Failed),
            Step::OldCancels if old_free && offers => w.old_meets::<R>(Input::Cancel),
            Step::OldIsTold if old_free && std::mem::take(&mut w.asks) => {
                let kept = w.decide(Fate::Kept);
                let verdict = if kept { Verdict::Refused } else { Verdict::Committed };
                w.old_meets::<R>(Input::Received(Word::Answer(verdict)));
            }
            Step::OldGoesOn if !w.old.is_dead => {
                let event = w.old.about_to.take()?;
                let effects = w.old.decisions.step(event);
                w.old_does(effects);
            }
            Step::NewIsComplete if new_free && preparing => w.new_meets::<R>(Input::Complete),
            Step::NewHears if new_free && !w.new.inbox.is_empty() => {
                let word = w.new.inbox.remove(0);
                w.new_meets::<R>(Input::Received(word));
            }
            Step::NewLosesLink if new_free && !w.new.has_hung_up => {
                w.new_hangs_up();
                w.new_meets::<R>(Input::LinkLost);
            }
            Step::NewFails if new_free && preparing => w.new_meets::<R>(Input::Failed),
            Step::NewGoesOn if !w.new.is_dead => {
                let event = w.new.about_to.take()?;
                let effects = w.new.decisions.step(event);
                w.new_does(effects);
            }
            Step::Cut(arrives) if w.is_linked => {
                w.is_linked = false;
                if !arrives {
                    w.old.inbox.clear();
                    w.new.inbox.clear();
                }
            }
            Step::OldDies(arrives) if !w.old.is_dead => {
                w.old.is_dead = true;
                (w.old.about_to, w.asks) = (None, false);
                w.old_hangs_up();
                if !arrives {
                    w.new.inbox.clear();
                }
            }
            Step::NewDies(arrives) if !w.new.is_dead => {
                w.new.is_dead = true;
                w.new.about_to = None;
                w.new_hangs_up();
                if !arrives {
                    w.old.inbox.clear();
                }
            }
            _ => return None,
        }
        (world != *self).then_some(world)
    }

    /// What is wrong in this state, whatever comes next.
    fn is_wrong(&self) -> Option<&'static str> {
        (self.old.has_run && self.new.has_run).then_some("two have run it")
    }

    /// What is wrong where nothing happens any more but misfortune.
    fn is_wrong_in_the_end(&self) -> Option<&'static str> {
        let (old, new) = (self.old.decisions.phase(), self.new.decisions.phase());
        let ready = matches!(new, DestinationPhase::Ready | DestinationPhase::Holding);
        let nobody = !self.old.has_run && !self.new.has_run;
        let could_go_on = match self.fate {
            Fate::Open => !self.old.is_dead || !self.new.is_dead && ready,
            Fate::Kept => !self.old.is_dead,
            Fate::Entered => !self.new.is_dead,
        };
        let kept = matches!(old, SourcePhase::Kept { .. });
        let gave = old == SourcePhase::Confirmed;
        match () {
            () if nobody && could_go_on => Some("nobody runs it"),
            () if !self.old.is_dead && !kept && !gave => Some("the source does not know"),
            () if !self.old.is_dead && kept != self.old.has_run => Some("the source is mistaken"),
            () if !self.new.is_dead && ready => Some("the destination does not know"),
            () => None,
        }
    }
}

/// How often what happened in the end.
#[derive(Debug, Default)]
struct Ends {
    states: usize,
    kept: usize,
    entered: usize,
    /// By a destination whose source is dead.
    inherited: usize,
    nowhere: usize,
}

/// All states; or the shortest way to one that is wrong.
fn explore<R: SharedRules>() -> Result<Ends, String> {
    let first = World::new();
    let mut came_from: HashMap<World, Option<(World, Step)>> = HashMap::new();
    came_from.insert(first.clone(), None);
    let mut queue = VecDeque::from([first]);
    let mut ends = Ends::default();
    while let Some(world) = queue.pop_front() {
        ends.states += 1;
        let next: Vec<_> =
            STEPS.into_iter().filter_map(|step| Some((step, world.after::<R>(step)?))).collect();
        let at_rest = next.iter().all(|(step, _)| step.is_misfortune());
        let wrong = world.is_wrong();
        if let Some(wrong) = wrong.or_else(|| world.is_wrong_in_the_end().filter(|_| at_rest)) {
            let mut path = Vec::new();
            let mut at = &world;
            while let Some((before, step)) = &came_from[at] {
                path.push(*step);
                at = before;
            }
            path.reverse();
            return Err(format!("{wrong}: {path:?}: {world:?}"));
        }
        if at_rest {
            ends.kept += usize::from(world.old.has_run);
            ends.entered += usize::from(world.new.has_run);
            ends.inherited += usize::from(world.new.has_run && world.old.is_dead);
            ends.nowhere += usize::from(!world.old.has_run && !world.new.has_run);
        }
        for (step, after) in next {
            if !came_from.contains_key(&after) {
                came_from.insert(after.clone(), Some((world.clone(), step)));
                queue.push_back(after);
            }
        }
    }
    Ok(ends)
}

#[test]
fn never_two_and_never_none_while_one_lives_that_may() {
    let ends = explore::<AllRules>().unwrap();
    println!("{ends:?}");
    // Each end is reached; and the guest is nowhere only where whoever had it is dead.
    assert!(ends.kept > 0 && ends.entered > 0 && ends.inherited > 0 && ends.nowhere > 0);
}

macro_rules! without {
    ($($rule:ident: $broken:literal),+ $(,)?) => {
        $({
            struct Without;
            impl SharedRules for Without {
                fn keep(rule: SharedRule) -> bool {
                    rule != SharedRule::$rule
                }
            }
            let why = explore::<Without>().expect_err(stringify!($rule));
            println!("without {}: {why}", stringify!($rule));
            assert!(why.starts_with($broken), "{why}");
        })+
        assert_eq!([$(SharedRule::$rule),+], SharedRule::ALL);
    };
}

#[test]
fn without_any_one_rule_a_promise_breaks() {
    without!(
        KeptFirst: "two have run it",
        EnteredFirst: "two have run it",
        OnlyTheReadyEnter: "nobody runs it",
        HeirTakesOver: "nobody runs it",
        SilenceIsAnswered: "nobody runs it",
    );
}
