//! Rules that the engine breaks on purpose, so that the simulator can show that it notices. What is
//! broken is broken for one thread: a simulated world lives on one.

use crate::handover::decision;
use crate::{Rule, SourceMachine};
use memory::PageSet;
use std::cell::{Cell, RefCell};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broken {
    /// A rule of the engine.
    Engine(Rule),
    /// A rule of the handover.
    Handover(decision::Rule),
    /// A rule of a guest from a file.
    File(decision::FileRule),
    /// A rule of a handover between two who share RAM.
    Shared(decision::SharedRule),
}

thread_local! {
    static BROKEN: Cell<Option<Broken>> = const { Cell::new(None) };
    /// What the log of the last motion had left when it failed.
    static LEFT: RefCell<Option<PageSet>> = const { RefCell::new(None) };
}

/// Has the engine break this rule on this thread from now on, in place of any other.
pub fn break_rule(broken: Option<Broken>) {
    BROKEN.set(broken);
    LEFT.set(None);
}

pub(crate) fn keeps(rule: Rule) -> bool {
    BROKEN.get() != Some(Broken::Engine(rule))
}

/// The rules of the handover, but for one that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InForce;

impl decision::Rules for InForce {
    fn keep(rule: decision::Rule) -> bool {
        BROKEN.get() != Some(Broken::Handover(rule))
    }
}

impl decision::FileRules for InForce {
    fn keep(rule: decision::FileRule) -> bool {
        BROKEN.get() != Some(Broken::File(rule))
    }
}

impl decision::SharedRules for InForce {
    fn keep(rule: decision::SharedRule) -> bool {
        BROKEN.get() != Some(Broken::Shared(rule))
    }
}

/// At the end of a motion: what its log has left, for the next one to begin with. `kept` says
/// whether there will be one from this machine.
pub(crate) fn note_left(machine: &dyn SourceMachine, kept: bool) {
    let mut left = PageSet::new(machine.ram().pages());
    let collected = kept && machine.dirty_log().collect(&mut left).is_ok();
    LEFT.set((collected && !keeps(Rule::DirtyIsPutBack)).then_some(left));
}

/// At the beginning of one: what it takes for unsent.
pub(crate) fn unsent(all: PageSet) -> PageSet {
    LEFT.take().unwrap_or(all)
}
