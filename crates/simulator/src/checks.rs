//! The invariants.

use crate::env::{MICROSECOND, SECOND};
use crate::guest;
use crate::process::Process;
use crate::senders::Senders;
use crate::source::SourceSide;
use crate::story::Motion;
use crate::world::World;
use motion::clock::nanos;
use motion::destination::Phase as AtDestination;
use motion::handover::{Decision, Outcome, Role};
use motion::source::Phase as AtSource;
use motion::{Blackout, Machine as _, PassReport, Report, Status, TimeoutAction};
use state::Code;
use std::time::Duration;

/// After every step: never two, and whoever runs may.
pub fn one_guest(world: &World) {
    let (mut permits, mut running) = (Vec::new(), Vec::new());
    for (pid, machine) in world.machines() {
        if machine.has_permit() {
            permits.push(pid);
        }
        if machine.is_running() {
            running.push(pid);
        }
    }
    // A permit that a source may take back at any time is one, too.
    let offers = world
        .processes
        .iter()
        .filter(|(_, process)| process.source().is_some_and(SourceSide::offers));
    permits.extend(offers.map(|(pid, _)| *pid));
    let book = &world.env.book;
    book.check(permits.len() <= 1, || format!("processes {permits:?} may all run the guest"));
    book.check(running.len() <= 1, || format!("processes {running:?} all run the guest"));
    book.check(running.iter().all(|pid| permits.contains(pid)), || {
        format!("process {running:?} runs the guest and may not")
    });
}

/// After every step: in an update the word says who may run the guest, whatever either believes; and
/// nothing is ever undecided.
fn update(world: &World, motion: &Motion) {
    let Some(outcome) = world.outcome() else { return };
    let book = &world.env.book;
    let [old, new] = [motion.source, motion.destination].map(|pid| world.processes.get(&pid));
    let has = |process: &Process| process.machine().is_some_and(|m| m.has_permit());
    book.check(outcome != Outcome::Entered || !old.is_some_and(has), || {
        "the guest was entered, and the old process may run it".into()
    });
    book.check(outcome == Outcome::Entered || !new.is_some_and(has), || {
        format!("the guest was not entered but {outcome:?}, and the new process may run it")
    });
    let undecided = motion.at_source == AtSource::Undecided;
    let holds = motion.at_destination == AtDestination::Holding;
    book.check(!undecided && !holds, || "an update is undecided".into());
}

/// After every step: what is true of the motion under way.
pub fn motion(world: &World) {
    let Some(motion) = &world.story.motion else { return };
    let round = world.story.plan();
    let book = &world.env.book;
    update(world, motion);
    let process = world.processes.get(&motion.source);
    if let Some(side) = process.and_then(|process| process.source()) {
        if side.source.has_ended() {
            ended(world, side);
        }
        promise(world, side);
        let undecided = side.source.phase() == motion::source::Phase::Undecided;
        on_record(world, side);
        let said = side.source.progress();
        book.check(!undecided || said.undecided.is_some() && !said.note.is_empty(), || {
            "an undecided source does not say what it waits for".into()
        });
    }
    let process = world.processes.get(&motion.destination);
    if let Some(side) = process.and_then(|process| process.destination.as_ref()) {
        let (phase, report) = (side.destination.phase(), side.destination.report());
        let said = side.destination.progress();
        book.check(
            phase != AtDestination::Holding || said.undecided.is_some() && !said.note.is_empty(),
            || "a destination that holds does not say what it waits for".into(),
        );
        honest(world, report);
        if phase == AtDestination::Failed {
            book.check(report.error.is_some(), || "the destination failed, and not why".into());
            book.check(report.status.0 == Status::Failed, || {
                format!("the destination failed and says {}", report.status.0)
            });
        }
        if phase == AtDestination::Owner {
            book.check(report.status.0 == Status::Completed, || {
                format!("the destination owns the guest and says {}", report.status.0)
            });
            let machine = side.machine();
            let stopped = !motion.ran_before;
            let as_before = machine.as_ref().is_some_and(|machine| {
                machine.has_failed() || !machine.has_permit() || machine.is_running() != stopped
            });
            let later = round.stopped && world.story.guest_gone;
            book.check(as_before || later || world.story.closing.is_some(), || {
                "the guest does not run at the destination as it did at the source".into()
            });
        }
    }
}

/// What was said and not yet heard is on record: the process may die at any time.
fn on_record(world: &World, side: &SourceSide) {
    let Some(motion) = &world.story.motion else { return };
    let disk = &world.env.disks[side.machine.life.host];
    let recorded = side.wires.fate.is_none();
    let said = recorded && side.is_undecided() && !side.machine.life.is_dead();
    let must = [Decision::Open, Decision::Committed];
    world.env.book.check(!said || disk.has(motion.token, Role::Source, &must), || {
        "COMMIT is out, and that is not on record".into()
    });
}

