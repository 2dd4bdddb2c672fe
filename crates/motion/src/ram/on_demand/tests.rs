use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicBool;

fn set(pages: u64, runs: &[(u64, u64)]) -> PageSet {
    let mut set = PageSet::new(pages);
    runs.iter().for_each(|(start, count)| set.insert(PageRange::new(*start, *count)));
    set
}

fn full(chunks: u64) -> OnDemand {
    let pages = chunks * CHUNK_PAGES;
    OnDemand::new(PageSet::full(pages), &PageSet::new(pages), CHUNK_PAGES)
}

fn install(on_demand: &OnDemand, claim: &Claim) {
    for chunk in claim.chunks() {
        assert!(on_demand.begin(claim, chunk));
        let _ = on_demand.finish(claim, chunk);
    }
}

fn fetch(on_demand: &OnDemand, page: u64) -> Claim {
    match on_demand.fault(page) {
        Answer::Fetch(claim) => claim,
        other => panic!("page {page}: {other:?}"),
    }
}

#[test]
fn what_is_waited_for_comes_first_then_its_neighbours_then_what_was_in_use_then_the_rest() {
    let pages = 40 * CHUNK_PAGES;
    let recent = set(pages, &[(30 * CHUNK_PAGES, 2 * CHUNK_PAGES)]);
    let on_demand = OnDemand::new(PageSet::full(pages), &recent, CHUNK_PAGES);
    let waited = fetch(&on_demand, 10 * CHUNK_PAGES + 3);
    assert_eq!((waited.chunks(), waited.reason), (10..11, Reason::Fault));
    assert!(!on_demand.ask(PageRange::new(20 * CHUNK_PAGES, 1)));
    let mut order = Vec::new();
    while let Some(claim) = on_demand.next(3) {
        order.push((claim.reason, claim.chunks()));
    }
    let expected = [
        (Reason::Asked, 20..21),
        (Reason::Near, 9..10),
        (Reason::Near, 11..14),
        (Reason::Near, 14..15),
        (Reason::Recent, 30..33),
        (Reason::Sequential, 0..3),
    ];
    assert_eq!(order[..6], expected);
    assert!(order[6..].iter().all(|(reason, _)| *reason == Reason::Sequential));
    let claimed: u64 = order.iter().map(|(_, chunks)| chunks.end - chunks.start).sum();
    assert_eq!(claimed, 39);
}

#[test]
fn the_last_fault_has_its_neighbours_come_first() {
    let on_demand = full(40);
    let _first = fetch(&on_demand, 10 * CHUNK_PAGES);
    let _second = fetch(&on_demand, 30 * CHUNK_PAGES);
    assert_eq!(on_demand.next(8).unwrap().chunks(), 29..30);
    assert_eq!(on_demand.next(8).unwrap().chunks(), 31..35);
    assert_eq!(on_demand.next(8).unwrap().chunks(), 9..10);
}

#[test]
fn who_waits_for_what_is_being_fetched_is_known_to_who_fetches_it() {
    let on_demand = full(8);
    let claim = on_demand.next(2).unwrap();
    assert_eq!(claim.chunks(), 0..2);
    assert_eq!(on_demand.fault(CHUNK_PAGES), Answer::Underway);
    assert!(on_demand.begin(&claim, 0) && !on_demand.finish(&claim, 0));
    assert!(on_demand.begin(&claim, 1));
    assert_eq!(on_demand.fault(CHUNK_PAGES + 1), Answer::Underway);
    assert!(on_demand.finish(&claim, 1));
    assert_eq!(on_demand.fault(CHUNK_PAGES), Answer::Zero, "it is there, or was discarded");
    assert_eq!(on_demand.left(), 6);
    let (faults, pages) = on_demand.totals();
    assert_eq!(faults, FaultTotals { fetched: 0, underway: 2, zero: 1 });
    assert_eq!((pages.sequential, pages.sum()), (2 * CHUNK_PAGES, 2 * CHUNK_PAGES));
}

