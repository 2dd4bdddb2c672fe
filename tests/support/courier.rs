//! What stands between the two processes of an update, and can be brought to a stand at any message: on
//! the channel on which descriptors are given, and on the connection of the motion.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::link::frame;
use crate::support::wait;
use rustix::fs::{FileType, fstat};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::Pid;
use std::fs::Permissions;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use wire::{Kind, MAGIC};

/// One message of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mail {
    /// On the channel, by its number in `docs/live-update.md`.
    Letter(u32),
    /// On the connection of the motion.
    Frame(Kind),
}

/// The letter that has the connection of the motion with it.
const OUTSET: u32 = 1;
/// Descriptors that go with one byte.
const AT_ONCE: usize = 64;

/// What has a courier carry what is said to the program that it becomes.
const IMAGE: &str = include_str!("image.py");

/// Carries what two processes say to each other in an update, message by message.
pub struct Courier {
    gate: Arc<Gate>,
    path: PathBuf,
    /// The processes that became whimbrel through it, in that order.
    images: Arc<Mutex<Vec<Pid>>>,
}

/// An update in exec mode is two: over to the child, and back to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    Over,
    Back,
}

/// Lets messages pass, or one of them not.
struct Gate {
    hold: Mutex<Hold>,
    changed: Condvar,
}

struct Hold {
    what: Option<Mail>,
    came: bool,
}

impl Courier {
    /// Waits at `path` for a process that is to be replaced, and takes it to the one that waits at `to`.
    /// The first message like `hold` stays on the way, and so does what follows it there.
    pub fn between(path: &Path, to: &Path, hold: Mail) -> Self {
        let gate = Gate::with(Some(hold));
        let listener = UnixListener::bind(path).unwrap();
        let (carrying, to) = (gate.clone(), to.to_owned());
        thread::spawn(move || {
            let (old, _) = listener.accept().unwrap();
            // It listens right after it has made its socket.
            let new = wait("a process that takes over", || UnixStream::connect(&to).ok());
            both_ways(&carrying, old, new, letters);
        });
        Self { gate, path: path.to_owned(), images: Arc::default() }
    }

    /// A program at `path` that is whimbrel, and has what is said to it carried. On this leg of an update
    /// the first message like `hold` stays on the way.
    pub fn before(path: &Path, leg: Leg, hold: Mail) -> Self {
        let meeting = path.with_extension("socket");
        let whimbrel = env!("CARGO_BIN_EXE_whimbrel");
        let script =
            IMAGE.replace("@COURIER@", meeting.to_str().unwrap()).replace("@WHIMBREL@", whimbrel);
        std::fs::write(path, script).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
        let listener = UnixListener::bind(meeting).unwrap();
        let (gate, images) = (Gate::with(Some(hold)), Arc::<Mutex<Vec<_>>>::default());
        let (carrying, came) = (gate.clone(), images.clone());
        thread::spawn(move || {
            for way in [Leg::Over, Leg::Back] {
                let (image, _) = listener.accept().unwrap();
                came.lock().unwrap().push(socket_peercred(&image).unwrap().pid);
                let [old] = <[OwnedFd; 1]>::try_from(take(&image).unwrap()).unwrap();
                let (new, its) = UnixStream::pair().unwrap();
                give(&image, &[its.into()]).unwrap();
                let gate = if way == leg { carrying.clone() } else { Gate::with(None) };
                both_ways(&gate, old.into(), new, letters);
            }
        });
        Self { gate, path: path.to_owned(), images }
    }

    /// The process that became whimbrel through it on that leg.
    pub fn image(&self, leg: Leg) -> Option<Pid> {
        self.images.lock().unwrap().get(leg as usize).copied()
    }

    /// Where the old process is to connect to, or what it is to start.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the message that stays on the way has come.
    pub fn has_held(&self) -> bool {
        self.gate.hold.lock().unwrap().came
    }

    /// Carries everything from now on. What a process has said arrives, even if it is dead by then, as it
    /// does on a socket pair.
    pub fn go_on(&self) {
        self.gate.hold.lock().unwrap().what = None;
        self.gate.changed.notify_all();
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        self.go_on();
    }
}

impl Gate {
    fn with(hold: Option<Mail>) -> Arc<Self> {
        let hold = Mutex::new(Hold { what: hold, came: false });
        Arc::new(Self { hold, changed: Condvar::new() })
    }

    fn pass(&self, mail: Mail) {
        let mut hold = self.hold.lock().unwrap();
        while hold.what == Some(mail) {
            hold.came = true;
            self.changed.notify_all();
            hold = self.changed.wait(hold).unwrap();
        }
    }
}

type Carry = fn(&Arc<Gate>, &UnixStream, &UnixStream) -> io::Result<()>;

/// Carries both directions of a connection, each to its end.
fn both_ways(gate: &Arc<Gate>, one: UnixStream, other: UnixStream, carry: Carry) {
    let ways = [(one.try_clone().unwrap(), other.try_clone().unwrap()), (other, one)];
    for (from, to) in ways {
        let gate = gate.clone();
        thread::spawn(move || {
            // Its end is an end to both: the process there is gone, or wants no more of this.
            let _ = carry(&gate, &from, &to);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// Carries the letters of the channel.
fn letters(gate: &Arc<Gate>, mut from: &UnixStream, mut to: &UnixStream) -> io::Result<()> {
    loop {
        let mut header = [0; 12];
        from.read_exact(&mut header)?;
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let (kind, length, count) = (number(0), number(4), number(8));
        let mut left = usize::try_from(count).unwrap();
        let mut groups = Vec::new();
        while left > 0 {
            groups.push(take(from)?);
            left -= groups.last().map_or(0, Vec::len);
        }
        let mut content = vec![0; usize::try_from(length).unwrap()];
        from.read_exact(&mut content)?;
        if kind == OUTSET {
            // Before a way back, if there is one, which is another.
            let link = groups.iter_mut().flatten().find(|fd| is_socket(fd));
            let link = link.expect("one of them is a socket");
            let (here, there) = UnixStream::pair()?;
            let old = std::mem::replace(link, there.into());
            both_ways(gate, old.into(), here, frames);
        }
        gate.pass(Mail::Letter(kind));
        to.write_all(&header)?;
        groups.iter().try_for_each(|group| give(to, group))?;
        to.write_all(&content)?;
    }
}

fn is_socket(fd: &OwnedFd) -> bool {
    FileType::from_raw_mode(fstat(fd).unwrap().st_mode) == FileType::Socket
}

/// The descriptors that come with one byte.
fn take(from: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received =
        recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let rights = |message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    };
    Ok(ancillary.drain().filter_map(rights).flatten().collect())
}

fn give(to: &UnixStream, descriptors: &[OwnedFd]) -> io::Result<()> {
    let group: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&group)));
    sendmsg(to, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Carries the frames of the motion.
fn frames(gate: &Arc<Gate>, mut from: &UnixStream, mut to: &UnixStream) -> io::Result<()> {
    let mut bytes = vec![0; MAGIC.len()];
    from.read_exact(&mut bytes)?;
    loop {
        to.write_all(&bytes)?;
        let kind = frame(&mut from, &mut bytes).map_err(io::Error::other)?;
        gate.pass(Mail::Frame(kind));
    }
}
