//! A blocking client.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::command::Command;
use crate::error::Error;
use crate::event::Timestamp;

/// How long a server may take to greet and to negotiate.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// Longest line taken from a server, in bytes.
const LONGEST_LINE: usize = 64 << 20;
/// Events kept while nobody asks for them; beyond that the oldest are dropped.
const EVENTS_KEPT: usize = 4096;

/// Why a client's call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection could be made.
    #[error("cannot connect to the control socket {}: {source}", path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server has hung up.
    #[error("the machine closed the control connection")]
    Closed,
    /// The connection broke.
    #[error("the control connection broke: {0}")]
    Io(#[source] io::Error),
    /// The server did not answer in time.
    #[error("the machine did not answer within {0:?}")]
    TimedOut(Duration),
    /// The server sent what is no QMP.
    #[error("the control socket does not speak QMP: {0}")]
    Protocol(String),
    /// The command was refused or failed.
    #[error(transparent)]
    Command(#[from] Error),
}

/// An event as it was received.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ReceivedEvent {
    /// Its name.
    pub event: String,
    /// What it says; null if nothing.
    #[serde(default)]
    pub data: Value,
    /// When it was sent.
    pub timestamp: Timestamp,
}

/// A connection to a server, negotiated and ready.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    unread: Vec<u8>,
    /// Up to where `unread` is known to hold no newline.
    searched: usize,
    events: VecDeque<ReceivedEvent>,
    next_id: u64,
    greeting: Value,
}

/// Until when something may take.
#[derive(Clone, Copy)]
struct Deadline {
    at: Option<Instant>,
    time: Duration,
}

impl Deadline {
    fn new(time: Option<Duration>) -> Self {
        // A time too long for the clock is no limit.
        let at = time.and_then(|time| Instant::now().checked_add(time));
        Self { at, time: time.unwrap_or_default() }
    }

    /// What is left, as the socket options want it: none is no limit, and never zero.
    fn left(self) -> Result<Option<Duration>, ClientError> {
        let Some(at) = self.at else { return Ok(None) };
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ClientError::TimedOut(self.time)) } else { Ok(Some(left)) }
    }

    fn error(self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::TimedOut(self.time),
            io::ErrorKind::ConnectionReset => ClientError::Closed,
            _ => ClientError::Io(error),
        }
    }
}

