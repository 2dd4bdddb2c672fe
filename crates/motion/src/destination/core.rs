//! The destination's decisions.

use super::phase::{Admission, AsRam, Command, DestinationIo, Event, Phase, Question};
use super::records::Records;
use crate::clock::Moment;
use crate::handover::words::from_wire;
use crate::handover::{DestinationHandover, Input, Journal, RunPermit, Side, Standing};
use crate::report::{ErrorReport, Progress, Report, StatusOrNone};
use crate::rules::{Rule, keeps};
use crate::{
    DestinationMachine, DestinationOptions, MachineBuilder, MotionError, Observer, Status,
};
use memory::GuestRam;
use state::{Code, Refusal};
use std::sync::Arc;
use wire::{Hello, Message, Role};

/// One motion after another, until one has brought a guest, seen from their destination. The phases
/// of one, in order:
///
/// 1. `admit` greets a source; a second one is refused as long as the first is there.
/// 2. `describe` builds a machine like the one that is to come, or says all that is against it.
/// 3. Pages come; `pass_ended` says when all of a pass are in RAM.
/// 4. `restore` loads the state, checks that nothing is missing, and says READY.
/// 5. The handover decides who owns the guest; `own` runs it.
pub struct Destination {
    pub(super) builder: Arc<dyn MachineBuilder>,
    pub(super) options: DestinationOptions,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) journal: Option<Box<dyn Journal + Send>>,
    pub(super) records: Records,
    pub(super) phase: Phase,
    pub(super) status: Status,
    pub(super) report: Report,
    pub(super) progress: Progress,
    pub(super) begun: Moment,
    pub(super) heard: Moment,
    pub(super) linked: bool,
    pub(super) session: Option<Session>,
    pub(super) machine: Option<Arc<dyn DestinationMachine>>,
    pub(super) handover: Option<DestinationHandover>,
    pub(super) decided: Option<Side>,
    /// The source knows how the handover was decided.
    pub(super) settled: bool,
    pub(super) hold_until: Option<Moment>,
    pub(super) hear_out_until: Option<Moment>,
    /// A data connection has ended, and the source has until then to say why.
    pub(super) data_ended: Option<(Moment, MotionError)>,
    /// The question that is being answered, if it is one.
    pub(super) asked: Option<Question>,
    /// Bytes of pages that came over the control connection.
    pub(super) control_bytes: u64,
    /// When COMMIT came.
    pub(super) committed: Moment,
    /// What loading the state took, in nanoseconds.
    pub(super) restore_ns: u64,
    /// From COMMIT to the vCPUs running, in nanoseconds.
    pub(super) start_ns: u64,
    pub(super) clock: fn() -> u64,
}

/// What is known of the motion under way.
pub(super) struct Session {
    pub(super) hello: Hello,
    pub(super) connections: u16,
    /// Data connections that were admitted.
    pub(super) joined: Vec<bool>,
    pub(super) pages: super::arrival::Arrival,
    pub(super) state: Option<wire::State>,
    pub(super) run: bool,
}

/// Keeps the machine, for the sake of its RAM.
pub(super) struct MachineRam(pub(super) Arc<dyn DestinationMachine>);

impl AsRam for MachineRam {
    fn as_ram(&self) -> &GuestRam {
        self.0.ram()
    }
}

