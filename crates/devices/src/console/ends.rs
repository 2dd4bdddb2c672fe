//! The host's end of a console, while another process of this host takes it over.

use super::Spec;
use super::backend::{Backend, Listener, Peer, SocketFile};
use super::escape::Escape;
use super::terminal::{RawMode, Terminal};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OutputModes, SpecialCodeIndex, Termios, tcgetattr,
};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest path, in bytes: `PATH_MAX` of `linux/limits.h`.
const MOST_PATH: usize = 4096;

/// Major number of the device files of pseudo-terminals
/// (Documentation/admin-guide/devices.txt, `UNIX98_PTY_SLAVE_MAJOR`).
const PTY_SLAVE_MAJOR: u32 = 136;

/// The control characters of a terminal, in the order in which they are saved.
const CODES: [SpecialCodeIndex; 17] = [
    SpecialCodeIndex::VINTR,
    SpecialCodeIndex::VQUIT,
    SpecialCodeIndex::VERASE,
    SpecialCodeIndex::VKILL,
    SpecialCodeIndex::VEOF,
    SpecialCodeIndex::VTIME,
    SpecialCodeIndex::VMIN,
    SpecialCodeIndex::VSWTC,
    SpecialCodeIndex::VSTART,
    SpecialCodeIndex::VSTOP,
    SpecialCodeIndex::VSUSP,
    SpecialCodeIndex::VEOL,
    SpecialCodeIndex::VREPRINT,
    SpecialCodeIndex::VDISCARD,
    SpecialCodeIndex::VWERASE,
    SpecialCodeIndex::VLNEXT,
    SpecialCodeIndex::VEOL2,
];

/// The host's end of a console: what is known of it beside its descriptors, which travel with it, in
/// the order of the table. What it has not read or written is not here: see
/// [`Console::ends`](super::Console::ends).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedConsoleEnd {
    /// What kind of console it is.
    #[n(0)]
    pub kind: SavedKind,
    /// Where people find it.
    #[n(1)]
    pub location: Option<ByteVec>,
    /// The descriptors.
    #[n(2)]
    pub descriptors: Vec<SavedDescriptor>,
    /// The socket's file, where it listens.
    #[n(3)]
    pub socket: Option<SavedSocket>,
    /// The terminal, where a person sits at one.
    #[n(4)]
    pub terminal: Option<SavedTerminal>,
    /// How many bytes of output were lost so far because nobody took them.
    #[n(5)]
    pub lost: u64,
}

impl state::Saved for SavedConsoleEnd {
    const SCHEMA: &'static str = "whimbrel.console-end";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// The kinds of consoles; see [`Spec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SavedKind {
    /// Nowhere.
    #[n(0)]
    Off,
    /// Standard input and output.
    #[n(1)]
    Stdio,
    /// A pseudo-terminal.
    #[n(2)]
    Pty,
    /// A file.
    #[n(3)]
    File,
    /// A Unix socket.
    #[n(4)]
    Unix,
}

/// One descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedDescriptor {
    /// What it is for.
    #[n(0)]
    pub role: SavedRole,
    /// `st_dev` of its file.
    #[n(1)]
    pub device: u64,
    /// `st_ino` of its file.
    #[n(2)]
    pub inode: u64,
}

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SavedRole {
    /// Input is read from it.
    #[n(0)]
    Input,
    /// Output is written to it.
    #[n(1)]
    Output,
    /// Both: a client, or the master of a pseudo-terminal.
    #[n(2)]
    Both,
    /// Clients come by it.
    #[n(3)]
    Listener,
    /// The other end of a pseudo-terminal of ours.
    #[n(4)]
    Slave,
    /// The terminal that is in raw mode.
    #[n(5)]
    Terminal,
}

/// The file of a listening socket: it is removed when the console closes, if it still is that file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedSocket {
    /// Its absolute path.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub path: Vec<u8>,
    /// `st_dev` of the file.
    #[n(1)]
    pub device: u64,
    /// `st_ino` of the file.
    #[n(2)]
    pub inode: u64,
}

