//! Taking pages out of RAM and putting them on a connection.

use super::{Pass, PassKind, PassTotals};
use crate::MachineError;
use crate::SourceMachine;
use crate::rules::{Rule, keeps};
use memory::{PAGE_SIZE, PageRange};
use state::Code;
use std::io::{self, IoSlice, Write};
use wire::{Content, PagesHeader, Run};

/// The most pages read and sent as one piece: small enough to stay in the processor's cache between
/// reading, looking for zeroes and sending.
pub const PIECE_PAGES: u64 = 64;

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_SIZE as usize;
static ZERO_PAGE: [u8; PAGE] = [0; PAGE];

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

/// What a worker sends pages with: buffers that are used again.
#[derive(Debug, Default)]
pub struct Sender {
    contents: Vec<u8>,
    table: Vec<u8>,
    header: PagesHeader,
}

impl Sender {
    /// Sends the pages of one claimed chunk.
    ///
    /// Per chunk the order is always: writes are logged again → which of its pages were ever
    /// touched → read them. `pace` is told after each piece how many bytes it took, waits as long
    /// as it likes, and says how many pages the next may have.
    ///
    /// # Errors
    /// [`SendError`]; then some of the chunk was sent and the motion cannot go on.
    pub fn send_chunk(
        &mut self,
        machine: &dyn SourceMachine,
        pass: &Pass,
        chunk: PageRange,
        pace: &mut dyn FnMut(u64) -> u64,
        to: &mut impl Write,
    ) -> Result<PassTotals, SendError> {
        let rearm = || match pass.is_logged() {
            true => machine
                .dirty_log()
                .rearm(pass.set(), chunk)
                .map_err(|e| MachineError::new(Code::Kvm, "logging writes to guest RAM", e)),
            false => Ok(()),
        };
        if keeps(Rule::RearmComesFirst) {
            rearm()?;
        }
        let touched = machine.ram().touched(chunk).map_err(|e| {
            MachineError::new(Code::HostIo, "looking for pages that were touched", e)
        })?;

        let mut totals = PassTotals::default();
        let mut most = pace(0).clamp(1, PIECE_PAGES);
        for run in pass.set().runs_in(chunk) {
            let mut next = run.start;
            for part in touched.iter().filter_map(|part| part.intersection(run)) {
                self.untouched(pass, PageRange::new(next, part.start - next), &mut totals, to)?;
                next = part.end();
                let mut at = part.start;
                while at < part.end() {
                    let piece = PageRange::new(at, most.min(part.end() - at));
                    let before = totals.bytes;
                    self.send_piece(machine, pass, piece, &mut totals, to)?;
                    at = piece.end();
                    most = pace(totals.bytes - before).clamp(1, PIECE_PAGES);
                    if pass.is_stopped() {
                        return Ok(totals);
                    }
                }
            }
            self.untouched(pass, PageRange::new(next, run.end() - next), &mut totals, to)?;
        }
        if !keeps(Rule::RearmComesFirst) {
            rearm()?;
        }
        Ok(totals)
    }

    /// Pages that nobody has touched: never yet, or not since they were discarded.
    fn untouched(
        &mut self,
        pass: &Pass,
        range: PageRange,
        totals: &mut PassTotals,
        to: &mut impl Write,
    ) -> Result<(), SendError> {
        if range.count == 0 {
            return Ok(());
        }
        totals.seen += range.count;
        match pass.kind() {
            PassKind::First => totals.skipped += range.count,
            PassKind::Later => {
                self.header.runs.clear();
                self.header.runs.push(Run { range, content: Content::Zero });
                self.write(pass, &[], totals, to)?;
            }
        }
        Ok(())
    }

    /// Reads a run of pages, leaves out what is zero, and sends the rest.
    fn send_piece(
        &mut self,
        machine: &dyn SourceMachine,
        pass: &Pass,
        piece: PageRange,
        totals: &mut PassTotals,
        to: &mut impl Write,
    ) -> Result<(), SendError> {
        totals.seen += piece.count;
        let length = usize::try_from(piece.bytes()).expect("a piece is 256 KiB at most");
        let mut contents = std::mem::take(&mut self.contents);
        contents.resize(length, 0);
        machine
            .ram()
            .read(piece, &mut contents)
            .map_err(|e| MachineError::new(Code::HostIo, "reading guest RAM", e))?;

        self.header.runs.clear();
        for (page, bytes) in (piece.start..).zip(contents.chunks_exact(PAGE)) {
            #[cfg(feature = "mutate")]
            crate::mutate::note_sent(page, bytes);
            let content = if bytes == ZERO_PAGE { Content::Zero } else { Content::Data };
            match self.header.runs.last_mut() {
                Some(run) if run.content == content => run.range.count += 1,
                _ => self.header.runs.push(Run { range: PageRange::new(page, 1), content }),
            }
        }
        #[cfg(feature = "mutate")]
        crate::mutate::drop_page(&mut self.header);
        if pass.kind() == PassKind::First {
            totals.skipped += self.header.zero_pages();
        }
        let data: Vec<&[u8]> = self
            .header
            .runs
            .iter()
            .filter(|run| run.content == Content::Data)
            .map(|run| {
                let start = usize::try_from((run.range.start - piece.start) * PAGE_SIZE)
                    .expect("a piece is 256 KiB at most");
                let length = usize::try_from(run.range.bytes()).expect("as above");
                &contents[start..start + length]
            })
            .collect();
        if pass.kind() == PassKind::First {
            self.header.runs.retain(|run| run.content == Content::Data);
        }
        let sent = self.write(pass, &data, totals, to);
        drop(data);
        self.contents = contents;
        sent
    }

    /// Sends one frame and its contents, as one write where the connection takes it.
    fn write(
        &mut self,
        pass: &Pass,
        contents: &[&[u8]],
        totals: &mut PassTotals,
        to: &mut impl Write,
    ) -> Result<(), SendError> {
        if self.header.runs.is_empty() {
            return Ok(());
        }
        self.header.pass = pass.number();
        self.table.clear();
        self.header.encode_into(&mut self.table);
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(contents.len() + 1);
        slices.push(IoSlice::new(&self.table));
        slices.extend(contents.iter().map(|part| IoSlice::new(part)));
        write_all_vectored(to, &mut slices).map_err(SendError::Link)?;

        totals.data += self.header.data_pages();
        totals.zero += self.header.zero_pages();
        totals.bytes += self.table.len() as u64 + self.header.data_pages() * PAGE_SIZE;
        Ok(())
    }
}

/// `Write::write_all_vectored` of the standard library is not stable yet.
fn write_all_vectored(to: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        match to.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
