//! What is read from a connection on which messages come: the magic first, then frames.

use wire::{FrameError, Inbox, Item, MAGIC, Message};

#[derive(Debug, Default)]
pub struct Reader {
    magic: usize,
    frames: Inbox,
}

impl Reader {
    /// Takes bytes as they came.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        while self.magic < MAGIC.len() {
            let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
            if *first != MAGIC[self.magic] {
                return Err(FrameError::NotWhimbrel);
            }
            self.magic += 1;
            bytes = rest;
        }
        self.frames.feed(bytes);
        Ok(())
    }

    pub fn allow_pages(&mut self, pages: u64) {
        self.frames.allow_pages(pages);
    }

    pub fn next(&mut self) -> Result<Option<Item>, FrameError> {
        self.frames.next_item()
    }

    /// The next message, on a connection that brings no pages.
    pub fn message(&mut self) -> Result<Option<Message>, FrameError> {
        Ok(self.next()?.and_then(|item| match item {
            Item::Message(message) => Some(message),
            Item::Pages(..) => None,
        }))
    }

    /// What the end of the connection means here.
    pub fn end(&self, broken: bool) -> FrameError {
        if broken {
            FrameError::Io(std::io::ErrorKind::ConnectionReset.into())
        } else if self.frames.is_empty() {
            FrameError::Closed
        } else {
            FrameError::Io(std::io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// The two greetings begin alike.
pub fn greeting(message: &Message) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&message.encode());
    bytes
}
