//! The invariants.

use super::restore::RestoreSide;
use super::save::SaveSide;
use super::saving::is_completed;
use super::world::{Keep, Process};
use crate::env::SECOND;
use crate::life::Pid;
use motion::Machine as _;
use motion::restore::{Phase, Terms};
use motion::source::Phase as AtSource;
use snapshot::{Kind, Origin, Reader};
use state::Code;
use std::path::Path;
use std::rc::Rc;

fn open(path: &Path) -> Option<Reader> {
    Reader::open(Origin::Path { path: path.to_owned(), offset: 0 }, false).ok()
}

/// Where RAM begins in a file.
pub fn place(path: &Path) -> Option<u64> {
    open(path).map(|reader| reader.place_of(0))
}

/// The file, if what was written to it is there, and complete.
fn held(keep: &Keep, file: usize) -> Option<Reader> {
    let note = &keep.files[file];
    open(&note.path).filter(|reader| reader.header().snapshot == note.snapshot)
}

/// Files in which the guest is, complete and for anybody to take.
pub fn unclaimed(keep: &Keep) -> Vec<usize> {
    let is_there = |file: &usize| {
        held(keep, *file).is_some_and(|reader| {
            let is_save = reader.header().kind == Kind::Save;
            is_save && reader.claim().is_none() && reader.claim_damage().is_none()
        })
    };
    (0..keep.files.len()).filter(is_there).collect()
}

/// The complete file that is where this one is to go.
pub fn earlier(keep: &Keep, file: usize) -> Option<usize> {
    let path = &keep.files[file].path;
    (0..file).rev().find(|n| keep.files[*n].path == *path && held(keep, *n).is_some())
}

/// Whatever happened, the old file is there, or the whole new one.
pub fn old_or_new(keep: &Keep, file: usize, old: Option<usize>) {
    let Some(old) = old.filter(|_| !keep.is_untidy) else { return };
    let there = held(keep, old).is_some() || held(keep, file).is_some();
    keep.book.check(there, || format!("file {old} is gone, and file {file} is not there"));
}

/// Never two, wherever they are.
pub fn after_each_step(keep: &mut Keep) {
    let owners: Vec<Pid> = keep.owners().collect();
    let doubts = |p: &Process| p.save.as_ref().is_some_and(SaveSide::is_in_doubt);
    let in_doubt = keep.processes.iter().find(|(_, p)| doubts(p)).map(|(pid, _)| *pid);
    keep.last_owner = owners.first().copied().or(in_doubt);
    let book = &keep.book;
    book.check(owners.len() <= 1, || format!("processes {owners:?} may all run the guest"));
    for process in keep.processes.values() {
        let Some(machine) = &process.machine else { continue };
        book.check(!machine.is_running() || machine.has_permit(), || {
            format!("process {} runs the guest and may not", process.life.pid)
        });
    }
    if let Some((pid, side)) =
        keep.processes.iter().find_map(|(pid, p)| Some((pid, p.save.as_ref()?)))
        && side.source.phase() == AtSource::Undecided
    {
        let said = side.source.progress();
        book.check(said.undecided.is_some() && !said.note.is_empty(), || {
            format!("process {pid} is undecided and does not say what it waits for")
        });
    }
    if !keep.disk.has_changed() {
        return;
    }
    let files = unclaimed(keep);
    // One that was replaced by a save that has lost its power may be back: it was never used.
    keep.book.check(owners.is_empty() || files.is_empty(), || {
        format!("process {owners:?} may run the guest, and it is in file {files:?}")
    });
    keep.book.check(files.len() <= 1, || format!("the guest is in files {files:?}"));
}

/// Nobody waits for a disk that does not answer, until then, without saying so.
pub fn hangs_are_noticed(keep: &Keep, pid: Pid, until: u64) {
    let Some(side) = keep.processes.get(&pid).and_then(|p| p.save.as_ref()) else { return };
    let phase = side.source.phase();
    let knows = matches!(phase, AtSource::Undecided | AtSource::Settling | AtSource::Ended);
    let hangs = side.office.hangs_since().is_some_and(|limit| until > limit + SECOND);
    keep.book.check(knows || !hangs, || format!("the disk hangs, and the motion is {phase:?}"));
}