/// A terminal in raw mode: what it was before (`termios(3)`), and what is half typed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedTerminal {
    /// `c_iflag`.
    #[n(0)]
    pub input_modes: u32,
    /// `c_oflag`.
    #[n(1)]
    pub output_modes: u32,
    /// `c_cflag`.
    #[n(2)]
    pub control_modes: u32,
    /// `c_lflag`.
    #[n(3)]
    pub local_modes: u32,
    /// `c_cc`, from `VINTR` to `VEOL2`.
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub special_codes: Vec<u8>,
    /// `c_ispeed` in bits per second.
    #[n(5)]
    pub input_speed: u32,
    /// `c_ospeed` in bits per second.
    #[n(6)]
    pub output_speed: u32,
    /// Ctrl-A was typed and what it means is not known yet.
    #[n(7)]
    pub escape_pending: bool,
}

impl SavedKind {
    fn of(spec: &Spec) -> Self {
        match spec {
            Spec::Off => Self::Off,
            Spec::Stdio => Self::Stdio,
            Spec::Pty => Self::Pty,
            Spec::File(_) => Self::File,
            Spec::Unix(_) => Self::Unix,
        }
    }
}

impl SavedTerminal {
    fn of(before: &Termios, escape: &Escape) -> Self {
        let Escape { pending } = escape;
        Self {
            input_modes: before.input_modes.bits(),
            output_modes: before.output_modes.bits(),
            control_modes: before.control_modes.bits(),
            local_modes: before.local_modes.bits(),
            special_codes: CODES.map(|code| before.special_codes[code]).to_vec(),
            input_speed: before.input_speed(),
            output_speed: before.output_speed(),
            escape_pending: *pending,
        }
    }

    fn check(self, terminal: Arc<OwnedFd>) -> Result<Terminal, String> {
        let Self {
            input_modes,
            output_modes,
            control_modes,
            local_modes,
            special_codes,
            input_speed,
            output_speed,
            escape_pending,
        } = self;
        let failed = |e: rustix::io::Errno| format!("its terminal is none: {e}");
        let codes: [u8; CODES.len()] = special_codes
            .try_into()
            .map_err(|codes: Vec<u8>| format!("its terminal has {} keys", codes.len()))?;
        let mut before = tcgetattr(&*terminal).map_err(failed)?;
        before.input_modes = InputModes::from_bits_retain(input_modes);
        before.output_modes = OutputModes::from_bits_retain(output_modes);
        before.local_modes = LocalModes::from_bits_retain(local_modes);
        before.set_input_speed(input_speed).map_err(failed)?;
        before.set_output_speed(output_speed).map_err(failed)?;
        // After the speeds, which have their bits in it.
        before.control_modes = ControlModes::from_bits_retain(control_modes);
        for (code, value) in CODES.into_iter().zip(codes) {
            before.special_codes[code] = value;
        }
        let raw = RawMode::adopt(terminal, before).map_err(|e| e.to_string())?;
        Ok(Terminal { raw, escape: Escape { pending: escape_pending } })
    }
}

impl SavedSocket {
    fn of(file: &SocketFile) -> Self {
        let SocketFile { path, device, inode } = file;
        Self { path: path.as_os_str().as_bytes().to_vec(), device: *device, inode: *inode }
    }

    fn check(self) -> Result<SocketFile, String> {
        let Self { path, device, inode } = self;
        let path = checked_path(path)?;
        if !path.is_absolute() {
            return Err(format!("the path of its socket, {}, is not absolute", path.display()));
        }
        Ok(SocketFile { path, device, inode })
    }
}

