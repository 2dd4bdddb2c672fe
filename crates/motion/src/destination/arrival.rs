//! RAM, as it arrives.

use super::core::MachineRam;
use super::{Destination, DestinationIo, Phase};
use crate::handover::{DestinationHandover, Input, Particulars, Token};
use crate::ram::receive::Receiver;
use crate::rules::{Rule, keeps};
use crate::{MachineError, MotionError, RamWay, SourceOptions, Status};
use state::{Bundle, Code, Refusal};
use std::sync::Arc;
use uuid::Uuid;
use wire::{Describe, Message, PagesHeader, PassEnd};

/// What has arrived of the passes.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// The last pass that is wholly in RAM.
    complete: u32,
    /// Data connections on which the pass after it has ended.
    ended: Vec<bool>,
    /// Pages with contents, and as zero, over all complete passes.
    data_pages: u64,
    zero_pages: u64,
    /// What came over the control connection.
    control: Receiver,
}

impl Arrival {
    pub(super) fn of(connections: u16) -> Self {
        Self { ended: vec![false; usize::from(connections)], ..Self::default() }
    }
}

impl Destination {
    /// Builds a machine like the one that is described, or says all that is against it.
    pub(super) fn describe(
        &mut self,
        describe: Describe,
        io: &mut dyn DestinationIo,
    ) -> Result<(), MotionError> {
        let refuse = |code, what: &str, why: String| {
            MotionError::refused(vec![Refusal::new(code, what, why, "")])
        };
        let Describe { description, connections, check_only, token } = describe;
        let fits = match self.options.ram {
            RamWay::Passes => (1..=SourceOptions::MOST_CONNECTIONS).contains(&connections),
            RamWay::Shared => connections == 0,
        };
        if !fits {
            let why = format!("{connections} data connections were announced");
            return Err(refuse(Code::ProtocolError, "connections", why));
        }
        let description = Bundle::decode(&description)
            .map_err(|e| refuse(Code::IncompatibleDevice, "description", e.to_string()))?;
        let refusals = self.builder.check(&description);
        if !refusals.is_empty() {
            return Err(MotionError::refused(refusals));
        }
        if check_only {
            return io.send(&Message::Accepted { save: 0, restore: 0 });
        }
        self.set_status(Status::Setup);
        let machine = self.builder.build(description).map_err(MotionError::refused)?;
        let rehearsal = machine.rehearse()?;
        self.report.ram.total_pages = machine.ram().pages();
        self.report.connections = connections;
        self.report.token = Token(token).to_string();
        self.prepare_handover(Token(token))?;
        if let Some(session) = &mut self.session {
            session.connections = connections;
            session.joined = vec![false; usize::from(connections)];
            session.pages = Arrival::of(connections);
        }
        io.receive_into(Arc::new(MachineRam(machine.clone())));
        self.machine = Some(machine);
        self.phase = Phase::Receiving;
        self.set_status(Status::Active);
        let (save, restore) =
            (crate::clock::nanos(rehearsal.save), crate::clock::nanos(rehearsal.restore));
        io.send(&Message::Accepted { save, restore })
    }

    fn prepare_handover(&mut self, token: Token) -> Result<(), MotionError> {
        let Some(session) = &self.session else { return Ok(()) };
        let machine = Uuid::from_bytes(session.hello.machine);
        let now = (self.clock)();
        let particulars = Particulars::new(
            token,
            machine,
            self.options.name.clone(),
            self.report.peer.clone(),
            now,
        )
        .map_err(|e| MotionError::new(Code::Journal, e.to_string()))?;
        self.decided = None;
        let handover = DestinationHandover::begin(particulars);
        self.progress.handover = Some(Arc::new(handover.standing()));
        self.handover = Some(handover);
        Ok(())
    }

    /// Pages that came over the control connection.
    pub(super) fn pages(
        &mut self,
        header: &PagesHeader,
        contents: &[u8],
    ) -> Result<(), MotionError> {
        let (Some(machine), Some(session), Phase::Receiving) =
            (&self.machine, &mut self.session, self.phase)
        else {
            let why = format!("the source sent pages in {:?}", self.phase);
            return Err(MotionError::new(Code::ProtocolError, why));
        };
        let bytes = session
            .pages
            .control
            .store(machine.ram(), header, contents)
            .map_err(|e| MotionError::new(Code::ProtocolError, e.to_string()))?;
        self.control_bytes += bytes;
        Ok(())
    }

