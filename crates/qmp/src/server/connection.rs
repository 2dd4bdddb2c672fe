//! One client. All that belongs to it is in one place, and nothing of it in a thread.

mod carry;

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::io::IoSliceMut;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, Shutdown,
    recvmsg, send, shutdown,
};

use crate::command::{AnyCommand, SessionCommand};
use crate::descriptors::Descriptors;
use crate::error::Error;
use crate::frame::{Frame, Framer, TooLong};
use crate::limits::Limits;
use crate::request::{Request, answer};

/// Bytes read from one client before it is another's turn.
pub(super) const READ_AT_ONCE: usize = 64 << 10;
/// Descriptors that one message can bring; with more, the rest is closed by the kernel.
const DESCRIPTORS_AT_ONCE: usize = 16;

/// A client and how far its conversation has come.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    framer: Framer,
    output: VecDeque<u8>,
    /// Whether capabilities were negotiated, and so commands and events are allowed.
    pub(super) negotiated: bool,
    /// Whether `exec-oob` was.
    pub(super) oob: bool,
    pub(super) descriptors: Descriptors,
    /// Descriptors that came and that no command has claimed, oldest first, each with the end of
    /// the bytes that it came with.
    unclaimed: VecDeque<(u64, OwnedFd)>,
    in_flight: usize,
    in_flight_bytes: usize,
    /// The client sends no more.
    end_of_input: bool,
    /// No more commands are taken from it.
    input_done: bool,
    /// The client takes no more: what it would be told is dropped.
    deaf: bool,
    /// It was to be told more while it had left as much unread as it may.
    overflowed: bool,
    /// What epoll was told to watch for, if anything.
    pub(super) watched: Option<EventFlags>,
}

/// What to do with a client next.
pub(super) enum Input {
    /// A command.
    Request {
        request: Request,
        /// What came with it, if it is a `getfd` or an `add-fd`.
        descriptor: Option<OwnedFd>,
        /// Its bytes.
        cost: usize,
    },
    /// None at present.
    Nothing,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd, limits: &Limits) -> Self {
        Self {
            socket,
            framer: Framer::new(limits.line),
            output: VecDeque::new(),
            negotiated: false,
            oob: false,
            descriptors: Descriptors::new(limits.named_descriptors),
            unclaimed: VecDeque::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            end_of_input: false,
            input_done: false,
            deaf: false,
            overflowed: false,
            watched: None,
        }
    }

    /// Reads once what the client has sent.
    pub(super) fn read(&mut self, buffer: &mut [u8], limits: &Limits) {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        let message = match received {
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(error) => {
                tracing::debug!(%error, "a client's connection broke");
                (self.end_of_input, self.deaf) = (true, true);
                self.output.clear();
                return;
            }
        };
        self.framer.push(&buffer[..message.bytes]);
        self.end_of_input = message.bytes == 0;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                let end = self.framer.end();
                self.unclaimed.extend(descriptors.map(|descriptor| (end, descriptor)));
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC)
            || self.unclaimed.len() > limits.unclaimed_descriptors
        {
            let error = Error::invalid(format!(
                "more than {} descriptors came that no getfd has claimed; the connection is closed",
                limits.unclaimed_descriptors.min(DESCRIPTORS_AT_ONCE)
            ));
            self.fail(&error, limits);
        }
    }

    /// The next command, if the client may have one carried out now.
    pub(super) fn next(&mut self, limits: &Limits) -> Input {
        if self.input_done || !self.may_ask(limits) {
            return Input::Nothing;
        }
        match self.framer.next_command() {
            Ok(Some(Frame { bytes, line })) => {
                let request = Request::parse(bytes);
                // What came with an earlier command must not be taken for what came with this.
                self.unclaimed.retain(|(end, _)| *end > line);
                let claims = matches!(
                    request.command,
                    Ok(AnyCommand::Session(SessionCommand::GetFd(_) | SessionCommand::AddFd(_)))
                );
                let first = if claims { self.unclaimed.pop_front() } else { None };
                let descriptor = first.map(|(_, descriptor)| descriptor);
                Input::Request { request, descriptor, cost: bytes.len() }
            }
            Ok(None) if self.end_of_input => {
                self.input_done = true;
                let rest = self.framer.rest().len();
                if rest == 0 {
                    return Input::Nothing;
                }
                let error = Error::invalid("the connection ended in the middle of a command");
                let request = Request { id: None, oob: false, command: Err(error) };
                Input::Request { request, descriptor: None, cost: rest }
            }
            Ok(None) => Input::Nothing,
            Err(TooLong) => {
                let error = Error::invalid(format!(
                    "a command has at most {} bytes; the connection is closed",
                    limits.line
                ));
                self.fail(&error, limits);
                Input::Nothing
            }
        }
    }

    /// A command was handed on that will be answered later.
    pub(super) fn departed(&mut self, cost: usize) {
        self.in_flight += 1;
        self.in_flight_bytes += cost;
    }

    /// It has been answered.
    pub(super) fn arrived(&mut self, cost: usize) {
        self.in_flight -= 1;
        self.in_flight_bytes -= cost;
    }

    /// Tells the client something, as soon as it takes it. One line may be of any length.
    pub(super) fn tell(&mut self, line: &str, limits: &Limits) {
        if self.output.len() > limits.unread {
            self.flush();
            self.overflowed |= self.output.len() > limits.unread;
        }
        if !self.deaf && !self.overflowed {
            self.output.extend(line.as_bytes());
        }
    }

    /// Takes no more commands from this client.
    pub(super) fn stop_input(&mut self) {
        self.input_done = true;
        self.framer = Framer::new(0);
        self.unclaimed.clear();
    }

    /// Writes what the client takes at once.
    pub(super) fn flush(&mut self) {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match send(&self.socket, front, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The commands that it sent before it went still count.
                Err(_) => {
                    self.deaf = true;
                    self.output.clear();
                }
            }
        }
    }

    /// Whether the client has left more unread than it may.
    pub(super) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Whether the client has taken all that it was told.
    pub(super) fn flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Whether the conversation is over.
    pub(super) fn finished(&self) -> bool {
        self.input_done && self.in_flight == 0 && self.output.is_empty()
    }

    /// What to watch the socket for; `None` while there is nothing to watch for, since a closed
    /// socket would be reported over and over. `listening` is whether the server takes commands.
    pub(super) fn interest(&self, limits: &Limits, listening: bool) -> Option<EventFlags> {
        let mut flags = EventFlags::empty();
        let reads = listening && !self.end_of_input && !self.input_done && self.may_ask(limits);
        flags.set(EventFlags::IN, reads);
        flags.set(EventFlags::OUT, !self.output.is_empty());
        (!flags.is_empty()).then_some(flags)
    }

    /// Ends the connection, even if another process has a descriptor of it still.
    pub(super) fn hang_up(&self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    fn may_ask(&self, limits: &Limits) -> bool {
        self.in_flight < limits.in_flight
            && self.in_flight_bytes < limits.in_flight_bytes
            && self.output.len() < limits.unread_answers
    }

    fn fail(&mut self, error: &Error, limits: &Limits) {
        self.tell(&answer(&None, &Err(error.clone())), limits);
        self.stop_input();
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