impl SavedConsoleEnd {
    pub(super) fn of(
        backend: &Backend,
        spec: &Spec,
        lost: u64,
    ) -> io::Result<(Self, Vec<OwnedFd>)> {
        let Backend { peers, listener, terminal, slave, location } = backend;
        let (mut table, mut descriptors) = (Vec::new(), Vec::new());
        let mut add = |role, fd: &OwnedFd| -> io::Result<()> {
            let fd = fd.try_clone()?;
            let stat = fstat(&fd)?;
            table.push(SavedDescriptor { role, device: stat.st_dev, inode: stat.st_ino });
            descriptors.push(fd);
            Ok(())
        };
        for Peer { fd, reads, writes, watch: _ } in peers {
            match (reads, writes) {
                (true, true) => add(SavedRole::Both, fd)?,
                (true, false) => add(SavedRole::Input, fd)?,
                (false, true) => add(SavedRole::Output, fd)?,
                (false, false) => {}
            }
        }
        let mut socket = None;
        if let Some(Listener { fd, file, watch: _, is_ours: _ }) = listener {
            add(SavedRole::Listener, fd)?;
            socket = Some(SavedSocket::of(file));
        }
        if let Some(slave) = slave {
            add(SavedRole::Slave, slave)?;
        }
        let mut saved_terminal = None;
        if let Some(Terminal { raw: RawMode { terminal, before }, escape }) = terminal {
            add(SavedRole::Terminal, terminal)?;
            saved_terminal = Some(SavedTerminal::of(before, escape));
        }
        let bytes = |path: &PathBuf| ByteVec::from(path.as_os_str().as_bytes().to_vec());
        let saved = Self {
            kind: SavedKind::of(spec),
            location: location.as_ref().map(bytes),
            descriptors: table,
            socket,
            terminal: saved_terminal,
            lost,
        };
        Ok((saved, descriptors))
    }

    /// The console that it is of, which cleans up nothing until it is told to, and how many bytes it
    /// has lost so far; or what is wrong with it.
    pub(super) fn check(
        self,
        spec: &Spec,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Backend, u64), String> {
        let Self { kind, location, descriptors: table, socket, terminal, lost } = self;
        if kind != SavedKind::of(spec) {
            return Err(format!("it is of the kind {kind:?}"));
        }
        let (told, came) = (table.len(), descriptors.len());
        if told != came {
            return Err(format!("it has {told} descriptors, and {came} came"));
        }
        let location = location.map(|bytes| checked_path(bytes.into())).transpose()?;
        let mut parts: Vec<(SavedRole, OwnedFd)> = Vec::new();
        for (SavedDescriptor { role, device, inode }, fd) in table.into_iter().zip(descriptors) {
            let stat = fstat(&fd).map_err(|e| format!("looking at its {role:?}: {e}"))?;
            if (stat.st_dev, stat.st_ino) != (device, inode) {
                return Err(format!("the descriptor for its {role:?} is of another file"));
            }
            check_role(kind, role, &fd)
                .map_err(|why| format!("the descriptor for its {role:?}: {why}"))?;
            if parts.iter().any(|(other, _)| *other == role) {
                return Err(format!("it has more than one {role:?}"));
            }
            parts.push((role, fd));
        }
        let mut take = |role| {
            let at = parts.iter().position(|(other, _)| *other == role)?;
            Some(parts.swap_remove(at).1)
        };
        let mut peers = Vec::new();
        for (role, reads, writes) in [
            (SavedRole::Input, true, false),
            (SavedRole::Output, false, true),
            (SavedRole::Both, true, true),
        ] {
            peers.extend(take(role).map(|fd| Peer::new(Arc::new(fd), reads, writes)));
        }
        let slave = take(SavedRole::Slave);
        let listener = match (take(SavedRole::Listener), socket) {
            (None, None) if kind != SavedKind::Unix => None,
            (Some(fd), Some(socket)) => {
                let (fd, file) = (Arc::new(fd), socket.check()?);
                Some(Listener { fd, file, watch: None, is_ours: false })
            }
            _ => return Err("its socket and the file of that do not go together".to_owned()),
        };
        let terminal = match (take(SavedRole::Terminal), terminal) {
            (None, None) => None,
            (Some(fd), Some(terminal)) => Some(terminal.check(Arc::new(fd))?),
            _ => return Err("its terminal and the settings of that do not go together".to_owned()),
        };
        let one_at_most = matches!(kind, SavedKind::Pty | SavedKind::Unix);
        if one_at_most && peers.len() > 1 {
            return Err("it has more than one client".to_owned());
        }
        if let (SavedKind::Pty, [master], Some(slave)) = (kind, &*peers, &slave) {
            check_pair(&master.fd, slave)?;
        }
        Ok((Backend { peers, listener, terminal, slave, location }, lost))
    }
}

