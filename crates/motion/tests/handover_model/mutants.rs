//! The handover with one rule taken out: each time, a promise must break.

use crate::graph::Graph;
use crate::model::{Handover, promise};
use stateright::{Checker, HasDiscoveries, Model};
use std::marker::PhantomData;
use whimbrel_motion::handover::decision::Rules;

/// One crash is enough to break what can be broken.
fn model<R: Rules>() -> Handover<R> {
    Handover { crashes: 1, failures: 0, rules: PhantomData }
}

/// Checks that a promise is broken.
fn breaks<R: Rules>(promise: &'static str) {
    let checker = model::<R>()
        .checker()
        .finish_when(HasDiscoveries::AnyOf([promise].into()))
        .spawn_bfs()
        .join();
    let way = checker.assert_any_discovery(promise).into_actions();
    println!("{} steps break the promise that {promise}: {way:#?}", way.len());
}

/// Checks that there is a state from which nothing leads to a decision any more.
fn gets_stuck<R: Rules>() {
    let graph = Graph::of(&model::<R>());
    let way = graph.stuck_without_operator().expect("without the rule there is a stuck state");
    println!("{} steps lead to a stuck state: {way:#?}", way.len());
}

macro_rules! mutants {
    ($($test:ident: without $rule:ident, $($check:ident)::+ $(($promise:ident))?;)+) => {$(
        #[test]
        fn $test() {
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
            struct Mutant;
            impl Rules for Mutant {
                const $rule: bool = false;
            }
            $($check)::+::<Mutant>($(promise::$promise)?);
        }
    )+};
}

mutants! {
    cancel_after_commit: without CANCEL_ENDS_WITH_COMMIT, breaks(ONE);
    cont_after_commit: without CONT_NEEDS_PERMISSION, breaks(ONE);
    resume_by_the_ready_timer_after_commit: without READY_TIMER_ENDS_WITH_COMMIT, breaks(ONE);
    resume_by_silence_after_commit: without SILENCE_DECIDES_NOTHING, breaks(ONE);
    resume_by_unknown: without UNKNOWN_DECIDES_NOTHING, breaks(NO_WAY_BACK);
    say_commit_when_asked_before: without ASKED_BEFORE_COMMIT_KNOWS_NOTHING, breaks(ONE);
    commit_without_a_record: without COMMIT_IS_RECORDED, breaks(COMMIT_KNOWN);
    abort_without_a_record: without ABORT_IS_RECORDED, gets_stuck;
    abort_only_once: without ABORT_IS_REPEATED, gets_stuck;
    ask_only_once: without UNDECIDED_ASKS_AGAIN, gets_stuck;
    release_only_once: without RELEASE_IS_REPEATED, gets_stuck;
    ignore_a_refusal_after_release: without REFUSED_RETURNS_ALWAYS, gets_stuck;
    forget_commit_when_undecided: without SOURCE_RECORD_STAYS_UNTIL_CONFIRMED, breaks(COMMIT_KNOWN);
    run_at_ready: without READY_DOES_NOT_RUN, breaks(ONE);
    ready_without_a_record: without READY_IS_RECORDED, breaks(READY_KNOWN);
    discard_when_the_source_is_lost: without READY_HOLDS, breaks(NOT_DROPPED);
    do_not_decide_when_asked: without QUESTION_DECIDES, gets_stuck;
    refuse_without_a_record: without REFUSAL_IS_RECORDED, breaks(REFUSED_STAYS);
    accept_commit_after_refusal: without REFUSAL_IS_FINAL, breaks(ONE);
    refuse_after_commit: without COMMITTED_IS_FINAL, breaks(ONE);
    own_without_a_record: without COMMITTED_IS_RECORDED, breaks(COMMITTED_STAYS);
    forget_committed_at_once: without COMMITTED_STAYS_UNTIL_HEARD, breaks(COMMITTED_STAYS);
    ignore_abort: without ABORT_IS_OBEYED, gets_stuck;
    call_a_lost_ready_refused: without LOST_READY_IS_UNKNOWN, breaks(NO_WAY_BACK);
    call_no_record_refused: without NO_RECORD_IS_UNKNOWN, breaks(NO_WAY_BACK);
    keep_a_dead_sources_word_to_oneself: without RECORDED_WORD_IS_PASSED_ON, gets_stuck;
    resolve_without_a_fence: without RESOLVE_NEEDS_FENCE, breaks(ONE);
}
