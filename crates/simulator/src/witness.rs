//! A process that speaks for a dead source: it tells the destination what is on record.

use crate::call::{Call, Caller, Outcome, Purpose};
use crate::disk::ProcessJournal;
use crate::env::{Env, SECOND};
use crate::net::{ConnId, Piece};
use motion::handover::{Input, Output, Timer, Witness};

/// Between two attempts.
const RETRY: u64 = SECOND;

pub struct WitnessSide {
    witness: Witness,
    journal: ProcessJournal,
    caller: Caller,
    calls: Vec<Call>,
    retry_at: Option<u64>,
}

impl WitnessSide {
    pub fn new(witness: Witness, journal: ProcessJournal, caller: Caller) -> Self {
        Self { witness, journal, caller, calls: Vec::new(), retry_at: None }
    }

    pub fn wake_up(&mut self, env: &mut Env) {
        for output in self.witness.wake() {
            self.carry_out(env, output);
        }
    }

    fn carry_out<R, P>(&mut self, env: &mut Env, output: Output<motion::handover::Message, R, P>) {
        match output {
            Output::Send(message) => {
                env.book.note(|| format!("p{} tells {:?}", self.caller.pid, message.word));
                let call = Call::new(env, &self.caller, Purpose::Ask(message), env.now);
                self.calls.push(call);
            }
            Output::SetTimer(Timer::Retry) => self.retry_at = Some(env.now + RETRY),
            Output::ClearTimer(Timer::Retry) => self.retry_at = None,
            _ => {}
        }
    }

    fn drive(&mut self, env: &mut Env, input: Input) {
        let mut outputs = Vec::new();
        // What it does not do it says; nobody else has to know.
        let result =
            self.witness.drive(input, &mut self.journal, &mut |output| outputs.push(output));
        env.book.note(|| format!("p{} {input:?}: {result:?}", self.caller.pid));
        for output in outputs {
            self.carry_out(env, output);
        }
    }

    pub fn deadline(&self) -> Option<u64> {
        self.calls.iter().map(|call| call.until).chain(self.retry_at).min()
    }

    pub fn wake(&mut self, env: &mut Env) {
        if let Some(at) = self.calls.iter().position(|call| call.until <= env.now) {
            self.calls.swap_remove(at).hang_up(env, env.now);
        } else if self.retry_at.take_if(|at| *at <= env.now).is_some() {
            self.drive(env, Input::Expired(Timer::Retry));
        }
    }

    pub fn deliver(&mut self, env: &mut Env, conn: ConnId, piece: &Piece) -> bool {
        let Some(at) = self.calls.iter().position(|call| call.is_on(conn)) else { return false };
        if let Some(outcome) = self.calls[at].deliver(env, &self.caller, piece) {
            let call = self.calls.swap_remove(at);
            call.hang_up(env, env.now);
            if let Outcome::Told(message) = outcome {
                self.drive(env, Input::Received(message));
            }
        }
        true
    }

    pub fn is_done(&self) -> bool {
        self.witness.is_done() && self.calls.is_empty()
    }
}
