//! What a motion's steps mean to those who watch over QMP.

use motion::{Report, Status};
use qmp::reply::MigrationStatus;
use qmp::{Event, EventSender};
use std::sync::atomic::{AtomicBool, Ordering};

/// Turns the engine's steps into events.
pub(crate) struct Observer {
    events: Option<EventSender>,
    stopped: AtomicBool,
    on_end: Box<dyn Fn(&Report) + Send + Sync>,
}

impl Observer {
    /// An observer that calls `on_end` with the report.
    pub fn new(events: EventSender, on_end: impl Fn(&Report) + Send + Sync + 'static) -> Self {
        Self { events: Some(events), stopped: AtomicBool::new(false), on_end: Box::new(on_end) }
    }

    /// One that says nothing: clients notice nothing of an update.
    pub fn silent() -> Self {
        Self { events: None, stopped: AtomicBool::new(false), on_end: Box::new(|_| {}) }
    }

    fn send(&self, event: &Event) {
        if let Some(events) = &self.events {
            events.send(event);
        }
    }

    /// Whether the engine stopped the guest and has not let it run again.
    pub fn has_stopped_the_guest(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl motion::Observer for Observer {
    fn status(&self, status: Status) {
        self.send(&Event::Migration { status: migration_status(status) });
    }

    fn pass(&self, number: u32) {
        self.send(&Event::MigrationPass { pass: number.into() });
    }

    fn stopped(&self) {
        self.stopped.store(true, Ordering::Release);
        self.send(&Event::Stop);
    }

    fn resumed(&self) {
        self.stopped.store(false, Ordering::Release);
        self.send(&Event::Resume);
    }

    fn handover(&self, token: &str, phase: &'static str) {
        self.send(&Event::Handover { token: token.to_owned(), state: phase.to_owned() });
    }

    fn finished(&self, report: &Report) {
        (self.on_end)(report);
    }
}

/// A status in QMP's words.
pub(crate) fn migration_status(status: Status) -> MigrationStatus {
    match status {
        Status::None => MigrationStatus::None,
        Status::Setup => MigrationStatus::Setup,
        Status::Active => MigrationStatus::Active,
        Status::PreSwitchover => MigrationStatus::PreSwitchover,
        Status::Device => MigrationStatus::Device,
        Status::Completed => MigrationStatus::Completed,
        Status::Failing => MigrationStatus::Failing,
        Status::Failed => MigrationStatus::Failed,
        Status::Cancelling => MigrationStatus::Cancelling,
        Status::Cancelled => MigrationStatus::Cancelled,
    }
}
