//! A thread that makes a connection and greets: to begin, to join, or to ask.

use crate::env::Env;
use crate::net::{ConnId, End, Piece, Port, Use};
use crate::reader::{Reader, greeting};
use motion::handover;
use motion::handover::words::{from_wire, to_wire};
use motion::{MotionError, clock::Moment};
use state::Code;
use wire::{Hello, Message, Role, Welcome};

/// What a call is for.
#[derive(Debug)]
pub enum Purpose {
    Control,
    /// So many data connections, one after the other; these are made.
    Data(u16, Vec<ConnId>),
    Ask(handover::Message),
}

#[derive(Debug)]
pub struct Call {
    pub purpose: Purpose,
    conn: ConnId,
    reader: Reader,
    begun: Moment,
    /// It waits for something to be read until then.
    pub until: u64,
    greeted: bool,
}

/// How a call ended.
pub enum Outcome {
    Control { conn: ConnId, reader: Reader, clock_ahead: i64, round_trip: u64 },
    Joined(Vec<ConnId>),
    Told(handover::Message),
    Failed(MotionError),
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub pid: u32,
    pub hello: Hello,
    pub port: Port,
    /// Nanoseconds.
    pub stall: u64,
    /// How far the other host's clock is ahead, in nanoseconds.
    pub clock_ahead: i64,
}

impl Call {
    pub fn new(env: &mut Env, caller: &Caller, purpose: Purpose, now: u64) -> Self {
        let mut call = Self {
            purpose,
            conn: 0,
            reader: Reader::default(),
            begun: Moment(now),
            until: 0,
            greeted: false,
        };
        call.dial(env, caller, now);
        call
    }

    fn dial(&mut self, env: &mut Env, caller: &Caller, now: u64) {
        let (role, purpose, index) = match &self.purpose {
            Purpose::Control => (Role::Control, Use::Control, 0),
            Purpose::Data(_, made) => (Role::Data, Use::Data, made.len()),
            Purpose::Ask(_) => (Role::Question, Use::Question, 0),
        };
        self.conn = env.net.dial(&mut env.rng, now, caller.pid, caller.port, purpose);
        self.reader = Reader::default();
        self.greeted = false;
        self.until = now + caller.stall;
        let index = u16::try_from(index).expect("there are 64 at most");
        let hello = Hello { role, index, ..caller.hello };
        // It cannot fail yet: nothing has come back.
        let _ = self.write(env, now, greeting(&Message::Hello(hello)));
    }

    fn write(&self, env: &mut Env, now: u64, bytes: Vec<u8>) -> Result<(), MotionError> {
        env.net
            .write(&mut env.rng, self.conn, End::Dialler, now, bytes)
            .map_err(|e| MotionError::sending("asking", e))
    }

    /// Something arrived. `None` while it is not over; not for this call when `conn` is another's.
    pub fn deliver(&mut self, env: &mut Env, caller: &Caller, piece: &Piece) -> Option<Outcome> {
        self.until = env.now + caller.stall;
        let lost = |e| Some(Outcome::Failed(MotionError::link("greeting", &e)));
        match piece {
            Piece::Open => None,
            Piece::Refused => {
                let error = MotionError::new(Code::ConnectFailed, "nobody listens there");
                Some(Outcome::Failed(error))
            }
            Piece::Closed => lost(self.reader.end(false)),
            Piece::Broken => lost(self.reader.end(true)),
            Piece::Bytes(bytes) => {
                match self.reader.feed(bytes).and_then(|()| self.reader.message()) {
                    Err(e) => lost(e),
                    Ok(None) => None,
                    Ok(Some(message)) => self.heard(env, caller, message),
                }
            }
        }
    }

    fn heard(&mut self, env: &mut Env, caller: &Caller, message: Message) -> Option<Outcome> {
        if self.greeted {
            return Some(from_wire(&message).map_or_else(
                || Outcome::Failed(MotionError::new(Code::ProtocolError, "no answer")),
                Outcome::Told,
            ));
        }
        match message {
            Message::Welcome(welcome) => self.welcomed(env, caller, welcome),
            Message::Refused(refusals) => Some(Outcome::Failed(MotionError::refused(refusals))),
            other => {
                let why = format!("it answered with {:?}", other.kind());
                Some(Outcome::Failed(MotionError::new(Code::ProtocolError, why)))
            }
        }
    }

    fn welcomed(&mut self, env: &mut Env, caller: &Caller, _: Welcome) -> Option<Outcome> {
        self.greeted = true;
        match &mut self.purpose {
            Purpose::Control => Some(Outcome::Control {
                conn: self.conn,
                reader: std::mem::take(&mut self.reader),
                clock_ahead: caller.clock_ahead,
                round_trip: env.now - self.begun.0,
            }),
            Purpose::Data(count, made) => {
                made.push(self.conn);
                if made.len() < usize::from(*count) {
                    self.dial(env, caller, env.now);
                    return None;
                }
                Some(Outcome::Joined(std::mem::take(made)))
            }
            Purpose::Ask(message) => {
                let bytes = to_wire(*message).encode();
                self.write(env, env.now, bytes).err().map(Outcome::Failed)
            }
        }
    }

    /// Nothing came for too long.
    pub fn timed_out(&self) -> Outcome {
        let code = if self.greeted { Code::LinkStalled } else { Code::ConnectFailed };
        Outcome::Failed(MotionError::new(code, "nothing came"))
    }

    /// Ends its connection, unless somebody has it now.
    pub fn hang_up(&self, env: &mut Env, now: u64) {
        env.net.close(&mut env.rng, self.conn, End::Dialler, now);
        if let Purpose::Data(_, made) = &self.purpose {
            for conn in made {
                env.net.close(&mut env.rng, *conn, End::Dialler, now);
            }
        }
    }

    pub fn is_on(&self, conn: ConnId) -> bool {
        self.conn == conn
    }
}
