//! Taking pages from a connection and putting them into RAM.

use super::{PassTotals, io_error};
use memory::{GuestRam, PAGE_SIZE};
use std::io::Read;
use vm_memory::{ReadVolatile, VolatileMemoryError};
use wire::{Content, FrameError, Header, Kind, Message, PagesHeader, PassEnd};

/// Why pages could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The connection failed, or the peer broke the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// RAM could not be written.
    #[error("writing guest RAM: {0}")]
    Ram(#[source] std::io::Error),
    /// Fewer or more pages came than were sent.
    #[error("in pass {pass} the source sent {sent:?} pages (with contents, zero) and {got:?} came")]
    Incomplete {
        /// Which pass.
        pass: u32,
        /// What the source says.
        sent: (u64, u64),
        /// What came.
        got: (u64, u64),
    },
}

/// What one connection has brought in this pass.
#[derive(Debug, Default)]
pub struct Receiver {
    pass: PassTotals,
}

/// What came next on a data connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Pages, and they are in RAM: this many bytes.
    Pages(u64),
    /// The end of a pass; the totals of the source agree with what came.
    PassEnd(PassEnd),
}

impl Receiver {
    /// Takes the next frame from a data connection, contents going straight into RAM.
    ///
    /// # Errors
    /// [`ReceiveError`]; RAM then holds a part of what was sent.
    pub fn receive<S: Read + ReadVolatile>(
        &mut self,
        ram: &GuestRam,
        from: &mut S,
    ) -> Result<Received, ReceiveError> {
        let header = Header::read(from)?;
        if !matches!(header.kind, Kind::Pages | Kind::PassEnd) {
            return Err(unexpected(header.kind));
        }
        let body = header.read_body(from)?;
        match header.kind {
            Kind::Pages => {
                let pages = PagesHeader::decode(&body, ram.pages())?;
                for run in &pages.runs {
                    match run.content {
                        Content::Zero => ram.zero(run.range).map_err(ReceiveError::Ram)?,
                        Content::Data => {
                            ram.prepare(run.range);
                            let mut slice = ram.slice(run.range).map_err(ReceiveError::Ram)?;
                            from.read_exact_volatile(&mut slice).map_err(link_error)?;
                        }
                    }
                }
                Ok(Received::Pages(self.count(&pages)))
            }
            Kind::PassEnd => match Message::decode(header.kind, &body)? {
                Message::PassEnd(end) => self.end(end).map(Received::PassEnd),
                other => Err(unexpected(other.kind())),
            },
            other => Err(unexpected(other)),
        }
    }

    /// Puts pages into RAM that arrived together with their contents.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn store(
        &mut self,
        ram: &GuestRam,
        pages: &PagesHeader,
        contents: &[u8],
    ) -> Result<u64, ReceiveError> {
        let mut rest = contents;
        for run in &pages.runs {
            match run.content {
                Content::Zero => ram.zero(run.range).map_err(ReceiveError::Ram)?,
                Content::Data => {
                    let mut slice = ram.slice(run.range).map_err(ReceiveError::Ram)?;
                    rest.read_exact_volatile(&mut slice).map_err(link_error)?;
                }
            }
        }
        Ok(self.count(pages))
    }

    /// Compares what came in this pass with what the source says it sent.
    ///
    /// # Errors
    /// [`ReceiveError::Incomplete`].
    pub fn end(&mut self, end: PassEnd) -> Result<PassEnd, ReceiveError> {
        let PassTotals { data, zero, .. } = std::mem::take(&mut self.pass);
        if (data, zero) == (end.data_pages, end.zero_pages) {
            Ok(end)
        } else {
            Err(ReceiveError::Incomplete {
                pass: end.pass,
                sent: (end.data_pages, end.zero_pages),
                got: (data, zero),
            })
        }
    }

    fn count(&mut self, pages: &PagesHeader) -> u64 {
        self.pass.data += pages.data_pages();
        self.pass.zero += pages.zero_pages();
        pages.data_pages() * PAGE_SIZE
    }
}

fn unexpected(got: Kind) -> ReceiveError {
    FrameError::Unexpected { got, expected: "pages or the end of a pass" }.into()
}

fn link_error(error: VolatileMemoryError) -> ReceiveError {
    ReceiveError::Frame(FrameError::Io(io_error(error)))
}