/// Nobody waits to write RAM, until then, for longer than for any disk.
pub fn writers_go_on(keep: &Keep, pid: Pid, until: u64) {
    let Some(side) = keep.processes.get(&pid).and_then(|p| p.save.as_ref()) else { return };
    let limit = side.office.writers_wait_until();
    keep.book.check(limit.is_none_or(|limit| until <= limit), || {
        "the guest waits to write its memory, for a disk that takes none of it".into()
    });
}

/// A file that is said to be complete is, and stays so without power.
pub fn completed(keep: &mut Keep, pid: Pid, file: usize) {
    let Some(side) = keep.processes.get(&pid).and_then(|p| p.save.as_ref()) else { return };
    if !is_completed(side) || keep.files[file].is_complete {
        return;
    }
    let note = &mut keep.files[file];
    note.is_complete = true;
    keep.tally.count("completed in save");
    let lasts = !note.is_apart || keep.disk.cellar.is_durable();
    if note.is_apart {
        keep.tally.count("completed in reboot");
    }
    if side.office.keeps() {
        keep.tally.count("completed in at start");
    }
    keep.book.check(lasts, || {
        "a state is said to be complete, and a power cut would take of its RAM".into()
    });
    let snapshot = open(&note.path).map(|reader| reader.header().snapshot);
    keep.book.check(snapshot == Some(note.snapshot), || "a complete file cannot be read".into());
    keep.book.check(keep.disk.is_durable(&note.path), || {
        "a file is said to be complete, and a power cut would take of it".into()
    });
}

/// A source that has ended has the guest as it was, or has it in a complete file.
pub fn after_writing(keep: &mut Keep, pid: Pid, file: usize, ran: bool) {
    let Some(process) = keep.processes.get_mut(&pid) else { return };
    let Some(side) = process.save.take() else { return };
    let machine = process.machine.clone().expect("it had the guest");
    let book = &keep.book;
    let completed = is_completed(&side);
    let (status, error) = (side.source.report().status.0, side.source.report().error.clone());
    book.note(|| format!("it is {status}: {:?}", error.as_ref().map(|e| e.code)));
    book.check(completed != error.is_some(), || {
        format!("the save is {status}, its error is {:?}", error.as_ref().map(|e| e.code))
    });
    let blames =
        error.as_ref().is_some_and(|e| matches!(e.code, Code::ProtocolError | Code::Internal));
    book.check(!blames, || format!("the save ended with {error:?}"));
    book.check(side.watcher.ends() == 1, || "the end was not told once".into());
    let note = &keep.files[file];
    let gives = note.is_save && completed;
    book.check(machine.has_permit() != gives, || {
        format!("the save is {status}, the guest's permit is here: {}", machine.has_permit())
    });
    book.check(!machine.is_logging(), || "writes are still being logged".into());
    book.check(!machine.ram().may_wait() && !machine.gate.stands(), || {
        "the save has ended, and the guest may still have to wait".into()
    });
    if machine.has_permit() && !keep.guest_gone && !machine.has_failed() {
        // A copy may be asked to leave the guest stopped.
        let stays = completed && !note.is_save && !machine.is_running();
        book.check(machine.is_running() == ran || stays, || {
            format!("the guest ran: {ran}, runs: {}", machine.is_running())
        });
        book.check(side.watcher.believes_running() == machine.is_running(), || {
            format!("the guest runs: {}, and that is not what was told", machine.is_running())
        });
    }
    snapshot::watched_by(process.hands.clone(), || drop(side));
    let is_there = held(keep, file).is_some();
    keep.book.check(!completed || is_there, || "the file is gone".into());
    if gives {
        // The process has nothing left.
        let _ = keep.processes.remove(&pid);
    }
    let names = keep.disk.names().expect("a folder can be listed");
    let parts = names.iter().filter(|name| name.ends_with(".part")).count();
    keep.book.check(parts == 0 || keep.is_untidy, || "something incomplete is left behind".into());
    keep.disk.sweep().expect("files can be removed");
}

/// Whoever owns a saved guest has claimed it, for good.
pub fn claimed(keep: &Keep, side: &RestoreSide, file: usize) {
    let note = &keep.files[file];
    if !note.is_save || side.terms == Terms::Clone {
        return;
    }
    let reader = open(&note.path);
    let claim = reader.as_ref().and_then(Reader::claim);
    let token = claim.map(|claim| motion::handover::Token(claim.token).to_string());
    keep.book.check(token.is_some() && token == side.token(), || {
        "a saved guest runs, and its file does not say where".into()
    });
    keep.book.check(keep.disk.holds_durably(&note.path), || {
        "a saved guest runs, and a power cut would take its claim".into()
    });
}

