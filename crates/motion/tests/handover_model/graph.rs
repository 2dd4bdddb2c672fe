//! The graph of all reachable states, to ask it what a search for counterexamples cannot answer: from
//! where is there *no* way to a decision? (Stateright's `eventually` misses cycles.)

use crate::model::{Action, Handover};
use crate::world::World;
use stateright::Model;
use std::collections::HashMap;
use whimbrel_motion::handover::decision::Rules;

/// All reachable states and the edges that lead out of trouble.
pub struct Graph<R: Rules> {
    states: Vec<World<R>>,
    /// For each state, from where it is reached by itself.
    by_itself: Vec<Vec<u32>>,
    /// For each state, from where an operator's true word leads to it.
    by_operator: Vec<Vec<u32>>,
    /// How each state was first reached.
    parents: Vec<Option<(u32, Action)>>,
}

impl<R: Rules> Graph<R> {
    /// Explores the model breadth first.
    pub fn of(model: &Handover<R>) -> Self {
        let mut graph =
            Self { states: vec![], by_itself: vec![], by_operator: vec![], parents: vec![] };
        let mut numbers = HashMap::new();
        for world in model.init_states() {
            graph.number(&mut numbers, world, None);
        }
        let mut actions = Vec::new();
        let mut at = 0;
        while at < graph.states.len() {
            let world = graph.states[at];
            let from = u32::try_from(at).expect("the model is far smaller");
            model.actions(&world, &mut actions);
            for action in actions.drain(..) {
                let Some(next) = model.next_state(&world, action) else { continue };
                let to = graph.number(&mut numbers, next, Some((from, action)));
                if action.is_progress(&world) {
                    graph.by_itself[to].push(from);
                } else if action.is_operators_word() {
                    graph.by_operator[to].push(from);
                }
            }
            at += 1;
        }
        graph
    }

    fn number(
        &mut self,
        numbers: &mut HashMap<World<R>, usize>,
        world: World<R>,
        parent: Option<(u32, Action)>,
    ) -> usize {
        *numbers.entry(world).or_insert_with(|| {
            self.states.push(world);
            self.by_itself.push(vec![]);
            self.by_operator.push(vec![]);
            self.parents.push(parent);
            self.states.len() - 1
        })
    }

    pub fn len(&self) -> usize {
        self.states.len()
    }

    pub fn edges(&self) -> usize {
        self.by_itself.iter().chain(&self.by_operator).map(Vec::len).sum()
    }

    /// The way to a state from which no decision can be reached though both sides are up and the
    /// network works from now on, and no process died before it had given its word.
    pub fn stuck_without_operator(&self) -> Option<Vec<Action>> {
        let decided = self.leads_to_decision(false);
        self.first(|at| !decided[at] && !self.states[at].needs_operator())
    }

    /// The way to a state from which not even an operator who tells the truth brings a decision.
    pub fn stuck_with_operator(&self) -> Option<Vec<Action>> {
        let decided = self.leads_to_decision(true);
        self.first(|at| !decided[at])
    }

    /// Whether there is an undecided state that only an operator gets out of.
    pub fn operator_is_needed(&self) -> bool {
        let decided = self.leads_to_decision(false);
        self.first(|at| !decided[at]).is_some()
    }

    fn leads_to_decision(&self, operator: bool) -> Vec<bool> {
        let mut decided: Vec<bool> = self.states.iter().map(World::is_decided).collect();
        let mut todo: Vec<usize> = (0..self.len()).filter(|at| decided[*at]).collect();
        while let Some(at) = todo.pop() {
            let operators = self.by_operator[at].iter().filter(|_| operator);
            for from in self.by_itself[at].iter().chain(operators).map(|from| *from as usize) {
                if !std::mem::replace(&mut decided[from], true) {
                    todo.push(from);
                }
            }
        }
        decided
    }

    fn first(&self, is_stuck: impl Fn(usize) -> bool) -> Option<Vec<Action>> {
        let mut at = (0..self.len()).find(|at| is_stuck(*at))?;
        let mut way = vec![];
        while let Some((from, action)) = self.parents[at] {
            way.push(action);
            at = from as usize;
        }
        way.reverse();
        Some(way)
    }
}