    /// A pass that came over the control connection alone has ended.
    pub(super) fn control_pass_ended(
        &mut self,
        end: PassEnd,
        io: &mut dyn DestinationIo,
    ) -> Result<(), MotionError> {
        if let Some(session) = &mut self.session {
            session
                .pages
                .control
                .end(end)
                .map_err(|e| MotionError::new(Code::ProtocolError, e.to_string()))?;
        }
        self.pass_ended(None, end, io)
    }

    /// A pass has ended on one data connection, or as a whole.
    pub(super) fn pass_ended(
        &mut self,
        index: Option<u16>,
        end: PassEnd,
        io: &mut dyn DestinationIo,
    ) -> Result<(), MotionError> {
        let Some(session) = self.session.as_mut().filter(|_| self.phase == Phase::Receiving) else {
            return Ok(());
        };
        let pages = &mut session.pages;
        let wrong = |why: String| Err(MotionError::new(Code::ProtocolError, why));
        let expected = pages.complete.saturating_add(1);
        if end.pass != expected {
            return wrong(format!("pass {} ended where {expected} was under way", end.pass));
        }
        pages.data_pages = pages.data_pages.saturating_add(end.data_pages);
        pages.zero_pages = pages.zero_pages.saturating_add(end.zero_pages);
        match index {
            None if pages.ended.contains(&true) => {
                return wrong(format!("pass {} came over two ways", end.pass));
            }
            None => {}
            Some(index) => match pages.ended.get_mut(usize::from(index)) {
                Some(ended @ false) => *ended = true,
                _ => return wrong(format!("pass {} ended twice on one connection", end.pass)),
            },
        }
        let everywhere = !pages.ended.contains(&false) || !keeps(Rule::PassesEndEverywhere);
        if index.is_none() || everywhere {
            pages.complete = expected;
            pages.ended.fill(false);
            self.progress.pass = end.pass;
            #[cfg(feature = "mutate")]
            if let Some(machine) = &self.machine {
                crate::mutate::keep_pages(end.pass, machine.ram());
            }
            // What came over the control connection was taken in before whatever follows it there.
            if index.is_some() {
                io.send(&Message::PassDone(end.pass))?;
            }
            self.observer.pass(end.pass);
            return self.restore(io);
        }
        Ok(())
    }

    /// The state has come. It is loaded when all pages have come too.
    pub(super) fn state(
        &mut self,
        state: wire::State,
        io: &mut dyn DestinationIo,
    ) -> Result<(), MotionError> {
        self.set_status(Status::Device);
        if let Some(session) = &mut self.session {
            if session.state.is_some() {
                let why = "the source sent the state twice";
                return Err(MotionError::new(Code::ProtocolError, why));
            }
            session.state = Some(state);
        }
        self.restore(io)
    }

    /// Loads the state if everything is here, and says READY. Nothing runs yet.
    fn restore(&mut self, io: &mut dyn DestinationIo) -> Result<(), MotionError> {
        let (Some(session), Some(machine)) = (&mut self.session, &self.machine) else {
            return Ok(());
        };
        let pages = &session.pages;
        let Some(state) = session.state.take_if(|state| {
            // The last pass may still be on its way on other connections.
            let sent = (state.data_pages, state.zero_pages);
            let here = sent == (pages.data_pages, pages.zero_pages);
            here && !pages.ended.contains(&true) || !keeps(Rule::RamIsComplete)
        }) else {
            return match &session.state {
                Some(state)
                    if pages.data_pages > state.data_pages
                        || pages.zero_pages > state.zero_pages =>
                {
                    let why = "more pages came than the source says it sent";
                    Err(MotionError::new(Code::ProtocolError, why))
                }
                _ => Ok(()),
            };
        };
        session.run = state.run;
        #[cfg(feature = "mutate")]
        crate::mutate::damage(machine.ram());
        let begun = io.now();
        let bundle = Bundle::decode(&state.state)
            .map_err(|e| MachineError::new(Code::BadState, "reading the state", e))?;
        machine.restore(bundle)?;
        self.restore_ns = crate::clock::nanos(io.now().since(begun));
        self.report.ram.data_pages = state.data_pages;
        self.report.ram.zero_pages = state.zero_pages;
        self.phase = Phase::Ready;
        self.data_ended = None;
        self.drive(Input::Complete, io)
    }
}
