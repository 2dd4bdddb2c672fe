//! A link between two machines that can be brought to a stand at any message of the protocol, and
//! cut, stalled and healed there.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use wire::{FrameError, Header, Kind, MAGIC, PagesHeader};

/// What pages are numbered within, as far as a link cares.
const ANY_RAM: u64 = 1 << 40;
const PAGE: u64 = 4096;

/// Carries the connections of a motion, frame by frame.
pub struct Link {
    shared: Arc<Shared>,
    address: String,
}

struct Shared {
    to: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    traffic: Traffic,
    /// The kind of message at which a connection comes to a stand.
    hold: Option<Kind>,
    /// One has come.
    held: bool,
    /// Counts the cuts: whatever was under way before one is gone.
    cuts: u64,
    streams: Vec<TcpStream>,
    closed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Traffic {
    #[default]
    Carried,
    /// Nothing moves, and no connection ends.
    Stalled,
    /// There are no connections.
    Cut,
}

impl Link {
    /// A link to this address, which carries everything.
    pub fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared {
            to: address.strip_prefix("tcp:").unwrap().to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let address = format!("tcp:{}", listener.local_addr().unwrap());
        let carrying = shared.clone();
        thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                if carrying.state().closed {
                    return;
                }
                let carrying = carrying.clone();
                thread::spawn(move || carrying.carry(from));
            }
        });
        Self { shared, address }
    }

    /// The same, but the first message of this kind stays on the way, and so does whatever follows
    /// it in the same direction on the same connection.
    pub fn holding(address: &str, kind: Kind) -> Self {
        let link = Self::to(address);
        link.shared.state().hold = Some(kind);
        link
    }

    /// Where its source is to connect to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether the message that it holds has come.
    pub fn has_held(&self) -> bool {
        self.shared.state().held
    }

    /// Ends all connections, with everything that is on the way, and lets none be made.
    pub fn cut(&self) {
        self.change(|state| {
            state.traffic = Traffic::Cut;
            state.cuts += 1;
            for stream in state.streams.drain(..) {
                // It may have ended before.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    /// Carries nothing any more, and ends no connection either.
    pub fn stall(&self) {
        self.change(|state| state.traffic = Traffic::Stalled);
    }

    /// Carries everything from now on, beginning with what was held.
    pub fn heal(&self) {
        self.change(|state| {
            state.traffic = Traffic::Carried;
            state.hold = None;
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state());
        self.shared.changed.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cut();
        self.change(|state| state.closed = true);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address.trim_start_matches("tcp:"));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn carry(self: &Arc<Self>, from: TcpStream) {
        let cuts = self.state().cuts;
        // A connection over a link that is stalled is not refused: it is not made yet.
        if !self.lets_pass(None, cuts) {
            return;
        }
        let Ok(to) = TcpStream::connect(&self.to) else { return };
        {
            let mut state = self.state();
            if state.cuts != cuts {
                return;
            }
            state.streams.extend([from.try_clone().unwrap(), to.try_clone().unwrap()]);
        }
        for stream in [&from, &to] {
            stream.set_nodelay(true).unwrap();
        }
        for (read, write) in [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to, from)] {
            let shared = self.clone();
            thread::spawn(move || shared.pump(&read, &write, cuts));
        }
    }

    /// Carries one direction of a connection to its end.
    fn pump(&self, mut read: &TcpStream, mut write: &TcpStream, cuts: u64) {
        let mut kind = None;
        let mut bytes = vec![0; MAGIC.len()];
        let mut came = read.read_exact(&mut bytes).is_ok();
        while came {
            if !self.lets_pass(kind, cuts) {
                return;
            }
            if write.write_all(&bytes).is_err() {
                // The other direction may still have something to bring, and its end tells this one.
                let _ = io::copy(&mut read, &mut io::sink());
                return;
            }
            (kind, came) = match frame(&mut read, &mut bytes) {
                Ok(kind) => (Some(kind), true),
                Err(_) => (None, false),
            };
        }
        // An end is carried too, or not.
        if self.lets_pass(None, cuts) {
            let _ = write.shutdown(Shutdown::Write);
        }
    }

    /// Waits until this may pass; whether it may, or is gone in a cut.
    fn lets_pass(&self, kind: Option<Kind>, cuts: u64) -> bool {
        let mut state = self.state();
        loop {
            if state.cuts != cuts || state.traffic == Traffic::Cut {
                return false;
            }
            let holds = kind.is_some() && state.hold == kind;
            state.held |= holds;
            if !holds && state.traffic == Traffic::Carried {
                return true;
            }
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// Reads one frame, with the contents of pages that follow it.
pub fn frame(read: &mut impl Read, bytes: &mut Vec<u8>) -> Result<Kind, FrameError> {
    let header = Header::read(read)?;
    let body = header.read_body(read)?;
    bytes.clear();
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(&body);
    if header.kind == Kind::Pages {
        let contents = PagesHeader::decode(&body, ANY_RAM)?.data_pages() * PAGE;
        let begin = bytes.len();
        bytes.resize(begin + usize::try_from(contents).unwrap(), 0);
        read.read_exact(&mut bytes[begin..])?;
    }
    Ok(header.kind)
}