/// After every step: whoever has the only complete copy of a guest keeps it, until somebody who may
/// has decided against it.
pub fn copy_is_kept(world: &World) {
    let story = &world.story;
    let Some(process) = story.heir.and_then(|heir| world.processes.get(&heir)) else { return };
    let Some(side) = &process.destination else { return };
    if world.processes.contains_key(&guest::lock(&world.env.guest).holder) {
        return;
    }
    let may = story.forgone || side.wires.source_spoke || side.gives_up;
    let owner = process.machine().is_some_and(|machine| machine.has_permit());
    world.env.book.check(may || owner || side.holds(), || {
        format!("process {} has dropped the only copy of the guest", process.life.pid)
    });
}

/// What is true of a source whose motion has ended.
fn ended(world: &World, side: &SourceSide) {
    let Some(motion) = &world.story.motion else { return };
    let book = &world.env.book;
    let (report, machine) = (side.source.report(), &side.machine);
    let status = report.status.0;
    book.check(status.is_terminal(), || format!("the motion has ended and is {status}"));
    let completed = status == Status::Completed;
    book.check(completed != report.error.is_some() || report.checked, || {
        format!("the motion is {status}, its error is {:?}", report.error)
    });
    honest(world, report);
    accounts(world, side, report);
    book.check(completed != machine.has_permit(), || {
        format!("the motion is {status}, the guest's permit is here: {}", machine.has_permit())
    });
    book.check(!machine.is_logging(), || "writes are still being logged".into());
    book.check(side.wires.senders.is_none(), || "workers are still there".into());
    let ends = side.watcher.ends();
    book.check(ends == 1 || ends == 2 && !completed, || format!("it was said {ends} times to end"));
    let (apart, code) = (side.wires.clocks_apart, report.error.as_ref().map(|error| error.code));
    book.check(apart <= SECOND || code == Some(Code::ClockSkew), || {
        format!("the clocks are {apart} ns apart, and the motion is {status}, {code:?}")
    });
    if completed {
        book.check(!side.watcher.believes_running(), || "nobody was told that it stopped".into());
        blackout(world, side);
    }
    if motion.meddled {
        return;
    }
    if machine.has_permit() && motion.ran_before && !world.story.guest_gone {
        book.check(side.watcher.believes_running() == machine.is_running(), || {
            format!("the guest runs: {}, and that is not what was told", machine.is_running())
        });
    }
    if machine.has_permit() {
        let runs = motion.ran_before && !world.story.guest_gone;
        book.check(machine.is_running() == runs || machine.has_failed(), || {
            format!("the guest is back, ran before: {runs}, runs: {}", machine.is_running())
        });
    }
}

/// Every page that was sent is accounted for once, and arrived.
fn accounts(world: &World, side: &SourceSide, report: &Report) {
    let Some(motion) = &world.story.motion else { return };
    let book = &world.env.book;
    let sum = |of: fn(&PassReport) -> u64| report.passes.iter().map(of).sum::<u64>();
    let sent = (sum(|p| p.data_pages), sum(|p| p.zero_pages), sum(|p| p.bytes));
    let ram = (report.ram.data_pages, report.ram.zero_pages, report.ram.bytes);
    book.check(sent == ram, || format!("the passes make {sent:?}, the whole is {ram:?}"));
    let pages_sent = side.wires.sent + side.wires.senders.as_ref().map_or(0, Senders::sent);
    book.check(report.ram.bytes == pages_sent, || {
        format!("{pages_sent} bytes of pages were sent, {} are reported", report.ram.bytes)
    });
    let in_order = report.passes.windows(2).all(|two| two[0].pass < two[1].pass);
    book.check(in_order, || format!("passes come twice: {:?}", report.passes));
    let there = world.processes.get(&motion.destination);
    let there = there.and_then(|p| p.destination.as_ref()).map(|side| side.destination.report());
    if let (Status::Completed, Some(there)) = (report.status.0, there) {
        let arrived = (there.ram.data_pages, there.ram.zero_pages);
        book.check(arrived == (ram.0, ram.1), || format!("{ram:?} were sent, {arrived:?} came"));
    }
}

/// The blackout is what is reported, as closely as is said, and its stages make it up.
fn blackout(world: &World, side: &SourceSide) {
    let Some(motion) = &world.story.motion else { return };
    let Some(report) = &side.source.report().blackout else { return };
    let book = &world.env.book;
    let stages: u64 = report.stages.iter().map(|stage| stage.ns).sum();
    book.check(stages.abs_diff(report.ns) <= report.ns / 20, || {
        format!("the stages of the blackout make {stages}: {report:?}")
    });
    let started = world
        .processes
        .get(&motion.destination)
        .and_then(|process| process.machine())
        .map_or(0, |machine| machine.started_at());
    if started > side.machine.stopped_at() {
        let truth = started - side.machine.stopped_at();
        let most = report.uncertainty_ns + MICROSECOND;
        book.check(truth.abs_diff(report.ns) <= most, || {
            format!("the guest was stopped for {truth} ns: {report:?}")
        });
    }
}

