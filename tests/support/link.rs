//! A link between two machines that fails at the worst moment.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use wire::{Inbox, Item, MAGIC, Message};

/// What the link does not let through. It is down from then on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Loses {
    Ready,
    Commit,
}

/// Carries the connections of a motion, reading along.
pub struct Link {
    shared: Arc<Shared>,
    address: String,
}

struct Shared {
    loses: Loses,
    to: String,
    lost: AtomicBool,
    down: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Link {
    /// A link to this address.
    pub fn to(address: &str, loses: Loses) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared {
            loses,
            to: address.strip_prefix("tcp:").unwrap().to_owned(),
            lost: AtomicBool::new(false),
            down: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let address = format!("tcp:{}", listener.local_addr().unwrap());
        let carrying = shared.clone();
        thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                carrying.carry(from);
            }
        });
        Self { shared, address }
    }

    /// Where its source is to connect to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether it has lost what it was to lose.
    pub fn has_lost(&self) -> bool {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// Carries everything from now on.
    pub fn heal(&self) {
        self.shared.down.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, from: TcpStream) {
        if self.down.load(Ordering::SeqCst) {
            return;
        }
        let Ok(to) = TcpStream::connect(&self.to) else { return };
        let pair = [from.try_clone().unwrap(), to.try_clone().unwrap()];
        self.streams.lock().unwrap().extend(pair);
        for (read, write) in [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to, from)] {
            let shared = self.clone();
            thread::spawn(move || shared.pump(read, write));
        }
    }

    fn pump(&self, mut read: TcpStream, mut write: TcpStream) {
        let mut frames = Inbox::new();
        frames.allow_pages(1 << 32);
        let mut magic = MAGIC.len();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = read.read(&mut buffer) {
            let skip = magic.min(count);
            magic -= skip;
            frames.feed(&buffer[skip..count]);
            while let Some(item) = frames.next_item().unwrap() {
                if self.is_to_be_lost(&item) && !self.lost.swap(true, Ordering::SeqCst) {
                    self.down.store(true, Ordering::SeqCst);
                    for stream in self.streams.lock().unwrap().drain(..) {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                    return;
                }
            }
            if write.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = write.shutdown(Shutdown::Write);
    }

    fn is_to_be_lost(&self, item: &Item) -> bool {
        match item {
            Item::Message(Message::Ready(_)) => self.loses == Loses::Ready,
            Item::Message(Message::Commit(_)) => self.loses == Loses::Commit,
            _ => false,
        }
    }
}
