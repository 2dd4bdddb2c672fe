//! The handover with one rule taken out: each time, a promise must break.

use crate::graph::Graph;
use crate::model::{Handover, promise};
use stateright::{Checker, HasDiscoveries, Model};
use std::marker::PhantomData;
use whimbrel_motion::handover::decision::{Rule, Rules};

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
                fn keep(rule: Rule) -> bool {
                    rule != Rule::$rule
                }
            }
            $($check)::+::<Mutant>($(promise::$promise)?);
        }
    )+};
}

mutants! {
    cancel_after_commit: without CancelEndsWithCommit, breaks(ONE);
    cont_after_commit: without ContNeedsPermission, breaks(ONE);
    resume_by_the_ready_timer_after_commit: without ReadyTimerEndsWithCommit, breaks(ONE);
    resume_by_silence_after_commit: without SilenceDecidesNothing, breaks(ONE);
    resume_by_unknown: without UnknownDecidesNothing, breaks(NO_WAY_BACK);
    say_commit_when_asked_before: without AskedBeforeCommitKnowsNothing, breaks(ONE);
    commit_without_a_record: without CommitIsRecorded, breaks(COMMIT_KNOWN);
    abort_without_a_record: without AbortIsRecorded, gets_stuck;
    abort_only_once: without AbortIsRepeated, gets_stuck;
    ask_only_once: without UndecidedAsksAgain, gets_stuck;
    release_only_once: without ReleaseIsRepeated, gets_stuck;
    ignore_a_refusal_after_release: without RefusedReturnsAlways, gets_stuck;
    forget_commit_when_undecided: without SourceRecordStaysUntilConfirmed, breaks(COMMIT_KNOWN);
    run_at_ready: without ReadyDoesNotRun, breaks(ONE);
    ready_without_a_record: without ReadyIsRecorded, breaks(READY_KNOWN);
    discard_when_the_source_is_lost: without ReadyHolds, breaks(NOT_DROPPED);
    do_not_decide_when_asked: without QuestionDecides, gets_stuck;
    refuse_without_a_record: without RefusalIsRecorded, breaks(REFUSED_STAYS);
    accept_commit_after_refusal: without RefusalIsFinal, breaks(ONE);
    refuse_after_commit: without CommittedIsFinal, breaks(ONE);
    own_without_a_record: without CommittedIsRecorded, breaks(COMMITTED_STAYS);
    forget_committed_at_once: without CommittedStaysUntilHeard, breaks(COMMITTED_STAYS);
    ignore_abort: without AbortIsObeyed, gets_stuck;
    call_a_lost_ready_refused: without LostReadyIsUnknown, breaks(NO_WAY_BACK);
    call_no_record_refused: without NoRecordIsUnknown, breaks(NO_WAY_BACK);
    keep_a_dead_sources_word_to_oneself: without RecordedWordIsPassedOn, gets_stuck;
    resolve_without_a_fence: without ResolveNeedsFence, breaks(ONE);
}