impl Destination {
    /// A destination that waits. `wall_clock` gives milliseconds since 1970.
    #[must_use]
    pub fn new(
        builder: Arc<dyn MachineBuilder>,
        options: DestinationOptions,
        journal: Box<dyn Journal + Send>,
        observer: Arc<dyn Observer>,
        wall_clock: fn() -> u64,
    ) -> Self {
        let mut journal = journal;
        // Whoever begins to wait for a guest reads what it finds first: somebody may ask.
        let records = Records::adopt(&mut *journal);
        Self {
            builder,
            options,
            observer,
            journal: Some(journal),
            records,
            phase: Phase::Waiting,
            status: Status::None,
            report: Report::default(),
            progress: Progress::default(),
            begun: Moment::default(),
            heard: Moment::default(),
            linked: false,
            session: None,
            machine: None,
            handover: None,
            decided: None,
            settled: false,
            hold_until: None,
            hear_out_until: None,
            data_ended: None,
            asked: None,
            control_bytes: 0,
            committed: Moment::default(),
            restore_ns: 0,
            start_ns: 0,
            clock: wall_clock,
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

    /// The report of the motion under way, or of the last one.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// How the handovers stood of the dead processes that this one speaks for.
    #[must_use]
    pub fn spoken_for(&self) -> Vec<Standing> {
        self.records.standings()
    }

    /// What becomes of a connection.
    #[must_use]
    pub fn admit(&mut self, hello: &Hello, peer: &str, now: Moment) -> Admission {
        let refuse = |code, why: &str, advice: &str| {
            Admission::Refused(vec![Refusal::new(code, "destination", why, advice)])
        };
        match (hello.role, self.phase) {
            (Role::Question, _) => Admission::Question,
            (Role::Control, Phase::Waiting) => {
                self.begin(*hello, peer, now);
                Admission::Control
            }
            (Role::Data, Phase::Receiving) => self.admit_data(hello),
            (_, Phase::Owner | Phase::Ready | Phase::Holding) => refuse(
                Code::InvalidState,
                "a guest has come already; this port only answers questions about it",
                "start another destination",
            ),
            (Role::Data, _) => {
                // An honest one comes late: what it belongs to has failed here meanwhile.
                let late = keeps(Rule::LateIsNotWrong);
                let code = if late { Code::PeerFailed } else { Code::ProtocolError };
                refuse(code, "no motion is under way that it belongs to", "")
            }
            (Role::Control, _) => refuse(
                Code::Busy,
                "another motion to this destination is under way",
                "wait for its end, or start another destination",
            ),
        }
    }

    fn admit_data(&mut self, hello: &Hello) -> Admission {
        let refuse = |why: &str| {
            let refusal = Refusal::new(Code::ProtocolError, "destination", why, "");
            Admission::Refused(vec![refusal])
        };
        let Some(session) = &mut self.session else { return refuse("there is no session") };
        if session.hello.session != hello.session || session.hello.machine != hello.machine {
            return refuse("it belongs to another motion");
        }
        match session.joined.get_mut(usize::from(hello.index)) {
            Some(joined @ false) => {
                *joined = true;
                Admission::Data
            }
            Some(true) => refuse("there is such a connection already"),
            None => refuse("more connections come than were announced"),
        }
    }

    fn begin(&mut self, hello: Hello, peer: &str, now: Moment) {
        self.begun = now;
        self.heard = now;
        self.linked = true;
        self.phase = Phase::Greeted;
        self.report = Report {
            session: crate::handover::Token(hello.session).to_string(),
            machine: uuid::Uuid::from_bytes(hello.machine).to_string(),
            peer: peer.to_owned(),
            ..Report::default()
        };
        self.progress = Progress { peer: peer.to_owned(), ..Progress::default() };
        self.control_bytes = 0;
        self.session = Some(Session {
            hello,
            connections: 0,
            joined: Vec::new(),
            pages: super::arrival::Arrival::default(),
            state: None,
            run: true,
        });
    }

    /// Takes what happened.
    pub fn handle(&mut self, event: Event, io: &mut dyn DestinationIo) {
        let begun = io.now();
        match event {
            Event::Heard => self.heard = begun,
            Event::Message(message) => {
                // Who greets and then does not say what is to come keeps others out, whatever else
                // it says.
                if self.phase != Phase::Greeted {
                    self.heard = io.now();
                }
                if let Err(error) = self.message(message, io) {
                    self.lost(error, io);
                }
            }
            Event::Pages(header, contents) => {
                self.heard = io.now();
                if let Err(error) = self.pages(&header, &contents) {
                    self.lost(error, io);
                }
            }
            Event::PassEnd(index, end) => {
                if let Err(error) = self.pass_ended(Some(index), end, io) {
                    self.lost(error, io);
                }
            }
            Event::Lost(error) => self.lost(error, io),
            // Once the guest is complete they have nothing more to bring, and a source that closes
            // them may still have something to say over the control connection.
            Event::DataLost(error) => {
                if self.phase == Phase::Receiving {
                    self.data_lost(error, io);
                }
            }
            Event::Asked(question, message) => self.asked(question, message, io),
            Event::Tick => {}
        }
        // While a machine is built or loaded nobody listens here: that is no silence of the source.
        self.heard = self.heard.after(io.now().since(begun));
        self.look_at_timers(io);
    }

    /// Does what somebody wants.
    ///
    /// # Errors
    /// Why it cannot be done now.
    pub fn command(
        &mut self,
        command: Command,
        io: &mut dyn DestinationIo,
    ) -> Result<(), MotionError> {
        match command {
            Command::Cancel => self.cancel(io),
            Command::Resolve { token, owner, fenced } => {
                self.resolve(token, Input::Resolve { owner, fenced }, io)
            }
            Command::SetStall(limit) => {
                self.options.stall_limit = limit;
                self.heard = self.heard.max(io.now());
                io.set_stall(limit);
                Ok(())
            }
        }
    }

    fn message(&mut self, message: Message, io: &mut dyn DestinationIo) -> Result<(), MotionError> {
        match (message, self.phase) {
            (Message::Ping(number), _) => {
                self.progress.bytes = self.control_bytes + io.received();
                match io.send(&Message::Pong(number, self.progress.bytes)) {
                    // Whoever reads notices, too, and first hears why.
                    Err(error) if error.code == Code::LinkLost => Ok(()),
                    sent => sent,
                }
            }
            (Message::Describe(describe), Phase::Greeted) => self.describe(describe, io),
            (Message::PassEnd(end), Phase::Receiving) => self.control_pass_ended(end, io),
            (Message::State(state), Phase::Receiving) => self.state(state, io),
            (Message::Failed(failed), Phase::Greeted | Phase::Receiving) => {
                let why = format!("the source gave up: {}", failed.why);
                Err(MotionError::new(failed.code, why))
            }
            (message, phase) => match from_wire(&message) {
                Some(about) if self.handover.is_some() => {
                    if matches!(message, Message::Commit(_)) {
                        self.committed = io.now();
                    }
                    if let Err(error) = self.drive(Input::Received(about), io) {
                        tracing::warn!(%error, "a message of the handover was not obeyed");
                    }
                    if self.hear_out_until.is_none() {
                        self.hear_out(io);
                    }
                    Ok(())
                }
                _ => Err(MotionError::new(
                    Code::ProtocolError,
                    format!("the source sent {:?} in {phase:?}", message.kind()),
                )),
            },
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

    /// The guest is this side's: it runs, unless it was stopped before it moved.
    pub(super) fn own(&mut self, permit: RunPermit, io: &mut dyn DestinationIo) {
        let Some(machine) = &self.machine else { return };
        let run = self.session.as_ref().is_none_or(|session| session.run);
        if run {
            match machine.run(permit) {
                Ok(()) => {
                    let running_for = machine.running_for().unwrap_or_default();
                    let since = io.now().since(self.committed);
                    self.start_ns = crate::clock::nanos(since.saturating_sub(running_for));
                    self.observer.resumed();
                }
                Err(error) => {
                    tracing::error!(%error, "the guest is ours and could not be started");
                    let why = error.to_string();
                    self.report.error = Some(ErrorReport { code: error.code, why });
                }
            }
        } else {
            machine.grant(permit);
        }
        self.phase = Phase::Owner;
    }
}
