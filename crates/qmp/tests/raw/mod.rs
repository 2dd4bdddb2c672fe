//! A client that sends whatever bytes it is told to.
#![allow(dead_code, reason = "each test uses another part")]
#![allow(clippy::unwrap_used, reason = "clippy knows tests only by their attribute")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

pub struct Raw {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Raw {
    /// Connected, and nothing more.
    pub fn new(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        // Reached only when something is broken.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    /// Greeted, and negotiated with `oob`.
    pub fn negotiated(path: &Path) -> Self {
        let mut raw = Self::new(path);
        raw.message();
        raw.send(r#"{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}"#);
        assert!(raw.message().get("return").is_some());
        raw
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends it all; a server that has hung up already is no reason to fail.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        match self.stream.write_all(bytes.as_ref()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("sending: {error}"),
            _ => {}
        }
    }

    /// Says that nothing more will be sent.
    pub fn end_input(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The next message of whatever kind.
    pub fn message(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "half a line: {line:?}");
        serde_json::from_str(&line).unwrap()
    }

    /// The next message that is no event.
    pub fn answer(&mut self) -> Value {
        loop {
            let message = self.message();
            if message.get("event").is_none() {
                return message;
            }
        }
    }

    /// The code of the error that comes next.
    pub fn error(&mut self) -> String {
        let answer = self.answer();
        let code = answer["error"]["x-whimbrel-code"].as_str();
        code.unwrap_or_else(|| panic!("no error: {answer}")).to_owned()
    }

    /// Whether the server hangs up without another word.
    pub fn closed(&mut self) -> bool {
        match self.reader.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}
