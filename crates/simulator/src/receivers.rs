//! The receivers of a destination, as steps: each puts one whole frame into RAM at a time.

use crate::env::Env;
use crate::mutants::Mutant;
use crate::net::{ConnId, Piece};
use memory::{GuestRam, PAGE_SIZE, PageRange};
use motion::MotionError;
use motion::destination::AsRam;
use motion::ram::receive::{ReceiveError, Received, Receiver};
use state::Code;
use std::sync::Arc;
use wire::{Header, Kind, PagesHeader, PassEnd};

/// What came of bytes.
pub enum Arrived {
    Pages(u64),
    PassEnd(PassEnd),
    Lost(MotionError),
}

/// One data connection.
pub struct Intake {
    pub conn: ConnId,
    pub index: u16,
    pub motion: u64,
    ram: Arc<dyn AsRam>,
    receiver: Receiver,
    bytes: Vec<u8>,
    over: bool,
}

impl Intake {
    pub fn new(conn: ConnId, index: u16, motion: u64, ram: Arc<dyn AsRam>) -> Self {
        let (receiver, bytes) = (Receiver::default(), Vec::new());
        Self { conn, index, motion, ram, receiver, bytes, over: false }
    }

    pub fn feed(&mut self, piece: &Piece, env: &mut Env) -> Vec<Arrived> {
        let mut arrived = Vec::new();
        if self.over {
            return arrived;
        }
        let ended = match piece {
            Piece::Bytes(bytes) => {
                self.bytes.extend_from_slice(bytes);
                false
            }
            _ => true,
        };
        // At the end, what there is of the last frame still goes into RAM, as far as it came.
        while let Some(length) = whole_frame(&self.bytes, self.ram.as_ram().pages())
            .or_else(|| ended.then_some(self.bytes.len()))
        {
            let frame: Vec<u8> = self.bytes.drain(..length).collect();
            let lost = env.mutant == Some(Mutant::LosesFrames) && env.rng.chance(10);
            if lost && is_pages(&frame) {
                continue;
            }
            let before = Before::of(&frame, self.ram.as_ram(), env);
            let mut rest = &frame[..];
            match self.receiver.receive(self.ram.as_ram(), &mut rest) {
                Ok(Received::Pages(bytes)) => arrived.push(Arrived::Pages(bytes)),
                Ok(Received::PassEnd(end)) => arrived.push(Arrived::PassEnd(end)),
                Err(error) => {
                    self.over = true;
                    arrived.push(Arrived::Lost(receive_error(&error)));
                    break;
                }
            }
            if let Some(before) = before {
                before.damage(self.ram.as_ram(), env);
            }
        }
        arrived
    }
}

fn is_pages(frame: &[u8]) -> bool {
    let header = frame.first_chunk().and_then(|header| Header::decode(*header).ok());
    header.is_some_and(|header| header.kind == Kind::Pages)
}

/// The length of the frame at the beginning with its contents, once all of it has come. What is no
/// frame is left to the receiver to refuse.
fn whole_frame(bytes: &[u8], pages: u64) -> Option<usize> {
    let header = bytes.first_chunk::<{ Header::SIZE }>()?;
    let Ok(header) = Header::decode(*header) else { return Some(bytes.len()) };
    let end = Header::SIZE + usize::try_from(header.length).expect("16 MiB at most");
    let body = bytes.get(Header::SIZE..end)?;
    let contents = match header.kind {
        Kind::Pages => PagesHeader::decode(body, pages).map_or(0, |h| h.data_pages() * PAGE_SIZE),
        _ => 0,
    };
    let length = end + usize::try_from(contents).expect("2 MiB at most");
    (bytes.len() >= length).then_some(length)
}

fn receive_error(error: &ReceiveError) -> MotionError {
    match error {
        ReceiveError::Frame(frame) => MotionError::link("receiving pages", frame),
        ReceiveError::Ram(_) => MotionError::new(Code::HostIo, error.to_string()),
        ReceiveError::Incomplete { .. } => MotionError::new(Code::ProtocolError, error.to_string()),
    }
}

/// Two pages as they were before a frame came, for mutants that lose or damage one of them.
struct Before {
    pages: [u64; 2],
    contents: [Vec<u8>; 2],
}

impl Before {
    fn of(frame: &[u8], ram: &GuestRam, env: &mut Env) -> Option<Self> {
        env.mutant.filter(|mutant| mutant.damages_pages())?;
        let header =
            Header::decode(*frame.first_chunk()?).ok().filter(|h| h.kind == Kind::Pages)?;
        let end = Header::SIZE + usize::try_from(header.length).expect("it came whole");
        let header = PagesHeader::decode(frame.get(Header::SIZE..end)?, ram.pages()).ok()?;
        if !env.rng.chance(20) {
            return None;
        }
        let (first, last) = (header.runs.first()?, header.runs.last()?);
        let pages = [first.range.start, last.range.end() - 1];
        Some(Self { pages, contents: pages.map(|page| read(ram, page)) })
    }

    fn damage(self, ram: &GuestRam, env: &Env) {
        let [one, other] = self.pages;
        match env.mutant {
            Some(Mutant::LosesPages) => write(ram, one, &self.contents[0]),
            Some(Mutant::TearsPages) => {
                let mut torn = read(ram, other);
                torn[2048..].copy_from_slice(&self.contents[1][2048..]);
                write(ram, other, &torn);
            }
            Some(Mutant::SwapsPages) => {
                let (first, last) = (read(ram, one), read(ram, other));
                write(ram, one, &last);
                write(ram, other, &first);
            }
            _ => {}
        }
    }
}

fn read(ram: &GuestRam, page: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    ram.read(PageRange::new(page, 1), &mut bytes).expect("the page is there");
    bytes
}

fn write(ram: &GuestRam, page: u64, bytes: &[u8]) {
    ram.slice(PageRange::new(page, 1)).expect("the page is there").copy_from(bytes);
}
