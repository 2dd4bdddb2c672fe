//! The protocol between two engines: messages, framing, handshake. Pure: it reads from and writes
//! to whatever it is given. `docs/protocol.md` specifies every byte.
#![forbid(unsafe_code)]

mod frame;
mod hello;
mod inbox;
mod message;
mod pages;

pub use frame::{FrameError, Header, Kind, read_expected, read_message, write_message};
pub use hello::{Features, Hello, MAGIC, Role, VERSION, Welcome, read_magic};
pub use inbox::{Inbox, Item};
pub use message::{
    Describe, Failed, Handover, Message, PassEnd, Ready, Running, State, Token, Verdict,
};
pub use pages::{Content, MOST_DATA_PAGES, MOST_RUNS, PagesHeader, Run};