#[test]
fn what_the_source_does_not_have_is_zero() {
    let pages = 4 * CHUNK_PAGES;
    let present = set(pages, &[(CHUNK_PAGES + 2, 1)]);
    let on_demand = OnDemand::new(present.clone(), &PageSet::full(pages), CHUNK_PAGES);
    assert_eq!(on_demand.fault(0), Answer::Zero);
    assert_eq!(on_demand.fault(CHUNK_PAGES), Answer::Zero, "its chunk has another page");
    assert_eq!(on_demand.fault(pages), Answer::Zero);
    assert_eq!(on_demand.fault(u64::MAX), Answer::Zero);
    assert!(on_demand.are_there(PageRange::new(0, CHUNK_PAGES)));
    assert!(!on_demand.are_there(PageRange::new(0, CHUNK_PAGES + 1)));
    assert!(on_demand.ask(PageRange::new(2 * CHUNK_PAGES, u64::MAX)));
    let _ = fetch(&on_demand, CHUNK_PAGES + 2);
    assert_eq!(on_demand.next(9), None);
    // A huge page comes as a whole, if any part of it does.
    let huge = OnDemand::new(set(1024, &[(700, 1)]), &PageSet::new(1024), 512);
    assert_eq!(huge.fault(0), Answer::Zero);
    assert_eq!(fetch(&huge, 512).chunks(), 1..2);
}

#[test]
fn what_was_given_back_is_fetched_again_and_the_revoked_install_nothing() {
    let on_demand = full(4);
    let lost = on_demand.next(4).unwrap();
    assert!(on_demand.begin(&lost, 0));
    on_demand.revoke(&lost);
    assert!(!on_demand.begin(&lost, 1), "it belongs to somebody else now");
    assert!(!on_demand.finish(&lost, 0), "what was being installed stayed with it");
    assert_eq!(on_demand.left(), 3);
    let again = on_demand.next(4).unwrap();
    assert_eq!((again.chunks(), again.reason), (1..2, Reason::Asked));
    on_demand.give_back(&lost);
    assert!(on_demand.begin(&again, 1), "who holds nothing can give nothing back");
    on_demand.give_back(&again);
    while let Some(claim) = on_demand.next(4) {
        install(&on_demand, &claim);
    }
    assert_eq!(on_demand.left(), 0);
}

#[test]
fn a_fault_that_waited_for_a_claim_that_was_revoked_is_still_wanted() {
    let on_demand = full(1);
    let lost = on_demand.next(1).unwrap();
    assert_eq!(on_demand.fault(0), Answer::Underway);
    on_demand.revoke(&lost);
    let again = on_demand.next(1).unwrap();
    assert!(on_demand.begin(&again, 0) && on_demand.finish(&again, 0));
}

