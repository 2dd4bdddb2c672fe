//! The source's decisions.

use super::{Command, Event, Phase, SourceIo};
use crate::clock::{Moment, nanos};
use crate::handover::{self, Journal, Particulars, RunPermit, Side, SourceHandover, Token};
use crate::ram::Pass;
use crate::report::{Progress, Report, StatusOrNone};
use crate::rules::{Rule, keeps};
use crate::switch::{StateCost, Switch};
use crate::{MotionError, Observer, Purpose, RamWay, SourceMachine, SourceOptions, Status};
use state::{Code, Refusal};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use wire::{Describe, Message};

/// One motion, seen from its source. Its phases, in order:
///
/// 1. [`Source::begin`] asks the machine whether it can be moved, and makes the control connection.
/// 2. `check` describes the machine to the destination, which builds one like it.
/// 3. `start_passes` begins to log writes (unless the guest is stopped) and sends all RAM once.
/// 4. `pass_done` decides after each pass: another one, or
/// 5. `switchover`: stop the guest, send the last pages and the state.
/// 6. `ready`, `running`: the handover.
///
/// A copy of the beginning ([`Purpose::CopyAtStart`]) stops the guest before the only pass, and lets it
/// go on for it.
///
/// Whatever goes wrong before COMMIT ends in `fail`, which gives the guest back.
pub struct Source {
    pub(super) machine: Arc<dyn SourceMachine>,
    pub(super) options: SourceOptions,
    pub(super) journal: Option<Box<dyn Journal + Send>>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) particulars: Particulars,
    pub(super) phase: Phase,
    pub(super) status: Status,
    pub(super) switch: Switch,
    pub(super) cost: StateCost,
    pub(super) report: Report,
    pub(super) progress: Progress,
    pub(super) begun: Moment,
    pub(super) timers: super::timers::Timers,
    /// The control connection is up.
    pub(super) linked: bool,
    /// Writes are being logged.
    pub(super) logging: bool,
    /// They are about to be.
    pub(super) arming: bool,
    /// The guest ran when the motion began, and is to run wherever it ends.
    pub(super) was_running: bool,
    /// The guest is gone: it shut down, or is being reset.
    pub(super) guest_gone: bool,
    pub(super) handover: Option<SourceHandover>,
    /// The permit of a guest that stays here, while it is stopped to be copied.
    pub(super) permit: Option<RunPermit>,
    /// The destination may have the guest's state: from the moment when it is first sent.
    pub(super) state_sent: bool,
    pub(super) pass: Option<Arc<Pass>>,
    pub(super) pass_begun: Moment,
    /// The destination has said that the pass under way is in its RAM.
    pub(super) pass_acknowledged: bool,
    /// The time is up and the guest is to be stopped whatever the blackout.
    pub(super) switch_anyway: bool,
    /// The state of a guest whose RAM is being copied as it was at the beginning.
    pub(super) kept_state: Option<Vec<u8>>,
    /// The copy that was asked for is complete.
    pub(super) copied: bool,
    /// Who owns the guest, once the handover has decided it.
    pub(super) decided: Option<Side>,
    pub(super) times: super::times::Times,
}