/// When all is calm the guest is somewhere, and every file holds what it was said to hold.
pub fn at_the_end(keep: &mut Keep) {
    after_each_step(keep);
    every_copy_is_good(keep);
    if keep.owner().is_some() || keep.book.is_wrong() {
        return;
    }
    if let Some(file) = keep.unclaimed() {
        let guest = keep.guest.clone();
        take(keep, file, Terms::AsSaved, guest, "the guest is in a file, and cannot be restored");
        return;
    }
    // It was claimed by somebody who is no more.
    let claimed = (0..keep.files.len()).rev().find(|file| {
        // Or half of a claim was written, which then may be a whole one.
        let is_claimed = |r: &Reader| r.claim().is_some() || r.claim_damage().is_some();
        held(keep, *file).is_some_and(|r| r.header().kind == Kind::Save && is_claimed(&r))
    });
    let Some(file) = claimed else {
        keep.book.check(keep.is_lost, || "the guest is nowhere, and nobody had it who died".into());
        return;
    };
    let Some(guest) = keep.copy_of(file) else {
        return keep.book.wrong("a file is complete, and its guest was never saved");
    };
    let (pid, side) = keep.prepare(1, file, Terms::AsSaved, false, guest.clone());
    side.run();
    keep.book.check(side.code() == Some(Code::SnapshotClaimed), || {
        format!("a file that was claimed is not refused as such: {:?}", side.code())
    });
    keep.end(pid, &side, file, false);
    keep.tally.count("reclaimed in restore");
    drop(side);
    if keep.files[file].is_apart {
        return reclaim_apart(keep, file, guest);
    }
    take(keep, file, Terms::Reclaim, guest, "a claimed guest cannot be reclaimed");
}

/// A claimed guest whose RAM stayed in its memory file: it goes on as long as nobody ran it there.
fn reclaim_apart(keep: &mut Keep, file: usize, guest: crate::guest::SharedGuest) {
    let generation = keep.disk.cellar.generation();
    let reader = held(keep, file);
    let saved = reader.as_ref().and_then(Reader::apart).map(|apart| apart.generation);
    drop(reader);
    let ran_on = match (saved, &generation) {
        (Some(saved), Ok(now)) => *now > saved,
        _ => {
            return keep
                .book
                .wrong(format!("generation {generation:?} is not known, or {saved:?}"));
        }
    };
    if !ran_on {
        keep.tally.count("reclaimed in reboot");
        return take(keep, file, Terms::Reclaim, guest, "RAM is as it was, and is refused");
    }
    keep.tally.count("ran on in reboot");
    let (pid, side) = keep.prepare(0, file, Terms::Reclaim, false, guest);
    side.run();
    keep.book.check(side.code() == Some(Code::SnapshotClaimed), || {
        format!("RAM that ran on is not refused as such: {:?}", side.code())
    });
    keep.end(pid, &side, file, false);
}

/// Every file that was said to be complete, and was not replaced, holds its guest.
fn every_copy_is_good(keep: &mut Keep) {
    for file in 0..keep.files.len() {
        // Of what shares its RAM there are no copies.
        if !keep.files[file].is_complete || keep.files[file].is_apart {
            continue;
        }
        let path = &keep.files[file].path;
        let replaced = keep.files[file + 1..].iter().any(|note| note.path == *path);
        if held(keep, file).is_none() {
            keep.book.check(replaced, || format!("file {file} was complete, and is gone"));
            continue;
        }
        let Some(guest) = keep.copy_of(file) else {
            return keep.book.wrong("a file is complete, and its guest was never saved");
        };
        take(keep, file, Terms::Clone, guest, "what was said to be complete cannot be restored");
    }
}

/// A restore that must succeed. That the guest is whole its machine sees.
fn take(
    keep: &mut Keep,
    file: usize,
    terms: Terms,
    guest: crate::guest::SharedGuest,
    why: &'static str,
) {
    let (pid, side): (Pid, Rc<RestoreSide>) = keep.prepare(0, file, terms, false, guest);
    side.run();
    keep.book.check(side.phase() == Some(Phase::Owner), || {
        format!("{why}: file {file}, {:?}", side.code())
    });
    keep.end(pid, &side, file, false);
    if terms == Terms::Clone {
        let _ = keep.processes.remove(&pid);
    }
}
