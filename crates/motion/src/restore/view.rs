//! What is told of a restore, while it goes on and when it has ended.

use super::job::{Phase, Restore, lock};
use crate::clock::nanos;
use crate::fill::PageService;
use crate::report::{ErrorReport, Progress, Report, RestoreReport, StatusOrNone};
use crate::{MotionError, Status};
use memory::PAGE_SIZE;
use state::Code;
use std::sync::atomic::Ordering;
use std::time::Instant;

pub(super) struct View {
    pub phase: Phase,
    pub report: Report,
    pub filling_since: Option<Instant>,
    /// The observer has heard of the end.
    pub told: bool,
}

impl Restore {
    pub(super) fn phase(&self) -> Phase {
        lock(&self.view).phase
    }

    /// Goes on to the next phase.
    pub(super) fn enter(&self, phase: Phase, status: Status) {
        let changed = {
            let mut view = lock(&self.view);
            view.phase = phase;
            if status.is_terminal() && !view.told {
                view.report.total_ns = nanos(self.begun.elapsed());
            }
            let before = std::mem::replace(&mut view.report.status, StatusOrNone(status));
            before != view.report.status
        };
        if changed {
            self.observer.status(status);
        }
    }

    /// It brought no guest.
    pub(super) fn end(&self, error: MotionError) {
        tracing::info!(%error, "the restore brought no guest");
        let status = if error.code == Code::Cancelled { Status::Cancelled } else { Status::Failed };
        self.note(|report, _| {
            report.error = Some(ErrorReport { code: error.code, why: error.why });
            report.refusals = error.refusals;
        });
        self.enter(Phase::Ended, status);
        self.finish();
    }

    /// Tells of the end, once: a guest that was held has been told of when it runs.
    pub(super) fn finish(&self) {
        let report = {
            let view = lock(&self.view);
            if view.told {
                return;
            }
            view.report.clone()
        };
        self.observer.finished(&report);
        lock(&self.view).told = true;
        self.finished.notify_all();
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Report, &mut RestoreReport)) {
        let mut view = lock(&self.view);
        let mut restore = view.report.restore.take().unwrap_or_default();
        change(&mut view.report, &mut restore);
        view.report.restore = Some(restore);
    }

    pub(super) fn progress(&self) -> Progress {
        let view = lock(&self.view);
        let lazily = lock(&self.service).as_ref().map(PageService::report);
        let lazily = lazily.as_ref().or(view.report.restore.as_ref().and_then(|r| r.fill.as_ref()));
        let pages = self.pages;
        let done = match lazily {
            Some(fill) => fill.fetched.sum(),
            None => self.filled.load(Ordering::Relaxed),
        };
        let bytes = done.saturating_mul(PAGE_SIZE);
        let elapsed = view.filling_since.map(|since| since.elapsed()).unwrap_or_default();
        let rate = u128::from(bytes) * 1_000_000_000 / elapsed.as_nanos().max(1);
        let rate = match view.phase {
            Phase::Filling => u64::try_from(rate).unwrap_or(u64::MAX),
            _ => 0,
        };
        let note = match view.phase {
            Phase::Owner if lazily.is_some_and(|fill| fill.all_in_ns.is_none()) => {
                "RAM comes while the guest runs"
            }
            phase => note_of(phase),
        };
        let left = (pages - done.min(pages)).saturating_mul(PAGE_SIZE);
        Progress {
            status: view.report.status,
            peer: view.report.peer.clone(),
            elapsed_ns: nanos(self.begun.elapsed()),
            pass: 1,
            pass_pages: pages,
            pass_done: done,
            bytes,
            rate,
            eta_ns: left.saturating_mul(1_000_000_000).checked_div(rate),
            note: note.to_owned(),
            ..Progress::default()
        }
    }
}

fn note_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Building => "building the machine",
        Phase::Loading => "loading the state",
        Phase::Held => "loaded; claimed when it is resumed",
        Phase::Claiming => "writing the claim into the file",
        Phase::Filling | Phase::Owner | Phase::Ended => "",
    }
}