impl Source {
    /// A motion that has not begun, of the machine and handover that `particulars` name. `session`
    /// is random.
    #[must_use]
    pub fn new(
        machine: Arc<dyn SourceMachine>,
        particulars: Particulars,
        options: SourceOptions,
        session: [u8; 16],
        journal: Box<dyn Journal + Send>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let pages = machine.ram().pages();
        let mut report = Report {
            session: Token(session).to_string(),
            token: particulars.token().to_string(),
            machine: particulars.machine().to_string(),
            peer: particulars.peer().to_owned(),
            connections: connections(&options),
            ..Report::default()
        };
        report.ram.total_pages = pages;
        let progress = Progress {
            peer: report.peer.clone(),
            connections: connections(&options),
            max_bandwidth: options.max_bandwidth.map(NonZeroU64::get),
            limit_ns: options.blackout.limit_ns(),
            ..Progress::default()
        };
        Self {
            switch: Switch::new(options.blackout, options.switchover_bandwidth),
            timers: super::timers::Timers::new(options.stall_limit),
            was_running: machine.is_running(),
            machine,
            options,
            journal: Some(journal),
            observer,
            particulars,
            phase: Phase::Connecting,
            status: Status::None,
            cost: StateCost { stop: Duration::from_micros(200), ..StateCost::default() },
            report,
            progress,
            begun: Moment::default(),
            linked: false,
            logging: false,
            arming: false,
            guest_gone: false,
            handover: None,
            permit: None,
            state_sent: false,
            pass: None,
            pass_begun: Moment::default(),
            pass_acknowledged: false,
            switch_anyway: false,
            kept_state: None,
            copied: false,
            decided: None,
            times: super::times::Times::default(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it has nothing left to do.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Whether the motion has ended and the report is whole.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Settling | Phase::Ended)
    }

    /// The report so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The pass that is under way, for those who watch it.
    #[must_use]
    pub fn pass(&self) -> Option<&Arc<Pass>> {
        self.pass.as_ref()
    }

    /// When the pass under way began.
    #[must_use]
    pub fn pass_begun(&self) -> Moment {
        self.pass_begun
    }

    /// How far it is. What the pass under way has done is added by whoever asks.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Begins: asks the machine for refusals, then makes the control connection.
    pub fn begin(&mut self, io: &mut dyn SourceIo) {
        self.begun = io.now();
        self.report.notes = io.notes();
        self.progress.notes.clone_from(&self.report.notes);
        self.set_status(Status::Setup);
        let mut refusals = self.machine.refusals();
        if self.options.purpose == Purpose::CopyAtStart {
            refusals.extend(crate::guard::refusals(self.machine.ram()));
        }
        refusals.extend(io.refusals());
        if !refusals.is_empty() {
            self.fail(io, MotionError::refused(refusals));
            return;
        }
        self.timers.wait_for_answer(io.now());
        "connecting to the destination".clone_into(&mut self.progress.note);
        io.dial();
    }

    /// Takes what happened.
    pub fn handle(&mut self, event: Event, io: &mut dyn SourceIo) {
        let begun = io.now();
        match event {
            Event::Welcomed { clock_ahead, round_trip } => {
                self.welcomed(clock_ahead, round_trip, io);
            }
            Event::Refused(refusals) => self.fail(io, MotionError::refused(refusals)),
            Event::Lost(error) => self.lost(io, error),
            Event::Joined => {
                if self.phase == Phase::Joining {
                    self.try_to(io, Self::start_passes);
                }
            }
            Event::Message(message) => self.message(message, io),
            Event::Logged(result) => self.logged(result, io),
            Event::PassSent => self.pass_sent(io),
            Event::Told(message) => self.told(message, io),
            Event::Denied(error) => self.denied(error, io),
            Event::Filed(report) => self.report.file = Some(report),
            Event::Copied(report) => self.report.copy = Some(*report),
            Event::NotAsked | Event::Tick => {}
        }
        // While the guest is stopped or saved nobody listens here: that is no silence of the peer.
        self.timers.was_busy(io.now().since(begun));
        self.look_at_timers(io);
        io.stay_awake(self.is_in_haste());
    }

    /// Does what somebody wants.
    ///
    /// # Errors
    /// Why it cannot be done now.
    pub fn command(&mut self, command: Command, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        let begun = io.now();
        let result = self.obey(command, io);
        self.timers.was_busy(io.now().since(begun));
        io.stay_awake(self.is_in_haste());
        result
    }

    fn obey(&mut self, command: Command, io: &mut dyn SourceIo) -> Result<(), MotionError> {
        match command {
            Command::Cancel => self.cancel(io),
            Command::Proceed if self.phase == Phase::PreSwitchover => {
                self.try_to(io, Self::proceed);
                Ok(())
            }
            Command::Proceed => Err(MotionError::new(
                Code::InvalidState,
                format!("the motion is not waiting for the word to go on: it is {}", self.status),
            )),
            Command::SetBlackout(blackout) => {
                self.options.blackout = blackout;
                self.progress.limit_ns = blackout.limit_ns();
                self.switch.set_blackout(blackout);
                Ok(())
            }
            Command::SetBandwidth(limit) => {
                self.options.max_bandwidth = limit;
                self.progress.max_bandwidth = limit.map(NonZeroU64::get);
                io.set_bandwidth(limit);
                Ok(())
            }
            Command::SetSwitchoverBandwidth(rate) => {
                self.options.switchover_bandwidth = rate;
                self.switch.set_bandwidth(rate);
                Ok(())
            }
            Command::SetStall(limit) => {
                self.options.stall_limit = limit;
                self.timers.set_stall(limit, io.now());
                io.set_stall(limit);
                Ok(())
            }
            Command::GuestGone => {
                self.guest_gone(io);
                Ok(())
            }
            Command::Resolve { owner, fenced } => self.resolve(owner, fenced, io),
            Command::Ask => {
                if self.phase != Phase::Undecided {
                    return Err(MotionError::new(
                        Code::InvalidState,
                        "the handover is not undecided: there is nothing to ask",
                    ));
                }
                io.ask(self.particulars.token().says(handover::Word::Query));
                Ok(())
            }
        }
    }

    /// Runs one step of a phase; its error, if any, ends the motion.
    pub(super) fn try_to(
        &mut self,
        io: &mut dyn SourceIo,
        step: impl FnOnce(&mut Self, &mut dyn SourceIo) -> Result<(), MotionError>,
    ) {
        if let Err(error) = step(self, io) {
            self.lost(io, error);
        }
    }

    pub(super) fn set_status(&mut self, status: Status) {
        if self.status != status {
            self.status = status;
            self.report.status = StatusOrNone(status);
            self.progress.status = StatusOrNone(status);
            self.observer.status(status);
        }
    }

    fn welcomed(&mut self, clock_ahead: i64, round_trip: Duration, io: &mut dyn SourceIo) {
        if self.phase != Phase::Connecting {
            return;
        }
        self.linked = true;
        self.cost.round_trip = round_trip;
        self.timers.heard(io.now());
        self.try_to(io, |source, io| source.check(clock_ahead, round_trip, io));
    }

    /// Says what machine is to come.
    fn check(
        &mut self,
        clock_ahead: i64,
        round_trip: Duration,
        io: &mut dyn SourceIo,
    ) -> Result<(), MotionError> {
        // The other clock was read at some time within the round trip.
        let apart = clock_ahead.unsigned_abs().saturating_sub(nanos(round_trip) / 2);
        if apart > 1_000_000_000 && keeps(Rule::ClocksAgree) {
            let seconds = apart / 1_000_000_000;
            return Err(MotionError::refused(vec![Refusal::new(
                Code::ClockSkew,
                "clock",
                format!(
                    "the destination's wall clock is some {seconds} s {} this host's; the guest's \
                     would jump",
                    if clock_ahead > 0 { "ahead of" } else { "behind" }
                ),
                "set both clocks, with NTP for example",
            )]));
        }
        let description = self.machine.describe_within(io.most_description())?.encode();
        io.send(&Message::Describe(Describe {
            description,
            connections: connections(&self.options),
            check_only: self.options.check_only,
            token: self.particulars.token().0,
        }))?;
        self.phase = Phase::Checking;
        "the destination checks the machine and builds one like it"
            .clone_into(&mut self.progress.note);
        self.timers.wait_for_answer(io.now());
        Ok(())
    }

    fn message(&mut self, message: Message, io: &mut dyn SourceIo) {
        self.timers.heard(io.now());
        match (message, self.phase) {
            (Message::Pong(number, received), _) => {
                let now = io.now();
                self.timers.received(received, now);
                if let Some(round_trip) = self.timers.pong(number, now) {
                    self.cost.round_trip = self.cost.round_trip.min(round_trip);
                }
            }
            (Message::Accepted { save, restore }, Phase::Checking) => {
                self.cost.save = Duration::from_nanos(save);
                self.cost.restore = Duration::from_nanos(restore);
                if self.options.check_only {
                    self.checked(io);
                } else if connections(&self.options) == 0 {
                    self.phase = Phase::Joining;
                    self.try_to(io, Self::start_passes);
                } else {
                    self.phase = Phase::Joining;
                    self.progress.note.clear();
                    self.timers.wait_for_answer(io.now());
                    io.join(connections(&self.options));
                }
            }
            (Message::Refused(refusals), _) => self.lost(io, MotionError::refused(refusals)),
            (Message::PassDone(pass), Phase::Passing | Phase::Draining)
                if self.is_current(pass) =>
            {
                self.pass_acknowledged(io);
            }
            (
                Message::PassDone(pass),
                Phase::LastPass | Phase::AwaitingReady | Phase::Finishing,
            ) if self.is_current(pass) => {
                self.timers.progress(io.now());
            }
            (Message::Failed(failed), _) => {
                let why = format!("the destination failed: {}", failed.why);
                self.lost(io, MotionError::new(failed.code, why));
            }
            (message, phase) => match handover::words::from_wire(&message) {
                Some(about) => {
                    // A guest that stays here went on when its copy was taken.
                    if !self.options.purpose.is_copy() {
                        self.times.heard(&message, io.now());
                    }
                    self.told(about, io);
                }
                None => {
                    let why = format!("the destination sent {:?} in {phase:?}", message.kind());
                    self.lost(io, MotionError::new(Code::ProtocolError, why));
                }
            },
        }
    }

    fn is_current(&self, pass: u32) -> bool {
        self.pass.as_ref().is_some_and(|p| p.number() == pass)
    }
}

/// How many data connections there are: none where RAM is not sent.
fn connections(options: &SourceOptions) -> u16 {
    match options.ram {
        RamWay::Passes => options.connections,
        RamWay::Shared => 0,
    }
}