/// Both sides keep to the protocol: neither may ever find that the other does not.
fn honest(world: &World, report: &Report) {
    let code = report.error.as_ref().map(|error| error.code);
    let blames = matches!(code, Some(Code::ProtocolError | Code::Internal));
    world.env.book.check(!blames, || format!("the motion ended with {:?}", report.error));
}

/// The guest is stopped for no longer than was promised, unless it has been given away by then.
fn promise(world: &World, side: &SourceSide) {
    let Some(motion) = &world.story.motion else { return };
    let round = world.story.plan();
    let Blackout::Limit(limit) = round.options.blackout else { return };
    let switches_anyway = round.options.timeout_action == TimeoutAction::Switch;
    if round.options.frozen || !motion.ran_before || switches_anyway || motion.promise_changed {
        return;
    }
    let machine = &side.machine;
    let stopped = machine.stopped_at();
    if stopped < motion.begun {
        return;
    }
    // Where RAM is shared it is not given away until the destination has entered.
    let committed = side.wires.committed_at.filter(|_| side.wires.fate.is_none());
    let until = committed.map(|at| at - stopped).or(machine.paused_for());
    let Some(pause) = until else { return };
    let limit = nanos(limit);
    // What it was doing when the time was up it does to its end.
    let most = limit + motion.waited + motion.frozen + machine.own_time() + MICROSECOND;
    world.env.book.check(pause <= most, || {
        let waited = motion.waited;
        format!(
            "the guest was stopped for {pause} ns, {waited} of them waiting; {limit} were promised"
        )
    });
}

/// When everything has ended.
pub fn at_the_end(world: &World) {
    let book = &world.env.book;
    let story = &world.story;
    let holder = guest::lock(&world.env.guest).holder;
    let alive = |pid: &u32| world.processes.contains_key(pid);
    let who = Some(holder).filter(alive).or(story.heir.filter(alive));
    let owner = world.owner();
    // Whoever was to go on with the guest is dead, and it is nobody else's.
    let lost = story.motion.as_ref().is_some_and(|motion| match world.outcome() {
        Some(Outcome::Kept) => !alive(&motion.source),
        Some(Outcome::Entered) => !alive(&motion.destination),
        Some(Outcome::Open) | None => false,
    });
    if let (Some(who), None, false) = (who, owner, lost) {
        let destination = world.processes[&who].destination.as_ref();
        let may = destination.is_some_and(|side| side.wires.source_spoke || side.gives_up);
        book.check(story.forgone || may, || {
            format!("process {who} has the only complete guest, and nobody owns it")
        });
    }
    if let Some(motion) = story.motion.as_ref().filter(|_| owner.is_none()) {
        let both =
            [motion.source, motion.destination].iter().all(|pid| !story.killed.contains(pid));
        book.check(!both || story.guest_gone, || {
            "both sides live, and each believes that the guest is the other's".into()
        });
    }
    if story.undisturbed {
        undisturbed(world);
    }
    for process in world.processes.values() {
        for side in &process.sources {
            let over = side.source.is_over() || world.tells_nobody(side);
            book.check(over, || "a source has not come to its end".into());
        }
    }
}

/// A motion that nothing interferes with completes, and everybody knows.
fn undisturbed(world: &World) {
    let (round, rounds) = (world.story.plan(), &world.story.scenario.rounds);
    let options = &round.options;
    // Who is busy for longer than the other's stall limit is taken for lost.
    let half = |limits: Vec<Duration>| limits.into_iter().min().map_or(0, nanos) / 2;
    let sources = half(rounds.iter().map(|round| round.options.stall_limit).collect());
    let destinations = half(rounds.iter().map(|round| round.destination.stall_limit).collect());
    let in_time = rounds
        .iter()
        .map(|round| round.nature)
        .all(|nature| nature.restore < sources && nature.pause + nature.save < destinations);
    let sure = options.blackout == Blackout::Unlimited
        && options.timeout_action == TimeoutAction::Switch
        && !(options.check_only || round.absent)
        && rounds.iter().all(|round| round.nature.fails.is_none() && !round.refuses)
        && round.clock_ahead < 1_000_000_000
        && in_time;
    let book = &world.env.book;
    let status = world.status();
    book.check(!sure || status == Some(Status::Completed), || {
        format!("nothing was in the motion's way, and it is {status:?}")
    });
    let waits = world.processes.values().filter_map(|process| process.destination.as_ref());
    for side in waits {
        book.check(side.destination.phase() != AtDestination::Owner, || {
            "the source knows that the guest has arrived, and the destination does not know that"
                .into()
        });
    }
}
