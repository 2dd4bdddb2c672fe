//! The other end of a move, without a machine behind it: says whatever a test wants.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use wire::{Hello, Inbox, Item, Kind, MAGIC, Message, Role, VERSION, Welcome, read_magic};

pub const SESSION: [u8; 16] = [3; 16];
pub const MACHINE: [u8; 16] = [5; 16];

/// A greeting as a source sends it.
pub fn greeting(role: Role, index: u16) -> Vec<u8> {
    let hello = Hello::new(SESSION, MACHINE, role, index);
    [&MAGIC[..], &Message::Hello(hello).encode()].concat()
}

/// A connection to a machine that waits, on which nothing was said yet.
pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address.strip_prefix("tcp:").unwrap()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Greets, and gives the answer.
pub fn greet(address: &str, role: Role) -> (TcpStream, Message) {
    let mut stream = connect(address);
    stream.write_all(&greeting(role, 0)).unwrap();
    read_magic(&mut stream).unwrap();
    let answer = wire::read_message(&mut stream).unwrap();
    (stream, answer)
}

/// What comes until the other side ends the connection.
pub fn hear_out(stream: &mut TcpStream) -> Vec<Message> {
    let mut bytes = Vec::new();
    // It may end it without having read all that was sent.
    let _ = stream.read_to_end(&mut bytes);
    let mut inbox = Inbox::new();
    inbox.feed(&bytes);
    let mut said = Vec::new();
    while let Ok(Some(Item::Message(message))) = inbox.next_item() {
        said.push(message);
    }
    said
}

/// Says something, even to somebody who has hung up.
pub fn say(stream: &mut TcpStream, message: &Message) {
    let _ = stream.write_all(&message.encode());
}

/// A destination that lets a source come as far as its description.
pub struct Destination {
    listener: TcpListener,
}

impl Destination {
    pub fn listen() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    pub fn address(&self) -> String {
        format!("tcp:{}", self.listener.local_addr().unwrap())
    }

    /// Takes a connection and its hello.
    pub fn accept(&self) -> TcpStream {
        let (mut stream, _) = self.listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        read_magic(&mut stream).unwrap();
        wire::read_expected(&mut stream, &[Kind::Hello], "Hello").unwrap();
        stream
    }

    /// Takes a connection and welcomes it.
    pub fn welcome(&self) -> TcpStream {
        let mut stream = self.accept();
        stream.write_all(&welcome()).unwrap();
        stream
    }

    /// Takes a source's control connection and its description; and the token in it.
    pub fn described(&self) -> (TcpStream, [u8; 16]) {
        let mut control = self.welcome();
        match next(&mut control).unwrap() {
            Message::Describe(describe) => (control, describe.token),
            other => panic!("the source began with {other:?}"),
        }
    }
}

/// The welcome, with the right time.
pub fn welcome() -> Vec<u8> {
    welcome_at(0)
}

/// The welcome of a host whose clock is so many seconds ahead.
pub fn welcome_at(seconds: i64) -> Vec<u8> {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let wall_clock = i64::try_from(since.as_nanos()).unwrap() + seconds * 1_000_000_000;
    let welcome = Welcome { version: VERSION, features: wire::Features(0), wall_clock };
    [&MAGIC[..], &Message::Welcome(welcome).encode()].concat()
}

/// The next message that is no ping; pings are answered.
pub fn next(stream: &mut TcpStream) -> io::Result<Message> {
    loop {
        match wire::read_message(stream).map_err(io::Error::other)? {
            Message::Ping(number) => stream.write_all(&Message::Pong(number, number).encode())?,
            other => return Ok(other),
        }
    }
}