impl Client {
    /// Connects to the socket at `path` and negotiates, with `oob`. Takes at most ten seconds.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_within(path, GREETING_TIME)
    }

    /// The same, in at most `time`.
    pub fn connect_within(path: &Path, time: Duration) -> Result<Self, ClientError> {
        let stream = open(path).map_err(|errno| ClientError::Connect {
            path: path.to_owned(),
            source: errno.into(),
        })?;
        Self::negotiate(stream, time)
    }

    /// Negotiates over a connection that has been made already.
    pub fn negotiate(stream: UnixStream, time: Duration) -> Result<Self, ClientError> {
        stream.set_nonblocking(false).map_err(ClientError::Io)?;
        let mut client = Self {
            stream,
            unread: Vec::new(),
            searched: 0,
            events: VecDeque::new(),
            next_id: 0,
            greeting: Value::Null,
        };
        let deadline = Deadline::new(Some(time));
        let mut first = client.receive(deadline)?;
        if let Some(error) = first.get_mut("error") {
            return Err(command_error(error.take()));
        }
        client.greeting = match first.get_mut("QMP") {
            Some(greeting) => greeting.take(),
            None => return Err(ClientError::Protocol(format!("it greets with {first}"))),
        };
        let offered = client.greeting["capabilities"].as_array();
        let oob = offered.is_some_and(|all| all.contains(&json!("oob")));
        let enable = if oob { json!(["oob"]) } else { json!([]) };
        let left = deadline.left()?;
        client.execute("qmp_capabilities", Some(json!({ "enable": enable })), left)?;
        Ok(client)
    }

    /// What the server said of itself: `{"version": …, "capabilities": […]}`.
    #[must_use]
    pub fn greeting(&self) -> &Value {
        &self.greeting
    }

    /// Has a command carried out and returns its answer. Without a `timeout` it waits for as
    /// long as it takes; after a timeout the connection can still be used.
    pub fn execute(
        &mut self,
        command: &str,
        arguments: Option<Value>,
        timeout: Option<Duration>,
    ) -> Result<Value, ClientError> {
        self.call("execute", command, arguments, None, timeout)
    }

    /// The same for a typed command.
    pub fn run(
        &mut self,
        command: &Command,
        timeout: Option<Duration>,
    ) -> Result<Value, ClientError> {
        let mut written = serde_json::to_value(command).map_err(|e| {
            ClientError::Protocol(format!("{} cannot be sent: {e}", command.name()))
        })?;
        let arguments = written.get_mut("arguments").map(Value::take);
        self.execute(command.name(), arguments, timeout)
    }

    /// The same out of band: answered even while another command runs. Only some commands may.
    pub fn execute_oob(
        &mut self,
        command: &str,
        arguments: Option<Value>,
        timeout: Option<Duration>,
    ) -> Result<Value, ClientError> {
        self.call("exec-oob", command, arguments, None, timeout)
    }

    /// Passes a descriptor and gives it a name for this connection (`getfd`).
    pub fn pass_descriptor(
        &mut self,
        name: &str,
        descriptor: BorrowedFd<'_>,
        timeout: Option<Duration>,
    ) -> Result<(), ClientError> {
        let arguments = json!({ "fdname": name });
        self.call("execute", "getfd", Some(arguments), Some(descriptor), timeout).map(drop)
    }

    /// Passes a descriptor into a set, or into a new one (`add-fd`); gives the number of the set.
    pub fn add_descriptor(
        &mut self,
        set: Option<u32>,
        descriptor: BorrowedFd<'_>,
        timeout: Option<Duration>,
    ) -> Result<u64, ClientError> {
        let arguments = set.map_or(json!({}), |set| json!({ "fdset-id": set }));
        let added = self.call("execute", "add-fd", Some(arguments), Some(descriptor), timeout)?;
        let number = added.get("fdset-id").and_then(Value::as_u64);
        number.ok_or_else(|| ClientError::Protocol("add-fd was answered without a set".to_owned()))
    }

    /// The next event, or `None` if none comes within the timeout. Without a `timeout` it waits
    /// for as long as it takes.
    pub fn next_event(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<Option<ReceivedEvent>, ClientError> {
        let deadline = Deadline::new(timeout);
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.receive(deadline) {
                // The late answer to a command that was given up.
                Ok(message) => drop(self.keep_event(message)?),
                Err(ClientError::TimedOut(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn call(
        &mut self,
        verb: &str,
        command: &str,
        arguments: Option<Value>,
        descriptor: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> Result<Value, ClientError> {
        let deadline = Deadline::new(timeout);
        let id = self.next_id;
        self.next_id += 1;
        let mut request = json!({ verb: command, "id": id });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        self.send(&format!("{request}\n"), descriptor, deadline)?;
        loop {
            let message = self.receive(deadline)?;
            let Some(mut answer) = self.keep_event(message)? else { continue };
            let error = answer.get_mut("error").map(Value::take);
            match (answer.get("id"), error) {
                (Some(of), _) if *of != json!(id) => {}
                (_, Some(error)) => return Err(command_error(error)),
                (None, None) => {}
                (Some(_), None) => match answer.get_mut("return") {
                    Some(value) => return Ok(value.take()),
                    None => return Err(ClientError::Protocol(format!("it answers {answer}"))),
                },
            }
        }
    }

    /// Keeps an event for later; gives anything else back.
    fn keep_event(&mut self, message: Value) -> Result<Option<Value>, ClientError> {
        if message.get("event").is_none() {
            return Ok(Some(message));
        }
        let event = serde_json::from_value(message)
            .map_err(|e| ClientError::Protocol(format!("it sent a broken event: {e}")))?;
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
        Ok(None)
    }

    fn send(
        &mut self,
        line: &str,
        descriptor: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> Result<(), ClientError> {
        let mut descriptor = descriptor.as_slice();
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            self.stream.set_write_timeout(deadline.left()?).map_err(ClientError::Io)?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptor.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptor));
            }
            let part = [IoSlice::new(rest)];
            match sendmsg(&self.stream, &part, &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    rest = &rest[sent..];
                    descriptor = &[];
                }
                Err(Errno::INTR) => {}
                // What the server said before it hung up is still to be read, and says why.
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
                Err(errno) => return Err(deadline.error(errno.into())),
            }
        }
        Ok(())
    }

    /// The next message of the server.
    fn receive(&mut self, deadline: Deadline) -> Result<Value, ClientError> {
        let mut buffer = [0; 16 << 10];
        loop {
            while let Some(at) = self.unread[self.searched..].iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=self.searched + at).collect();
                self.searched = 0;
                if !line.trim_ascii().is_empty() {
                    return serde_json::from_slice(&line)
                        .map_err(|e| ClientError::Protocol(e.to_string()));
                }
            }
            self.searched = self.unread.len();
            if self.unread.len() > LONGEST_LINE {
                return Err(ClientError::Protocol("it sent a line without an end".to_owned()));
            }
            self.stream.set_read_timeout(deadline.left()?).map_err(ClientError::Io)?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(deadline.error(error)),
            }
        }
    }
}

fn open(path: &Path) -> Result<UnixStream, Errno> {
    let address = SocketAddrUnix::new(path)?;
    // Without waiting: the queue of a machine that is stopped may be full for ever.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(socket.into())
}

fn command_error(error: Value) -> ClientError {
    match serde_json::from_value::<Error>(error) {
        Ok(error) => ClientError::Command(error),
        Err(error) => ClientError::Protocol(format!("it sent a broken error: {error}")),
    }
}