/// One thing that happens to the chunks.
#[derive(Debug, Clone)]
enum Step {
    Fault(u64),
    Next(u64),
    Ask(u64, u64),
    Install(usize),
    GiveBack(usize),
    Revoke(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..700).prop_map(Step::Fault),
        (1u64..6).prop_map(Step::Next),
        (0u64..700, 0u64..100).prop_map(|(start, count)| Step::Ask(start, count)),
        any::<usize>().prop_map(Step::Install),
        any::<usize>().prop_map(Step::GiveBack),
        any::<usize>().prop_map(Step::Revoke),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_every_page_comes_once(
        pages in 1u64..640,
        present in proptest::collection::vec((0u64..640, 1u64..50), 0..12),
        recent in proptest::collection::vec((0u64..640, 1u64..50), 0..4),
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let present = set(pages, &present);
        let on_demand = OnDemand::new(present.clone(), &set(pages, &recent), CHUNK_PAGES);
        let mut installed = PageSet::new(pages);
        let mut held: Vec<Claim> = Vec::new();
        let hold = |claim: Claim, held: &mut Vec<Claim>| {
            prop_assert!(on_demand.pages_of(claim.chunks()).is_within(pages));
            held.push(claim);
            Ok(())
        };
        let put = |claim: Claim, installed: &mut PageSet| {
            for chunk in claim.chunks() {
                if on_demand.begin(&claim, chunk) {
                    for run in present.runs_in(on_demand.pages_of(chunk..chunk + 1)) {
                        prop_assert_eq!(installed.count_in(run), 0, "a page came twice");
                        installed.insert(run);
                    }
                    let _ = on_demand.finish(&claim, chunk);
                }
            }
            Ok(())
        };
        for step in steps {
            match step {
                Step::Fault(page) => match on_demand.fault(page) {
                    Answer::Fetch(claim) => hold(claim, &mut held)?,
                    Answer::Zero => prop_assert!(
                        !present.contains(page) || installed.contains(page)),
                    Answer::Underway => prop_assert!(!installed.contains(page)),
                },
                Step::Next(most) => {
                    if let Some(claim) = on_demand.next(most) {
                        hold(claim, &mut held)?;
                    }
                }
                Step::Ask(start, count) => {
                    let range = PageRange::new(start, count);
                    let are_there = on_demand.ask(range);
                    prop_assert_eq!(are_there, on_demand.are_there(range));
                    if are_there {
                        prop_assert_eq!(present.count_in(range), installed.count_in(range));
                    }
                }
                Step::Install(which) if !held.is_empty() => {
                    let claim = held.swap_remove(which % held.len());
                    put(claim, &mut installed)?;
                }
                Step::GiveBack(which) if !held.is_empty() => {
                    on_demand.give_back(&held.swap_remove(which % held.len()));
                }
                // Whoever lost it still tries to install it later.
                Step::Revoke(which) if !held.is_empty() => {
                    on_demand.revoke(&held[which % held.len()]);
                }
                _ => {}
            }
        }
        for claim in held {
            put(claim, &mut installed)?;
        }
        while let Some(claim) = on_demand.next(3) {
            put(claim, &mut installed)?;
        }
        prop_assert_eq!(on_demand.left(), 0);
        prop_assert_eq!(&installed, &present);
        prop_assert_eq!(on_demand.totals().1.sum(), present.count());
    }
}

#[test]
fn of_many_threads_one_fetches_each_chunk() {
    const CHUNKS: u64 = 4000;
    let on_demand = full(CHUNKS);
    let fetched: Vec<AtomicU64> = (0..CHUNKS).map(|_| AtomicU64::new(0)).collect();
    let unanswered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (on_demand, fetched, unanswered) = (&on_demand, &fetched, &unanswered);
            scope.spawn(move || {
                let mut random = thread * 77 + 1;
                let put = |claim: Claim, random: u64| {
                    for chunk in claim.chunks() {
                        if random.is_multiple_of(7) {
                            on_demand.revoke(&claim);
                        }
                        if on_demand.begin(&claim, chunk) {
                            fetched[usize::try_from(chunk).unwrap()].fetch_add(1, Relaxed);
                            let _ = on_demand.finish(&claim, chunk);
                        }
                    }
                };
                while on_demand.left() > 0 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(thread);
                    let page = (random >> 33) % (CHUNKS * CHUNK_PAGES);
                    match on_demand.fault(page) {
                        Answer::Fetch(claim) => put(claim, random >> 20),
                        Answer::Zero => {
                            if fetched[usize::try_from(page / CHUNK_PAGES).unwrap()].load(Relaxed)
                                == 0
                            {
                                unanswered.store(true, Relaxed);
                            }
                        }
                        Answer::Underway => {}
                    }
                    if let Some(claim) = on_demand.next(1 + random % 5) {
                        put(claim, random >> 10);
                    }
                }
            });
        }
    });
    assert!(fetched.iter().all(|count| count.load(Relaxed) == 1));
    assert!(!unanswered.load(Relaxed), "a page was taken for zero before it came");
}