fn checked_path(bytes: Vec<u8>) -> Result<PathBuf, String> {
    if bytes.is_empty() || bytes.len() > MOST_PATH || bytes.contains(&0) {
        return Err("where it is found is no path".to_owned());
    }
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

/// Whether a descriptor can be what it is for, without reading, writing or changing it. None that may
/// block is used where there is none here either: the thread that used it would be everybody's.
fn check_role(kind: SavedKind, role: SavedRole, fd: &OwnedFd) -> Result<(), String> {
    use SavedRole::{Both, Input, Listener, Output, Slave, Terminal};
    let is_peer = matches!(role, Input | Output | Both);
    let flags = fcntl_getfl(fd).map_err(|e| e.to_string())?;
    let access = flags & OFlags::RWMODE;
    let reads = access != OFlags::WRONLY;
    let writes = access != OFlags::RDONLY;
    let waits = !flags.contains(OFlags::NONBLOCK);
    let require = |holds, why: &str| if holds { Ok(()) } else { Err(why.to_owned()) };
    match (kind, role) {
        (SavedKind::Stdio, Input) => require(reads, "it cannot be read"),
        (SavedKind::Stdio, Output) => require(writes, "it cannot be written"),
        // Whether it is one is known when its settings are looked at.
        (SavedKind::Stdio, Terminal) => Ok(()),
        (SavedKind::File, Output) => {
            require(writes && flags.contains(OFlags::APPEND), "it cannot be appended to")
        }
        (SavedKind::Pty, _) if is_peer => {
            require(!waits, "it blocks")?;
            rustix::pty::ptsname(fd, Vec::new())
                .map(drop)
                .map_err(|_| "it is no master of a pseudo-terminal".to_owned())
        }
        // Compared with its master.
        (SavedKind::Pty, Slave) => Ok(()),
        (SavedKind::Unix, Listener) => {
            require(!waits, "it blocks")?;
            require(is_unix_stream(fd) == Some(true), "it is no listening Unix socket")
        }
        (SavedKind::Unix, _) if is_peer => {
            require(!waits, "it blocks")?;
            require(is_unix_stream(fd) == Some(false), "it is no connected Unix socket")
        }
        (
            SavedKind::Off | SavedKind::Stdio | SavedKind::Pty | SavedKind::File | SavedKind::Unix,
            _,
        ) => Err("such a console has none".to_owned()),
    }
}

/// Whether a Unix stream socket listens; none for anything else.
fn is_unix_stream(fd: &OwnedFd) -> Option<bool> {
    let is_stream = sockopt::socket_domain(fd).ok()? == AddressFamily::UNIX
        && sockopt::socket_type(fd).ok()? == SocketType::STREAM;
    is_stream.then(|| sockopt::socket_acceptconn(fd).ok())?
}

/// Whether `slave` is the other end of `master`.
fn check_pair(master: impl AsFd, slave: impl AsFd) -> Result<(), String> {
    let failed = |e: rustix::io::Errno| format!("looking at its pseudo-terminal: {e}");
    let name = rustix::pty::ptsname(master, Vec::new()).map_err(failed)?;
    let number =
        name.to_str().ok().and_then(|name| Path::new(name).file_name()?.to_str()?.parse().ok());
    let stat = fstat(slave).map_err(failed)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    if is_device && major == PTY_SLAVE_MAJOR && number == Some(minor) {
        Ok(())
    } else {
        Err("its pseudo-terminal is of two that do not belong together".to_owned())
    }
}
