//! Taking pages out of RAM and putting them on a connection.

use super::walk::{Carrier, walk_chunk};
use super::{Pass, PassKind, PassTotals, io_error};
use crate::MachineError;
use crate::SourceMachine;
use links::Stream;
use memory::{PAGE_SIZE, PageRange};
use state::Code;
use std::io::{self, Write};
use vm_memory::{VolatileSlice, WriteVolatile};
use wire::{Content, PagesHeader, Run};

/// A piece in more parts than this is gathered before it is sent: copying it costs less than a
/// system call for each part.
const MOST_PARTS: usize = 2;

/// Why a chunk could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The machine failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The connection failed.
    #[error("sending pages: {0}")]
    Link(#[source] io::Error),
}

/// Where pages go.
pub trait PageSink: Write {
    /// Takes bytes that belong to what is written next, and may wait for it.
    ///
    /// # Errors
    /// As of writing.
    fn write_more(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }

    /// Takes bytes straight from guest memory, which may change meanwhile.
    ///
    /// # Errors
    /// As of writing.
    fn write_guest(&mut self, memory: &VolatileSlice<'_>) -> io::Result<usize> {
        let mut bytes = vec![0; memory.len()];
        memory.copy_to(&mut bytes);
        self.write(&bytes)
    }
}

impl PageSink for Vec<u8> {}

impl PageSink for io::Sink {}

impl PageSink for &Stream {
    fn write_more(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Stream::write_more(self, bytes)
    }

    fn write_guest(&mut self, memory: &VolatileSlice<'_>) -> io::Result<usize> {
        self.write_volatile(memory).map_err(io_error)
    }
}

/// What a worker sends pages with: buffers that are used again.
#[derive(Debug, Default)]
pub struct Sender {
    /// The frame's beginning, and contents that are gathered first.
    frame: Vec<u8>,
    header: PagesHeader,
}

/// A sender at work on a pass.
struct Sending<'a, T> {
    sender: &'a mut Sender,
    machine: &'a dyn SourceMachine,
    pass: &'a Pass,
    to: &'a mut T,
}

impl<T: PageSink> Carrier for Sending<'_, T> {
    type Error = SendError;

    fn touched(&mut self, piece: PageRange, totals: &mut PassTotals) -> Result<(), SendError> {
        self.sender.send_piece(self.machine, self.pass, piece, totals, self.to)
    }

    fn zero(&mut self, range: PageRange, totals: &mut PassTotals) -> Result<(), SendError> {
        let header = &mut self.sender.header;
        header.runs.clear();
        header.runs.push(Run { range, content: Content::Zero });
        self.sender.write(self.pass, &[], totals, self.to)
    }
}

impl Sender {
    /// Sends the pages of one claimed chunk.
    ///
    /// `pace` is told after each piece how many bytes it took, waits as long as it likes, and says how
    /// many pages the next may have.
    ///
    /// # Errors
    /// [`SendError`]; then some of the chunk was sent and the motion cannot go on.
    pub fn send_chunk(
        &mut self,
        machine: &dyn SourceMachine,
        pass: &Pass,
        chunk: PageRange,
        pace: &mut dyn FnMut(u64) -> u64,
        to: &mut impl PageSink,
    ) -> Result<PassTotals, SendError> {
        let mut carrier = Sending { sender: self, machine, pass, to };
        walk_chunk(machine, pass, chunk, pace, &mut carrier)
    }

    /// Looks at a run of pages that were touched, leaves out what is zero, and sends the rest.
    ///
    /// Contents go from guest memory to the connection as they are at that moment. Should the guest
    /// write a page between the look and the sending, or while it is sent, its write is logged, and
    /// the page goes again.
    fn send_piece(
        &mut self,
        machine: &dyn SourceMachine,
        pass: &Pass,
        piece: PageRange,
        totals: &mut PassTotals,
        to: &mut impl PageSink,
    ) -> Result<(), SendError> {
        let failed = |e| MachineError::new(Code::HostIo, "reading guest RAM", e);
        let ram = machine.ram();
        self.header.runs.clear();
        for page in piece.start..piece.end() {
            #[cfg(feature = "mutate")]
            crate::mutate::note_sent(ram, page);
            let is_zero = ram.is_zero(page).map_err(failed)?;
            let content = if is_zero { Content::Zero } else { Content::Data };
            match self.header.runs.last_mut() {
                Some(run) if run.content == content => run.range.count += 1,
                _ => self.header.runs.push(Run { range: PageRange::new(page, 1), content }),
            }
        }
        #[cfg(feature = "mutate")]
        crate::mutate::drop_page(&mut self.header);
        if pass.kind() == PassKind::First {
            totals.skipped += self.header.zero_pages();
            self.header.runs.retain(|run| run.content == Content::Data);
        }
        let parts = self.header.runs.iter().filter(|run| run.content == Content::Data);
        let parts: Result<Vec<_>, _> = parts.map(|run| ram.slice(run.range)).collect();
        self.write(pass, &parts.map_err(failed)?, totals, to)
    }

    /// Sends one frame and its contents.
    fn write(
        &mut self,
        pass: &Pass,
        contents: &[VolatileSlice<'_>],
        totals: &mut PassTotals,
        to: &mut impl PageSink,
    ) -> Result<(), SendError> {
        if self.header.runs.is_empty() {
            return Ok(());
        }
        self.header.pass = pass.number();
        self.frame.clear();
        self.header.encode_into(&mut self.frame);
        totals.bytes += self.frame.len() as u64 + self.header.data_pages() * PAGE_SIZE;
        totals.data += self.header.data_pages();
        totals.zero += self.header.zero_pages();
        self.write_frame(contents, to).map_err(SendError::Link)
    }

    fn write_frame(
        &mut self,
        contents: &[VolatileSlice<'_>],
        to: &mut impl PageSink,
    ) -> io::Result<()> {
        if contents.is_empty() || contents.len() > MOST_PARTS {
            for part in contents {
                let start = self.frame.len();
                self.frame.resize(start + part.len(), 0);
                part.copy_to(&mut self.frame[start..]);
            }
            return to.write_all(&self.frame);
        }
        let mut head = &self.frame[..];
        while !head.is_empty() {
            let written = again(|| to.write_more(head))?;
            head = &head[written..];
        }
        for part in contents {
            let mut part = *part;
            while !part.is_empty() {
                let written = again(|| to.write_guest(&part))?;
                part = part.offset(written).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }
}

/// Writes until something other than an interruption comes of it.
fn again(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match write() {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
